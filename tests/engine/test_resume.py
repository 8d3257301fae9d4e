import copy
import logging
import re
import subprocess
import sys

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from lite_focus_detr.engine.resume import (
    changed_options,
    continue_command,
    load_optimizer_state,
    parameter_names,
    require_resumable,
    restart_scheduler,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)


def optimizer_of(model, groups, lr):
    """AdamW whose groups have the parameters of the given names."""
    named = dict(model.named_parameters())
    parameters = [{"params": [named[name] for name in group]} for group in groups]
    return torch.optim.AdamW(parameters, lr=lr)


NAMES = ["first.weight", "first.bias", "second.weight", "second.bias"]


def test_each_parameter_gets_its_own_state_in_other_groups_and_the_rates_stay():
    model = Model()
    before = optimizer_of(model, [NAMES[:2], NAMES[2:]], lr=0.1)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    before.step()
    saved = parameter_names(before, model)
    assert saved == NAMES
    other = [["second.bias"], ["first.bias", "second.weight", "first.weight"]]
    after = optimizer_of(model, other, lr=0.3)
    names = parameter_names(after, model)
    load_optimizer_state(after, before.state_dict(), saved, names)
    assert [group["lr"] for group in after.param_groups] == [0.3, 0.3]
    for number, parameter in enumerate(model.parameters()):
        # One step of Adam: the first moment is (1 - beta1) times the gradient.
        expected = torch.full_like(parameter, 0.1 * (number + 1))
        torch.testing.assert_close(after.state[parameter]["exp_avg"], expected)
        assert after.state[parameter]["step"] == 1


@pytest.mark.fault(area="resuming", expected="refused")
@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
def test_states_of_another_shape_are_refused_with_their_name(key):
    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = optimizer_of(model, [NAMES], lr=0.1)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][2][key] = torch.ones(3, 2)
    before = copy.deepcopy(optimizer.state_dict())
    found = rf"{key} of second\.weight, .* shape \(3, 2\), the parameter \(2, 2\): it is damaged"
    with pytest.raises(ValueError, match=found):
        load_optimizer_state(optimizer, state, NAMES, NAMES)
    assert str(optimizer.state_dict()) == str(before)


def test_the_schedule_is_that_of_the_configured_rates_at_the_restored_iteration():
    optimizer = optimizer_of(Model(), [NAMES], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step >= 7))
    scheduler.last_epoch, scheduler.base_lrs = 7, [0.2]
    restart_scheduler(scheduler, optimizer)
    assert scheduler.base_lrs == [0.5]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


CFG = {
    "SEED": -1,
    "OUTPUT_DIR": "a",
    "SOLVER": {"BASE_LR": 0.1, "STEPS": (1, 2)},
    "MODEL": {"N": {}, "QUERIES": 3},
}


def config(**changes):
    cfg = CfgNode(CFG)
    cfg.merge_from_list(
        [x for pair in changes.items() for x in (pair[0].replace("__", "."), pair[1])]
    )
    return cfg


def test_options_that_changed_are_found_but_not_those_without_effect():
    saved = config().dump()
    assert changed_options(saved, config()) == {}
    cfg = config(SOLVER__STEPS=(1, 3), SOLVER__BASE_LR=0.2, OUTPUT_DIR="b")
    assert changed_options(saved, cfg) == {
        "SOLVER.BASE_LR": (0.1, 0.2),
        "SOLVER.STEPS": ([1, 2], [1, 3]),
    }


def contents(**changes):
    trainer = {"_trainer": {}, "config": config().dump(), "stream": {"seed": 12}}
    return {"model": Model().state_dict(), "trainer": trainer, **changes}


@pytest.mark.parametrize("place", ["detector", "trainer"])
def test_options_that_changed_are_shown(place, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)
    saved = contents()
    saved["trainer"].pop("config")
    saved.setdefault(place, {})["config"] = config().dump()
    require_resumable("a.pth", saved, Model(), config(SOLVER__BASE_LR=0.2))
    assert re.search(r"SOLVER\.BASE_LR +0\.1 +0\.2", caplog.text)


def test_a_checkpoint_of_the_same_model_is_resumed_with_its_seed():
    for seed in (-1, 12):
        require_resumable("a.pth", contents(), Model(), config(SEED=seed))


def test_another_seed_is_refused_with_what_to_set():
    with pytest.raises(ValueError, match=r"a.pth with SEED 5: .* of seed 12; set SEED 12"):
        require_resumable("a.pth", contents(), Model(), config(SEED=5))


@pytest.mark.parametrize(
    ("now", "result"),
    [
        (["a", "b", "c"], None),
        (
            ["b", "a", "c"],
            r"cannot resume from a\.pth: .* were a, b, c before, are b, a, c now",
        ),
        (["a", "b", "d"], "taken for renamed"),
    ],
)
def test_classes_in_another_order_are_not_resumed(now, result, make_cfg, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)
    name = f"classes_{'_'.join(now)}"
    MetadataCatalog.get(name).thing_classes = now
    cfg = make_cfg("DATASETS.TRAIN", (name,))
    saved = contents(detector={"class_names": ["a", "b", "c"], "config": cfg.dump()})
    if result and "cannot" in result:
        with pytest.raises(ValueError, match=result):
            require_resumable("a.pth", saved, Model(), cfg)
    else:
        require_resumable("a.pth", saved, Model(), cfg)
        assert (result or "") in caplog.text
        assert ("renamed" in caplog.text) == (result is not None)


def test_another_model_is_refused_with_the_keys_that_changed():
    other = {"model": {**Model().state_dict(), "second.bias": torch.zeros(3)}}
    changed = config(MODEL__QUERIES=4, SOLVER__BASE_LR=0.2)
    with pytest.raises(ValueError, match=r"another model \(MODEL.QUERIES was 3, is 4\); set it"):
        require_resumable("a.pth", contents(**other), Model(), changed)
    with pytest.raises(ValueError, match=r"another model \(tensors differ: second.bias\)"):
        require_resumable("a.pth", contents(**other), Model(), config())


@pytest.mark.parametrize("trainer", [None, {}, {"iteration": 3}])
def test_a_file_without_the_state_of_a_training_is_refused(trainer):
    with pytest.raises(ValueError, match=r"a.pth has no state of a training: .*MODEL.WEIGHTS"):
        require_resumable("a.pth", contents(trainer=trainer), Model(), config())


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ("train_net.py --config-file a.yaml", "python train_net.py --resume --config-file a.yaml"),
        ("train_net.py --resume", "python train_net.py --resume"),
        ("/env/bin/lite-focus-detr train --data a", "lite-focus-detr train --resume --data a"),
        ("/x/lite_focus_detr/__main__.py train", "python -m lite_focus_detr train --resume"),
        ("/env/bin/lite-focus-detr sparsify --output a", "lite-focus-detr sparsify --output a"),
    ],
)
def test_the_command_to_continue_is_the_one_that_started(started, expected):
    assert continue_command(started.split()) == expected


def test_a_module_is_continued_as_a_module(tmp_path):
    (tmp_path / "own_tools").mkdir()
    (tmp_path / "own_tools/fit.py").write_text(
        "import sys\n"
        "from lite_focus_detr.engine.resume import continue_command\n"
        "print(continue_command(sys.argv))\n"
    )
    for start in (["-m", "own_tools.fit"], ["own_tools/fit.py"]):
        command = [sys.executable, *start, "--data", "a b"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout == f"python {' '.join(start)} --resume --data 'a b'\n"
