import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

from lite_focus_detr import model_zoo
from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.data import DetrDatasetMapper, dataset_mapper
from lite_focus_detr.data.errors import DataError, UnreadableImage
from lite_focus_detr.engine import description_of
from lite_focus_detr.modeling.encoder.sparse import SparseEncoder
from lite_focus_detr.tools import sparsify

#: What each encoder adds to a dense detector with proposals.
ADDED = {
    "focus": {"scorer"},
    "sparse": {"scorer"},
    "lite": {"linear12", "linear22", "norm22"},
    "lite_focus": {"scorer", "linear12", "linear22", "norm22"},
}


@pytest.fixture
def dense(small_config, tmp_path, monkeypatch):
    """Configuration and weights of a dense detector, with few images to train with."""
    monkeypatch.setattr(sparsify, "setup_logger", lambda **_: None)
    monkeypatch.setattr(sparsify, "KEEP_RATIOS", (0.5, 1.0))
    small_config.merge_from_list(
        [
            *("MODEL.DETR.QUERY_SELECTION", "mixed"),
            *("MODEL.DETR.ENCODER.NUM_LAYERS", 2),
            *("MODEL.DETR.ENCODER.DROPOUT", 0.5),
            *("MODEL.BACKBONE.NAME", "build_timm_backbone"),
            *("MODEL.TIMM.NAME", "test_resnet"),
            *("DATASETS.SHAPES.NUM_TRAIN", 4),
            *("SOLVER.IMS_PER_BATCH", 2),
            *("SOLVER.BASE_LR", 0.01),
            *("DATALOADER.NUM_WORKERS", 0),
            *("INPUT.CROP.ENABLED", False),
            *("INPUT.MIN_SIZE_TRAIN", (48,)),
        ]
    )
    torch.manual_seed(0)
    model = build_model(small_config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    torch.save({"model": model.state_dict()}, tmp_path / "dense.pth")
    (tmp_path / "dense.yaml").write_text(small_config.dump())
    threads = torch.get_num_threads()
    yield model.state_dict()
    torch.set_num_threads(threads)


def run(tmp_path, encoder, *arguments):
    files = ["--config-file", str(tmp_path / "dense.yaml"), "--output", str(tmp_path / "sparse")]
    files += ["--weights", str(tmp_path / "dense.pth"), "--encoder", encoder, "--iterations", "2"]
    sparsify.main([*files, *arguments])
    path = tmp_path / "sparse/added/model_final.pth"
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize("encoder", ADDED)
def test_only_what_the_encoder_adds_is_trained(dense, tmp_path, encoder):
    state = run(tmp_path, encoder)
    for name, tensor in dense.items():
        assert torch.equal(state[name], tensor), name
    added = {name for name in state if name not in dense}
    assert {part for name in added for part in name.split(".") if part in sparsify.ADDED} == (
        ADDED[encoder]
    )
    report = (tmp_path / "sparse/sparsify.md").read_text()
    assert "- dense: " in report
    assert f"- {encoder}, 2 iterations of what it adds: " in report
    assert ("keep ratio" in report) == (encoder != "lite")


def test_what_is_added_moves_and_everything_does_in_the_fine_tuning(dense, tmp_path):
    first = run(tmp_path, "sparse", "--fine-tune", "1")
    path = tmp_path / "sparse/fine_tuned/model_final.pth"
    second = torch.load(path, weights_only=True)["model"]
    name = "encoder.layers.0.linear1.weight"
    assert torch.equal(first[name], dense[name])
    assert not torch.equal(second[name], first[name])
    scorer = "encoder.scorer.layer1.1.weight"
    assert not torch.equal(second[scorer], first[scorer])


@pytest.mark.parametrize(("fine_ap", "taken"), [(49.9, "added"), (50.0, "fine_tuned")])
def test_a_fine_tuning_that_lost_is_not_taken(dense, tmp_path, monkeypatch, fine_ap, taken):
    trained, measured, aps = sparsify.train, [], iter([50.0, fine_ap])
    monkeypatch.setattr(sparsify, "train", lambda *arguments: (trained(*arguments)[0], next(aps)))
    budgets = sparsify.measure_budgets
    monkeypatch.setattr(
        sparsify,
        "measure_budgets",
        lambda cfg, model, ratios: measured.append(model) or budgets(cfg, model, ratios),
    )
    run(tmp_path, "sparse", "--fine-tune", "1")
    report = (tmp_path / "sparse/sparsify.md").read_text()
    assert "- sparse, 2 iterations of what it adds: 50.0 AP\n" in report
    assert f"- sparse, 1 iterations of everything: {fine_ap} AP\n" in report
    assert f"- weights to use: {taken}/model_final.pth\n" in report
    saved = torch.load(tmp_path / f"sparse/{taken}/model_final.pth", weights_only=True)["model"]
    for name, tensor in measured[0].state_dict().items():
        assert torch.equal(saved[name], tensor), name


def test_the_same_command_again_says_the_same(dense, tmp_path):
    states, reports = [], []
    for _ in range(2):
        states.append(run(tmp_path, "lite", "--fine-tune", "1"))
        reports.append((tmp_path / "sparse/sparsify.md").read_text())
    assert reports[0] == reports[1]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


def test_shortcuts_are_fitted_to_the_dense_encoder(dense, tmp_path):
    state = run(tmp_path, "sparse")
    options = ["MODEL.WEIGHTS", str(tmp_path / "dense.pth")]
    dense_cfg = model_zoo.get_config(str(tmp_path / "dense.yaml"), options)
    model = build_model(dense_cfg).eval()
    model.load_state_dict(dense)
    (record, *_) = DatasetCatalog.get(dense_cfg.DATASETS.TRAIN[0])
    image = DetrDatasetMapper(dense_cfg, is_train=False)(record)
    with torch.inference_mode():
        outputs = model.forward_outputs(model.preprocess_image([image]))
        last = sparsify.sparse_config(dense_cfg, "sparse", 0.3)
        encoder = build_model(last).encoder
        names = {name: state[f"encoder.{name}"] for name in encoder.state_dict()}
        encoder.load_state_dict(names)
        shortcuts, tokens = encoder.shortcuts, outputs.tokens
        predicted = shortcuts(1, tokens.features, shortcuts.look_around(tokens))
    missed = (outputs.memory - tokens.features).norm()
    assert (outputs.memory - predicted).norm() < 0.5 * missed


def test_what_is_evaluated_and_saved_has_the_fitted_shortcuts(dense, tmp_path, monkeypatch):
    test, seen = sparsify.DetrTrainer.test.__func__, []

    def remember(cls, cfg, model, evaluators=None):
        seen.append({k: v.clone() for k, v in model.state_dict().items() if "shortcut" in k})
        return test(cls, cfg, model, evaluators)

    monkeypatch.setattr(sparsify.AddedPartsTrainer, "test", classmethod(remember))
    state = run(tmp_path, "sparse")
    (evaluated,) = seen
    fitted = [tensor for name, tensor in evaluated.items() if ".linears." in name]
    assert fitted
    assert all(tensor.any() for tensor in fitted)
    assert all(torch.equal(state[name], tensor) for name, tensor in evaluated.items())
    evaluations = [
        json.loads(line)
        for line in (tmp_path / "sparse/added/metrics.json").read_text().splitlines()
        if "bbox/AP" in line
    ]
    assert len(evaluations) == 1


def test_a_training_that_ended_before_the_fit_goes_on_with_it(dense, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(sparsify.AddedPartsTrainer, "fit_shortcuts", fail)
        with pytest.raises(RuntimeError, match="power"):
            run(tmp_path, "sparse")
    path = tmp_path / "sparse/added/model_final.pth"
    before = torch.load(path, weights_only=True)["model"]
    after = run(tmp_path, "sparse")
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == ("shortcuts" not in name), name


def test_nothing_is_fitted_after_a_step_that_failed(dense, tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sparsify.AddedPartsTrainer, "run_step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, "sparse")
    assert not (tmp_path / "sparse/added/model_final.pth").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "0"], "error: --iterations is 0; it must be at least 1"),
        (["--fine-tune", "-1"], "error: --fine-tune is -1; it must be at least 0"),
    ],
)
def test_too_few_iterations_are_one_line(dense, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, "sparse", *options)


def test_a_fine_tuning_that_began_with_other_scores_is_not_gone_on_with(dense, tmp_path):
    run(tmp_path, "lite", "--fine-tune", "1")
    shutil.rmtree(tmp_path / "sparse/added")
    with pytest.raises(SystemExit, match=r"fine_tuned has a training that began with another"):
        run(tmp_path, "lite", "--fine-tune", "1")
    shutil.rmtree(tmp_path / "sparse/fine_tuned")
    run(tmp_path, "lite", "--fine-tune", "1")


def test_weights_of_the_dense_detector_are_asked_for(dense, tmp_path):
    files = ["--config-file", str(tmp_path / "dense.yaml"), "--output", str(tmp_path / "sparse")]
    with pytest.raises(SystemExit, match="error: --weights is missing: the file of a trained"):
        sparsify.main([*files, "--encoder", "lite", "--opts", "MODEL.WEIGHTS", ""])


def test_a_test_set_without_objects_is_refused(dense, tmp_path, monkeypatch):
    nothing_to_find = {"bbox": {"AP": float("nan")}}
    monkeypatch.setattr(sparsify.DetrTrainer, "test", lambda *_: nothing_to_find)
    with pytest.raises(SystemExit, match="the dense detector has no AP on shapes_val, "):
        run(tmp_path, "lite")
    assert not (tmp_path / "sparse/added").exists()


@pytest.mark.parametrize("evaluations", [0, 1, 2])
def test_what_ends_an_evaluation_is_one_line(dense, tmp_path, monkeypatch, evaluations):
    test, count = sparsify.DetrTrainer.test, iter(range(3))

    def fail(*arguments):
        if next(count) == evaluations:
            raise DataError("damaged.png: cannot be read")
        return test(*arguments)

    monkeypatch.setattr(sparsify.DetrTrainer, "test", staticmethod(fail))
    with pytest.raises(SystemExit, match=r"error: damaged\.png: cannot be read"):
        run(tmp_path, "sparse")


def test_an_image_that_cannot_be_read_does_not_prevent_the_fit(dense, tmp_path, monkeypatch):
    read, calls = dataset_mapper.read_image, []

    def fail_first(path, image_format):
        calls.append(path)
        if len(calls) == 1:
            raise UnreadableImage("damaged")
        return read(path, image_format)

    fit = sparsify.AddedPartsTrainer.fit_shortcuts

    def fit_with_a_damaged_image(self, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(dataset_mapper, "read_image", fail_first)
            fit(self, *arguments)

    monkeypatch.setattr(sparsify.AddedPartsTrainer, "fit_shortcuts", fit_with_a_damaged_image)
    state = run(tmp_path, "sparse", "--opts", "INPUT.SKIP_UNREADABLE", "True")
    assert len(calls) == 4
    assert state["encoder.shortcuts.linears.0.weight"].any()


def test_files_of_the_dense_detector_are_left_alone(dense, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "dense.yaml"
    own = path.read_text().replace(f"OUTPUT_DIR: {tmp_path}/output", "OUTPUT_DIR: ./its_own")
    path.write_text(own)
    assert "its_own" in own
    run(tmp_path, "sparse")
    assert not (tmp_path / "its_own").exists()


def test_scores_learn_from_a_decoder_that_sees_all_tokens_updated(dense, tmp_path, monkeypatch):
    updated, losses = [], SparseEncoder.losses

    def spy(self, output, tokens, targets, sampling):
        updated.append((list(output.trace.budgets), tokens.num_valid))
        return losses(self, output, tokens, targets, sampling)

    monkeypatch.setattr(SparseEncoder, "losses", spy)
    # Budgets of the fine-tuning do not count.
    run(tmp_path, "sparse", "--opts", "SOLVER.KEEP_RATIO_RANGE", "[0.1, 0.6]")
    assert len(updated) == 2
    assert all(list(budgets) == list(counts) for budgets, counts in updated)


def test_without_labels_the_detections_are_learned(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(sparsify, "LEAST_SCORE", 0.0)
    state = run(tmp_path, "focus", "--without-labels")
    assert "encoder.scorer.layer1.1.weight" in state
    labels = json.loads((tmp_path / "sparse/detected.json").read_text())
    assert len(labels["images"]) == 4
    # The detector returns its ten queries.
    assert len(labels["annotations"]) == 40
    contents = torch.load(tmp_path / "sparse/added/model_final.pth", weights_only=True)
    names = MetadataCatalog.get("shapes_train").thing_classes
    assert list(description_of(contents, "").class_names) == list(names)
    DatasetCatalog.remove("detected")
    MetadataCatalog.remove("detected")


def test_a_detector_that_finds_nothing_gives_no_labels(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(sparsify, "LEAST_SCORE", 1.0)
    with pytest.raises(SystemExit, match=r"finds nothing with a score of 1\.0 or more in shapes"):
        run(tmp_path, "focus", "--without-labels")


def test_images_that_cannot_be_read_are_skipped_where_labels_are_detected(
    dense, tmp_path, monkeypatch
):
    monkeypatch.setattr(sparsify, "LEAST_SCORE", 0.0)
    read, calls = dataset_mapper.read_image, []

    def fail_once(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise UnreadableImage("cannot read it")
        return read(*arguments, **options)

    options = ["MODEL.WEIGHTS", str(tmp_path / "dense.pth"), "INPUT.SKIP_UNREADABLE", "True"]
    cfg = model_zoo.get_config(str(tmp_path / "dense.yaml"), options)
    sparsify.prepare_run(cfg, sparsify.default_argument_parser().parse_args(["--eval-only"]))
    model = build_model(cfg)
    model.load_state_dict(dense)
    monkeypatch.setattr(dataset_mapper, "read_image", fail_once)
    sparsify.detect_labels(cfg, model, tmp_path, 0.0)
    labels = json.loads((tmp_path / "detected.json").read_text())
    assert len(labels["images"]) == 3


def test_another_detector_does_not_take_what_was_trained_for_the_last(dense, tmp_path):
    run(tmp_path, "lite")
    report = (tmp_path / "sparse/sparsify.md").read_text()
    other = {name: 1.001 * tensor for name, tensor in dense.items()}
    torch.save({"model": other}, tmp_path / "dense.pth")
    with pytest.raises(SystemExit, match="has the training of another dense detector"):
        run(tmp_path, "lite")
    assert (tmp_path / "sparse/sparsify.md").read_text() == report


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--keep-ratio", "0.5"], "MODEL.FOCUS.KEEP_RATIOS"), (["--iterations", "3"], "MAX_ITER 2")],
)
def test_other_settings_do_not_go_on_with_a_training(dense, tmp_path, arguments, named):
    run(tmp_path, "focus")
    with pytest.raises(SystemExit, match=f"has a training with .*{named}.* choose another"):
        run(tmp_path, "focus", *arguments)


def test_at_the_start_all_tokens_kept_are_the_dense_detector(dense, tmp_path):
    for encoder in ("focus", "sparse"):
        options = ["MODEL.WEIGHTS", str(tmp_path / "dense.pth")]
        dense_cfg = model_zoo.get_config(str(tmp_path / "dense.yaml"), options)
        cfg = sparsify.sparse_config(dense_cfg, encoder, 1.0)
        models = [build_model(x).eval() for x in (dense_cfg, cfg)]
        for model in models:
            model.load_state_dict(dense, strict=False)
        image = {"image": 255 * torch.rand(3, 48, 64)}
        outputs = [x.forward_outputs(x.preprocess_image([image])) for x in models]
        torch.testing.assert_close(*(x.memory for x in outputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["deformable", "deformable_two_stage", "dino"])
@pytest.mark.parametrize("encoder", ADDED)
def test_what_is_trained_is_what_a_dense_detector_of_any_host_lacks(tiny_config, encoder, family):
    cfg = tiny_config(family)
    dense_names = {name for name, _ in build_model(cfg).named_parameters()}
    model = sparsify.AddedPartsTrainer.build_model(sparsify.sparse_config(cfg, encoder, 0.3))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    added = {name for name, _ in model.named_parameters()} - dense_names
    # Shortcuts are fitted, not trained.
    assert trained == {name for name in added if "shortcuts" not in name}
    assert trained


def test_what_is_frozen_stays_in_evaluation_mode():
    norm = nn.BatchNorm1d(2).train()
    sparsify.KeepEvaluation([norm]).before_step()
    assert not norm.training


@pytest.mark.parametrize(
    ("architecture", "keep_ratio", "message"),
    [
        ("FocusDETR", 0.3, "is FocusDETR; only the dense encoder"),
        ("DeformableDETR", 1.5, r"--keep-ratio is 1.5; it must lie in \(0, 1\]"),
    ],
)
def test_what_cannot_be_made_sparse_is_said(tiny_config, architecture, keep_ratio, message):
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = architecture
    with pytest.raises(ValueError, match=message):
        sparsify.sparse_config(cfg, "focus", keep_ratio)


def write_published_dino(file):
    """A file with the names and shapes of a published DINO's, every tensor with values of its own;
    returns its tensors."""
    path = Path(__file__).parents[1] / "golden/manifests/dino_4scale_ideaofficial.json.gz"
    content = json.loads(gzip.decompress(path.read_bytes()))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: 0.02 * torch.rand(shape, generator=generator)
        for key, shape in content["tensors"].items()
    }
    tensors |= {key: tensors[same] for key, same in content["aliases"].items()}
    torch.save({"model": tensors}, file)
    return tensors


def write_coco(folder):
    """One image with the categories of COCO; returns the description."""
    Image.effect_noise((80, 64), 60).convert("RGB").save(folder / "1.jpg")
    box = {"id": 1, "image_id": 1, "category_id": 18, "bbox": [8, 8, 30, 20], "area": 600}
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 80, "height": 64}],
        "annotations": [{**box, "iscrowd": 0}],
        "categories": [x for x in COCO_CATEGORIES if x["isthing"]],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def test_of_a_published_file_only_the_scores_are_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(sparsify, "setup_logger", lambda **_: None)
    monkeypatch.setattr(sparsify, "KEEP_RATIOS", (0.3,))
    published = write_published_dino(tmp_path / "dino.pth")
    data = str(write_coco(tmp_path))
    changes = {
        "DATASETS.COCO": [[name, data, str(tmp_path)] for name in ("one", "other")],
        "DATASETS.TRAIN": ("one",),
        "DATASETS.TEST": ("other",),
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.CROP.ENABLED": False,
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 1,
        "DATALOADER.NUM_WORKERS": 0,
        "MODEL.DEVICE": "cpu",
    }
    options = [str(word) for item in changes.items() for word in item]
    files = ["--weights", str(tmp_path / "dino.pth"), "--output", str(tmp_path / "sparse")]
    arguments = ["--config-file", "dino_r50_36ep", "--encoder", "focus", "--iterations", "1"]
    sparsify.main([*arguments, *files, "--opts", *options])
    cfg = model_zoo.get_config("dino_r50_36ep", ["MODEL.DEVICE", "cpu"])
    weights, _ = convert_state_dict(published, cfg, expected=build_model(cfg).state_dict())
    state = torch.load(tmp_path / "sparse/added/model_final.pth", weights_only=True)["model"]
    assert weights.keys() < state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    added = {name for name in state if name not in weights}
    assert {name.split(".")[1] for name in added} == {"scorer", "shortcuts"}
