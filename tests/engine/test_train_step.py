import copy
import json
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from lite_focus_detr.engine import TrainStep


def weights_after(model, batches, steps, **settings):
    """Parameters after some steps of gradient descent, and the metrics of the last one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    trainer = TrainStep(model=model, data_loader=batches, optimizer=optimizer, **settings)
    with EventStorage() as storage:
        for trainer.iter in range(steps):
            trainer.run_step()
    return nn.utils.parameters_to_vector(model.parameters()).detach(), storage.latest()


def assert_accumulation_equals_large_batch(model, images, tolerance):
    start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    expected, large = weights_after(copy.deepcopy(model), [images] * 2, 2)
    single = [[image] for image in images] * 2
    actual, small = weights_after(model, single, 2, accumulation_steps=len(images))
    assert (expected - start).norm() > 1e-4
    assert (actual - expected).norm() / (expected - start).norm() < tolerance
    assert small["total_loss"][0] == pytest.approx(large["total_loss"][0], rel=tolerance)


class BoxRegression(nn.Module):
    """Predicts one box per image from its mean colour: the smallest thing with DETR's losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 4)

    def forward(self, batch, num_boxes):
        means = torch.stack([image["image"].double().mean((1, 2)) / 255 for image in batch])
        boxes = self.linear(means).tanh()
        pairs = zip(boxes, batch, strict=True)
        errors = [(b - x["instances"].gt_boxes.tensor / 64).pow(2).sum() for b, x in pairs]
        background = boxes.pow(2).sum()
        return {"box": torch.stack(errors).sum() / num_boxes, "class": background / num_boxes}


@pytest.mark.parametrize("num_boxes", [(2, 1, 0, 1), (0, 0, 1, 0), (0, 0, 0, 0)])
def test_accumulated_gradients_equal_those_of_one_large_batch(make_image, num_boxes):
    images = [make_image(seed, count) for seed, count in enumerate(num_boxes)]
    assert_accumulation_equals_large_batch(BoxRegression().double(), images, 1e-12)


@pytest.mark.parametrize("selection", ["learned", "two_stage"])
@pytest.mark.parametrize("num_boxes", [(2, 1, 0, 1), (0, 0, 0, 0)])
def test_accumulated_gradients_of_a_detector_equal_those_of_one_large_batch(
    make_cfg, make_image, selection, num_boxes
):
    cfg = make_cfg("MODEL.DETR.BOX_REFINE", True, "MODEL.DETR.QUERY_SELECTION", selection)
    torch.manual_seed(0)
    images = [make_image(seed, count) for seed, count in enumerate(num_boxes)]
    # The focal loss is computed in float32.
    assert_accumulation_equals_large_batch(build_model(cfg).double(), images, 1e-6)


class Quadratic(nn.Module):
    """Loss ``scale * w**2 / 2``, whose gradient is ``scale * w``."""

    def __init__(self, *, scale: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.scale = scale
        self.seen_dtypes = []

    def forward(self, batch, num_boxes):
        self.seen_dtypes.append((self.weight[None] @ self.weight[:, None]).dtype)
        return {"loss": self.scale * self.weight.pow(2).sum() / 2}


def step(model, optimizer=None, **settings):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1.0)
    batch = [{"instances": [], "file_name": "a.jpg"}]
    trainer = TrainStep(model=model, data_loader=[batch] * 8, optimizer=optimizer, **settings)
    trainer.iter = 7
    with EventStorage():
        trainer.run_step()
    return trainer


def test_without_a_bound_gradients_are_not_clipped():
    model = Quadratic(scale=0.5)
    step(model)
    assert model.weight.tolist() == [1.5, 2.0]


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_each_step_has_gradients_of_its_own(accumulation_steps):
    batches = [[{"instances": []}]] * 6
    settings = {"accumulation_steps": accumulation_steps}
    weights, metrics = weights_after(Quadratic(scale=0.5), batches, 3, **settings)
    # The learning rate is 0.05.
    factor = 1 - 0.05 * 0.5
    assert weights.tolist() == pytest.approx([3 * factor**3, 4 * factor**3], rel=1e-6)
    assert metrics["total_loss"][0] == pytest.approx(0.5 * 25 * factor**4 / 2, rel=1e-6)


@pytest.fixture
def process_group(tmp_path):
    """A group of one process, so that a model can be wrapped for several."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_gradients_travel_between_the_processes_once_per_accumulated_step():
    model, travelled = Quadratic(scale=1.0), []

    def count(state, bucket):
        travelled.append(len(model.seen_dtypes))  # batches so far
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    wrapped = DistributedDataParallel(model)
    wrapped.register_comm_hook(None, count)
    step(wrapped, accumulation_steps=3)
    assert travelled == [3]


def test_the_norm_of_all_gradients_together_is_clipped():
    model = Quadratic(scale=1.0)
    step(model, max_grad_norm=0.1)
    # The gradient (3, 4) has norm 5 and becomes (0.06, 0.08).
    assert model.weight.tolist() == pytest.approx([3 - 0.06, 4 - 0.08], abs=1e-6)


def scaled_step(model, init_scale):
    """A step with loss scaling, in full precision so that it runs without a GPU."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batch = [{"instances": []}]
    trainer = TrainStep(model=model, data_loader=[batch], optimizer=optimizer, max_grad_norm=0.1)
    trainer.grad_scaler = GradScaler("cpu", init_scale=init_scale)
    with EventStorage():
        trainer.run_step()
    return trainer


def test_the_loss_scale_is_undone_before_clipping():
    model = Quadratic(scale=1.0)
    trainer = scaled_step(model, 1024.0)
    assert model.weight.tolist() == pytest.approx([3 - 0.06, 4 - 0.08], abs=1e-6)
    assert trainer.state_dict()["grad_scaler"]["scale"] == 1024.0


def test_an_overflow_of_the_scaled_gradient_skips_the_step_and_halves_the_scale():
    model = Quadratic(scale=1e10)
    trainer = scaled_step(model, 1e30)
    assert model.weight.tolist() == [3.0, 4.0]
    assert trainer.grad_scaler.get_scale() == pytest.approx(5e29)


def test_bfloat16_computes_in_low_precision_and_updates_float32_weights():
    model = Quadratic(scale=1.0)
    step(model, amp_dtype=torch.bfloat16)
    assert model.seen_dtypes == [torch.bfloat16]
    assert model.weight.dtype == torch.float32
    assert model.weight.tolist() == pytest.approx([0.0, 0.0], abs=0.05)


def test_a_detector_trains_in_bfloat16_on_the_cpu(make_cfg, make_image):
    model = build_model(make_cfg())
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [[make_image(0, 2), make_image(1, 0)]]
    trainer = TrainStep(
        model=model, data_loader=batches, optimizer=optimizer, amp_dtype=torch.bfloat16
    )
    with EventStorage():
        trainer.run_step()
    after = model.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not torch.equal(before["neck.level_embed"], after["neck.level_embed"])


def test_float16_on_the_cpu_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"float16 needs a GPU.*SOLVER\.AMP\.DTYPE bfloat16"):
        step(Quadratic(scale=1.0), amp_dtype=torch.float16)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    model = Quadratic(scale=float("nan"))
    with pytest.raises(FloatingPointError, match=r"iteration 7: .*'loss': nan.*a\.jpg"):
        step(model)
    assert model.weight.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("max_grad_norm", [1.0, None])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(max_grad_norm):
    class Cliff(Quadratic):
        def forward(self, batch, num_boxes):
            return {"loss": (self.weight - 3.0).abs().sqrt().sum()}

    model = Cliff(scale=1.0)
    with pytest.raises(FloatingPointError, match="gradient is not finite at iteration 7"):
        step(model, max_grad_norm=max_grad_norm)
    assert model.weight.tolist() == [3.0, 4.0]


def read_report(folder, iteration=7):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads((folder / f"nonfinite_{iteration}.json").read_text(), parse_constant=refuse)


@pytest.mark.fault(area="training", expected="stopped")
def test_a_loss_that_is_not_finite_leaves_a_report(tmp_path):
    class TwoLosses(Quadratic):
        def forward(self, batch, num_boxes):
            return super().forward(batch, num_boxes) | {"class": self.weight.sum()}

    with pytest.raises(FloatingPointError, match=r"are still finite.*nonfinite_7\.json has"):
        step(TwoLosses(scale=float("inf")), report_dir=str(tmp_path))
    report = read_report(tmp_path)
    assert (report["iteration"], report["reason"]) == (7, "a loss is not finite")
    (process,) = report["processes"]
    assert process == {"rank": 0, "losses": {"loss": "inf", "class": 7.0}, "images": ["a.jpg"]}
    assert report["parameters"] == [{"name": "weight", "weight": 5.0, "gradient": "inf"}]


def test_the_report_begins_with_the_parameters_that_are_worst(tmp_path):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = {"small": 1.0, "root": 0.0, "large": 100.0}
            self.weights = nn.ParameterDict(
                {k: nn.Parameter(torch.tensor([v])) for k, v in sizes.items()}
            )

        def forward(self, batch, num_boxes):
            square = self.weights["small"] ** 2 + self.weights["large"] ** 2
            return {"loss": (square + self.weights["root"].sqrt()).sum()}

    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        step(Several(), report_dir=str(tmp_path))
    rows = read_report(tmp_path)["parameters"]
    assert [row["name"] for row in rows] == ["weights.root", "weights.large", "weights.small"]
    assert [row["gradient"] for row in rows] == ["inf", 200.0, 2.0]


@pytest.mark.fault(area="training", expected="stopped")
def test_a_report_that_cannot_be_written_does_not_hide_the_cause(tmp_path):
    with pytest.raises(FloatingPointError, match=r"^a loss is not finite(?!.*has the details)"):
        step(Quadratic(scale=float("nan")), report_dir=str(tmp_path / "missing"))


@pytest.mark.fault(area="training", expected="stopped")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["weight", "exp_avg of weight", "exp_avg_sq of weight"])
def test_weights_and_states_that_are_not_finite_stop_before_they_are_saved(tmp_path, value, place):
    model = Quadratic(scale=1.0)
    trainer = step(model, torch.optim.AdamW(model.parameters(), lr=0.1), report_dir=str(tmp_path))
    trainer.require_finite_state()
    tensor = model.weight.data if place == "weight" else trainer.optimizer.state[model.weight]
    (tensor if place == "weight" else tensor[place.split()[0]])[1] = value
    found = rf"1 tensors are not finite \({place}\) at iteration 7(?!.*still finite)"
    with pytest.raises(FloatingPointError, match=found):
        trainer.require_finite_state()
    assert str(value) in json.dumps(read_report(tmp_path)["parameters"])


@pytest.mark.fault(area="training", expected="stopped")
@pytest.mark.parametrize(("overflows", "stops"), [(20, True), (19, False)])
def test_a_loss_scaler_may_skip_19_steps_in_a_row_but_not_20(overflows, stops):
    class Overflow(Quadratic):
        def forward(self, batch, num_boxes):
            scale = 1e30 if batch[0]["overflows"] else 1e-3
            return {"loss": scale * self.weight.pow(2).sum() / 2}

    model = Overflow(scale=1.0)
    pattern = [True] * 19 + [False] + [True] * overflows + [False]
    batches = [[{"instances": [], "overflows": overflow}] for overflow in pattern]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = TrainStep(model=model, data_loader=batches, optimizer=optimizer)
    trainer.grad_scaler = GradScaler("cpu", init_scale=1e38, backoff_factor=0.999)
    error = "has skipped 20 steps in a row at iteration 39"
    expected = pytest.raises(FloatingPointError, match=error) if stops else nullcontext()
    with EventStorage(), expected:
        for trainer.iter in range(len(pattern)):
            trainer.run_step()
    assert model.weight.isfinite().all()


def test_the_state_of_the_optimiser_is_saved_and_restored():
    model = Quadratic(scale=1.0)
    adam = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = step(model, adam).state_dict()
    restored = TrainStep(
        model=model, data_loader=[], optimizer=torch.optim.AdamW(model.parameters(), lr=0.5)
    )
    restored.load_state_dict(state)
    assert restored.iter == 7
    # The rate is that of the configuration, which may have changed; the moments are those saved.
    assert restored.optimizer.param_groups[0]["lr"] == 0.5
    moments = restored.optimizer.state[model.weight]["exp_avg"]
    assert moments.tolist() == pytest.approx([0.3, 0.4])  # (1 - 0.9) times the gradient


def test_the_loss_scale_is_restored():
    model = Quadratic(scale=1.0)
    state = scaled_step(model, 1024.0).state_dict()
    restored = TrainStep(
        model=model, data_loader=[], optimizer=torch.optim.SGD(model.parameters(), lr=1.0)
    )
    restored.grad_scaler = GradScaler("cpu", init_scale=2.0)
    restored.load_state_dict(state)
    assert restored.grad_scaler.get_scale() == 1024.0


@pytest.mark.parametrize(("order", "norm"), [(1.0, 7.0), (float("inf"), 4.0)])
def test_the_norm_is_of_the_given_order(order, norm):
    model = Quadratic(scale=1.0)
    step(model, max_grad_norm=0.1, norm_type=order)
    expected = [3 - 3 * 0.1 / norm, 4 - 4 * 0.1 / norm]
    assert model.weight.tolist() == pytest.approx(expected, abs=1e-6)
