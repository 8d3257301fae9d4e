import logging
import os
import re

import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from lite_focus_detr.data import register_datasets
from lite_focus_detr.engine import DetrCheckpointer, EMAHook, checkpointer, read_checkpoint
from lite_focus_detr.engine.detector_record import Classes, DetectorRecord


@pytest.fixture(autouse=True)
def captured_logs(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)
    caplog.set_level(logging.INFO, "lite_focus_detr")


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(cfg, tmp_path, names, seed=0):
    """A model, with checkpoints of these names in this order of age."""
    model = build(cfg, seed)
    saver = DetrCheckpointer(model, str(tmp_path), cfg=cfg)
    for age, name in enumerate(names):
        saver.save(name, iteration=age)
        os.utime(tmp_path / f"{name}.pth", (1000 + age, 1000 + age))
    return model


def resume(cfg, tmp_path, path=""):
    model = build(cfg, seed=99)
    checkpointer = DetrCheckpointer(model, str(tmp_path), cfg=cfg)
    return model, checkpointer.resume_or_load(path, resume=True)


def test_a_saved_model_is_loaded_again_with_the_extra_data(make_cfg, tmp_path):
    cfg = make_cfg()
    model = saved(cfg, tmp_path, ["model_0000009"])
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    other = build(cfg, seed=1)
    path = str(tmp_path / "model_0000009.pth")
    extra = DetrCheckpointer(other, cfg=cfg).load(path)
    assert same_weights(model, other)
    assert extra["iteration"] == 0


@pytest.mark.parametrize("fault", ["truncated", "empty", "tag empty", "tag missing", "tag wrong"])
def test_resume_takes_the_newest_readable_file(make_cfg, tmp_path, caplog, fault):
    cfg = make_cfg()
    model = saved(cfg, tmp_path, ["model_0000009", "model_0000019"])
    newest, tag = tmp_path / "model_0000019.pth", tmp_path / "last_checkpoint"
    if fault == "truncated":
        newest.write_bytes(newest.read_bytes()[:-1000])
    elif fault == "empty":
        newest.write_bytes(b"")
    elif fault == "tag missing":
        tag.unlink()
    else:
        tag.write_text("" if fault == "tag empty" else "model_0000029.pth")
    resumed, extra = resume(cfg, tmp_path)
    assert same_weights(model, resumed)
    damaged = fault in ("truncated", "empty")
    assert extra["iteration"] == (0 if damaged else 1)
    assert any("Skipped" in m and "model_0000019.pth" in m for m in caplog.messages) == damaged


def test_resume_skips_files_that_are_not_from_a_training(make_cfg, tmp_path, caplog):
    cfg = make_cfg()
    saved(cfg, tmp_path, ["model_0000009"])
    torch.save({"model": build(cfg, seed=5).state_dict()}, tmp_path / "pretrained.pth")
    (tmp_path / "last_checkpoint").unlink()
    assert resume(cfg, tmp_path)[1]["iteration"] == 0
    assert "pretrained.pth holds weights only" in caplog.text


def test_resume_takes_the_tagged_file_whatever_the_times_of_the_files(make_cfg, tmp_path):
    cfg = make_cfg()
    model = saved(cfg, tmp_path, ["first", "second", "third"])
    (tmp_path / "last_checkpoint").write_text("second.pth")
    resumed, extra = resume(cfg, tmp_path)
    assert same_weights(model, resumed)
    assert extra["iteration"] == 1


@pytest.mark.parametrize("fault", ["tag missing", "tagged file truncated"])
def test_resume_without_the_tagged_file_takes_the_latest_iteration(make_cfg, tmp_path, fault):
    cfg = make_cfg()
    saved(cfg, tmp_path, ["model_a", "model_b", "model_c"])
    for age, name in enumerate(["model_c", "model_b", "model_a"]):  # as after a copy
        os.utime(tmp_path / f"{name}.pth", (1000 + age, 1000 + age))
    if fault == "tag missing":
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "model_c.pth").write_bytes(b"")
    assert resume(cfg, tmp_path)[1]["iteration"] == (2 if fault == "tag missing" else 1)


def test_among_files_of_one_iteration_resume_takes_the_last_written(make_cfg, tmp_path):
    cfg = make_cfg()
    for age, name in enumerate(["b", "c", "a"]):
        path = tmp_path / f"{name}.pth"
        torch.save({"model": {}, "iteration": 7}, path)
        os.utime(path, (1000 + age, 1000 + age))
    checkpointer = DetrCheckpointer(build(cfg), str(tmp_path), cfg=cfg)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "a.pth")


def test_resume_without_any_readable_file_names_those_it_tried(make_cfg, tmp_path):
    cfg = make_cfg()
    saved(cfg, tmp_path, ["model_0000009"])
    (tmp_path / "model_0000009.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot resume in .*model_0000009\.pth \(0 bytes\)"):
        resume(cfg, tmp_path)


def damage(path, fault):
    """Make a checkpoint one that no training can go on from."""
    contents = torch.load(path, weights_only=True)
    path.unlink()
    if fault == "folder":
        path.mkdir()
    elif fault == "broken link":
        path.symlink_to("nowhere.pth")
    elif fault == "loop of links":
        path.symlink_to(path.name)
    elif fault == "pipe":
        os.mkfifo(path)
    elif fault == "text":
        path.write_text("\xff\xfe checkpoint", encoding="latin1")
    elif fault == "pickle with code":
        path.write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")
    else:
        if fault == "no trainer":
            del contents["trainer"]
        elif fault == "weights":
            contents["model"]["neck.level_embed"][0, 0] = float("nan")
        else:
            contents["trainer"]["_trainer"]["exp_avg"][0] = float(fault)
        torch.save(contents, path)


class TrainerState:
    """Stands for a trainer: an optimiser with one tensor."""

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"_trainer": {"exp_avg": torch.tensor([1.0, self.value])}}

    def load_state_dict(self, state):
        self.value = state["_trainer"]["exp_avg"][1].item()


FAULTS = [
    *("folder", "broken link", "loop of links", "pipe", "text", "pickle with code"),
    *("no trainer", "weights", "nan", "inf"),
]


@pytest.mark.fault(area="resuming", expected="survived")
@pytest.mark.parametrize(
    ("fault", "tag"),
    [
        *((fault, "right") for fault in FAULTS),
        *(("nan", "missing"), ("weights", "not text"), ("folder", "a folder")),
    ],
)
def test_resume_falls_back_whatever_is_wrong_with_newer_files(
    make_cfg, tmp_path, caplog, fault, tag
):
    cfg, model, trainer = make_cfg(), build(make_cfg()), TrainerState(0.0)
    checkpointer = DetrCheckpointer(model, str(tmp_path), cfg=cfg, trainer=trainer)
    for iteration in range(3):
        trainer.value = float(iteration)
        checkpointer.save(f"model_{iteration}", iteration=iteration)
    damage(tmp_path / "model_2.pth", fault)
    damage(tmp_path / "model_1.pth", "nan")
    if tag != "right":
        (tmp_path / "last_checkpoint").unlink()
    if tag == "not text":
        (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe\0model")
    elif tag == "a folder":
        (tmp_path / "last_checkpoint").mkdir()
    trainer.value = 7.0
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 0
    assert trainer.value == 0.0
    (warning,) = [m for m in caplog.messages if m.startswith("Skipped")]
    assert "model_2.pth" in warning
    found = "model_1.pth has NaN or infinite values in 1 tensors: trainer._trainer.exp_avg"
    assert found in warning


@pytest.mark.fault(area="training", expected="stopped")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["weights", "optimiser"])
def test_what_is_not_finite_is_not_saved(make_cfg, tmp_path, value, place):
    cfg = make_cfg()
    model, trainer = build(cfg), TrainerState(1.0)
    checkpointer = DetrCheckpointer(model, str(tmp_path), cfg=cfg, trainer=trainer)
    checkpointer.save("model_1", iteration=1)
    if place == "weights":
        model.neck.level_embed.data[0, 0] = value
    else:
        trainer.value = value
    name = r"model\.neck\.level_embed" if place == "weights" else r"trainer\._trainer\.exp_avg"
    with pytest.raises(FloatingPointError, match=rf"not saved: .*model_2\.pth has NaN .*: {name}"):
        checkpointer.save("model_2", iteration=2)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_1.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_1.pth"


def test_large_finite_values_are_saved(make_cfg, tmp_path):
    cfg = make_cfg()
    model = build(cfg)
    model.neck.level_embed.data.fill_(3e38)  # their sum is infinite
    DetrCheckpointer(model, str(tmp_path), cfg=cfg).save("model_1", iteration=1)
    assert torch.load(tmp_path / "model_1.pth", weights_only=True)["iteration"] == 1


def test_resuming_reads_a_file_once(make_cfg, tmp_path, monkeypatch):
    cfg = make_cfg()
    model = saved(cfg, tmp_path, ["model_0000009", "model_0000019"])
    read = []

    def read_and_note(path):
        read.append(os.path.basename(path))
        return read_checkpoint(path)

    monkeypatch.setattr(checkpointer, "read_checkpoint", read_and_note)
    assert same_weights(model, resume(cfg, tmp_path)[0])
    assert read == ["model_0000019.pth"]


def test_resume_with_nothing_to_resume_warns_and_loads_the_weights(make_cfg, tmp_path, caplog):
    cfg = make_cfg()
    model = saved(cfg, tmp_path, ["weights"])
    started, _ = resume(cfg, tmp_path / "new", str(tmp_path / "weights.pth"))
    assert same_weights(model, started)
    assert "Nothing to resume" in caplog.text


def test_a_missing_file_is_named(make_cfg):
    cfg = make_cfg()
    with pytest.raises(FileNotFoundError, match=r"no/such\.pth does not exist; check MODEL\.WEIGH"):
        DetrCheckpointer(build(cfg), cfg=cfg).load("no/such.pth")


def test_a_failed_download_is_named_with_the_remedy(make_cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    cfg, url = make_cfg(), "http://127.0.0.1:1/w.pth"  # nothing listens there
    pattern = rf"cannot download {url} \(MODEL\.WEIGHTS\): .*refused.*; download it elsewhere"
    with pytest.raises(ValueError, match=pattern):
        DetrCheckpointer(build(cfg), cfg=cfg).load(url)


def test_weights_of_another_architecture_are_refused_with_a_table(make_cfg, tmp_path):
    saved(make_cfg(), tmp_path, ["other"])
    cfg = make_cfg("MODEL.DETR.EMBED_DIM", 24)
    model, before = build(cfg), build(cfg)
    checkpointer = DetrCheckpointer(model, cfg=cfg)
    with pytest.raises(ValueError, match=r"other\.pth .*fits only \d+ of \d+ tensors") as error:
        checkpointer.load(str(tmp_path / "other.pth"))
    line, *table = str(error.value).splitlines()
    assert "DeformableDETR" in line
    assert any("encoder.layers" in row for row in table)
    assert any("neck.level_embed" in r and "(4, 16)" in r and "(4, 24)" in r for r in table)
    assert same_weights(model, before)
    # The failure leaves the checkpointer usable.
    saved(cfg, tmp_path, ["right"], seed=3)
    checkpointer.load(str(tmp_path / "right.pth"))


def test_a_few_missing_tensors_are_reported_but_accepted(make_cfg, tmp_path, caplog):
    cfg = make_cfg()
    state = build(cfg, seed=1).state_dict()
    del state["neck.level_embed"], state["encoder.layers.0.norm1.weight"]
    state["neck.level_embed"] = torch.zeros(4, 8)
    torch.save({"model": state}, tmp_path / "a.pth")
    model = build(cfg)
    DetrCheckpointer(model, cfg=cfg).load(str(tmp_path / "a.pth"))
    assert torch.equal(model.heads.class_embed[0].weight, state["heads.class_embed.0.weight"])
    assert "encoder.layers.0.norm1.weight" in caplog.text


@pytest.mark.parametrize("kept", ["many small tensors", "few large tensors"])
def test_half_of_the_tensors_and_half_of_the_weights_must_fit(make_cfg, tmp_path, kept):
    cfg = make_cfg()
    state = build(cfg, seed=1).state_dict()
    sizes = {name: state[name].numel() for name in sorted(state, key=lambda n: state[n].numel())}
    if kept == "many small tensors":
        names = list(sizes)[: int(0.7 * len(sizes))]
    else:
        names = list(sizes)[-int(0.4 * len(sizes)) :]
    count, weights = len(names) / len(sizes), sum(map(sizes.get, names)) / sum(sizes.values())
    assert (count > 0.5, weights > 0.5) == (kept == "many small tensors", kept[:3] == "few")
    for name in sizes.keys() - set(names):
        state[name] = state[name][..., None]  # Of another shape.
    torch.save({"model": state}, tmp_path / "a.pth")
    model, before = build(cfg), build(cfg)
    found = rf"only {len(names)} of {len(sizes)} tensors and {weights:.0%} of the weights"
    with pytest.raises(ValueError, match=found):
        DetrCheckpointer(model, cfg=cfg).load(str(tmp_path / "a.pth"))
    assert same_weights(model, before)


def test_an_unknown_model_is_refused(make_cfg, tmp_path):
    torch.save({"model": {"a": torch.zeros(2), "b": torch.zeros(3)}}, tmp_path / "a.pth")
    cfg = make_cfg()
    with pytest.raises(ValueError, match=r"a\.pth: .*unknown model"):
        DetrCheckpointer(build(cfg), cfg=cfg).load(str(tmp_path / "a.pth"))


def test_weights_of_this_project_with_its_former_names_are_refused_with_the_file(
    make_cfg, tmp_path
):
    cfg = make_cfg()
    state = {k.replace("neck.", "tokens."): v for k, v in build(cfg).state_dict().items()}
    torch.save({"model": state, "iteration": 3}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: .* written by lite-focus-detr before 0\.2"):
        DetrCheckpointer(build(cfg), cfg=cfg).load(str(tmp_path / "a.pth"))


def test_names_are_not_guessed_from_their_endings(make_cfg, tmp_path):
    cfg = make_cfg()
    state = {f"other.{name}": tensor for name, tensor in build(cfg).state_dict().items()}
    torch.save({"model": state, "matching_heuristics": True}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth"):
        DetrCheckpointer(build(cfg), cfg=cfg).load(str(tmp_path / "a.pth"))


def test_tensors_that_are_not_finite_are_named(make_cfg, tmp_path):
    cfg = make_cfg()
    model, before = build(cfg), build(cfg)
    state = build(cfg, seed=1).state_dict()
    state["neck.level_embed"][0, 0] = float("nan")
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth has NaN .* in 1 tensors: neck\.level_embed;"):
        DetrCheckpointer(model, cfg=cfg).load(str(tmp_path / "a.pth"))
    assert same_weights(model, before)


def test_an_imagenet_backbone_is_recognised_and_fills_the_backbone(make_cfg, tmp_path):
    cfg = make_cfg(
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    )
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    model, before = build(cfg), build(cfg)
    DetrCheckpointer(model, cfg=cfg).load(str(tmp_path / "resnet18.pth"))
    assert torch.equal(model.backbone.stem.conv1.weight, state["conv1.weight"])
    assert torch.equal(model.backbone.res5[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(model.neck.level_embed, before.neck.level_embed)


def test_an_imagenet_backbone_of_another_size_is_refused(make_cfg, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    cfg = make_cfg()
    with pytest.raises(ValueError, match=r"of the weights of the backbone of this DeformableDETR"):
        DetrCheckpointer(build(cfg), cfg=cfg).load(str(tmp_path / "resnet18.pth"))


def load_for_inference(model, cfg, path):
    DetrCheckpointer(model, cfg=cfg, for_inference=True).load(str(path))


def test_inference_refuses_a_file_of_other_classes_and_names_their_number(make_cfg, tmp_path):
    seven = make_cfg("MODEL.DETR.NUM_CLASSES", 7)
    model = saved(seven, tmp_path, ["seven"])
    cfg = make_cfg()
    with pytest.raises(
        ValueError, match=r"has 7 classes, .* is 3 .*; set MODEL.DETR.NUM_CLASSES 7"
    ):
        load_for_inference(build(cfg), cfg, tmp_path / "seven.pth")
    followed = build(seven, seed=1)
    load_for_inference(followed, seven, tmp_path / "seven.pth")
    assert same_weights(followed, model)
    # A training replaces the class heads.
    DetrCheckpointer(build(cfg), cfg=cfg).load(str(tmp_path / "seven.pth"))


def test_inference_refuses_a_file_that_leaves_parameters_random(make_cfg, tmp_path):
    cfg = make_cfg()
    state = build(cfg, seed=1).state_dict()
    del state["encoder.layers.0.linear1.weight"], state["decoder.layers.1.norm3.bias"]
    state["neck.level_embed"] = torch.zeros(4, 8)
    torch.save({"model": state}, tmp_path / "a.pth")
    model, before = build(cfg), build(cfg)
    with pytest.raises(ValueError, match="leaves 3 parameters of this model random") as error:
        load_for_inference(model, cfg, tmp_path / "a.pth")
    message = str(error.value)
    for name in ("encoder.layers.0.linear1.weight", "norm3.bias", "neck.level_embed"):
        assert name in message
    assert message.endswith("give the --config-file it was trained with")
    assert same_weights(model, before)


def test_inference_refuses_a_file_with_trained_parts_that_the_model_lacks(make_cfg, tmp_path):
    cfg = make_cfg()
    state = build(cfg, seed=1).state_dict()
    state["encoder.layers.0.object_norm.weight"] = torch.ones(8)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"is of another detector: .*object_norm\.weight"):
        load_for_inference(build(cfg), cfg, tmp_path / "a.pth")


def as_published(state):
    """Names of the original Sparse DETR for a state dict of ours."""
    rules = (
        (r"^encoder\.scorer", "transformer.enc_mask_predictor"),
        (r"^encoder\.aux_heads", "transformer.encoder"),
        (r"^(encoder|decoder)", r"transformer.\1"),
        (r"^neck\.level_embed", "transformer.level_embed"),
        (r"^proposal_head\.enc", "transformer.enc"),
        (r"^(neck|heads)\.", ""),
        (r"^backbone\.", "backbone.0."),
    )

    def rename(key):
        return next((re.sub(*rule, key) for rule in rules if re.search(rule[0], key)), key)

    return {rename(key): value for key, value in state.items()}


def test_inference_refuses_a_published_file_of_another_encoder(make_cfg, tmp_path, caplog):
    cfg = make_cfg("MODEL.META_ARCHITECTURE", "SparseDETR")
    state = build(cfg, seed=1).state_dict()
    torch.save({"model": as_published(state)}, tmp_path / "a.pth")
    cfg.MODEL.SPARSE.AUX_HEADS = False  # They only train.
    load_for_inference(build(cfg), cfg, tmp_path / "a.pth")
    assert any("format sparse_detr" in message for message in caplog.messages)
    cfg.MODEL.META_ARCHITECTURE = "DeformableDETR"
    with pytest.raises(ValueError, match=r"is of another detector: .*encoder\.scorer\."):
        load_for_inference(build(cfg), cfg, tmp_path / "a.pth")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("set MODEL.META_ARCHITECTURE SparseDETR" in message for message in warnings)


def test_inference_does_not_need_the_weights_of_denoising(make_cfg, tmp_path):
    cfg = make_cfg(
        *("MODEL.DETR.BOX_REFINE", True, "MODEL.DETR.QUERY_SELECTION", "mixed"),
        *("MODEL.DETR.DENOISING.TYPE", "contrastive"),
    )
    state = build(cfg, seed=1).state_dict()
    del state["denoising.label_enc.weight"]
    torch.save({"model": state}, tmp_path / "a.pth")
    model = build(cfg)
    load_for_inference(model, cfg, tmp_path / "a.pth")
    assert torch.equal(model.neck.level_embed, state["neck.level_embed"])


def test_inference_takes_the_80_coco_classes_of_a_file_with_a_row_per_coco_id(make_cfg, tmp_path):
    model = saved(make_cfg("MODEL.DETR.NUM_CLASSES", 91), tmp_path, ["published"])
    cfg = make_cfg("MODEL.DETR.NUM_CLASSES", 80)
    mapped = build(cfg, seed=1)
    load_for_inference(mapped, cfg, tmp_path / "published.pth")
    person, toothbrush = mapped.heads.class_embed[0].weight[[0, -1]]
    assert torch.equal(person, model.heads.class_embed[0].weight[1])
    assert torch.equal(toothbrush, model.heads.class_embed[0].weight[90])


def test_inference_refuses_a_backbone_without_a_detector(make_cfg, tmp_path):
    cfg = make_cfg(
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    )
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"resnet18\.pth holds only a backbone .*trained detector"):
        load_for_inference(build(cfg), cfg, tmp_path / "resnet18.pth")


def test_inference_without_weights_warns_that_they_are_random(make_cfg, caplog):
    cfg = make_cfg()
    load_for_inference(build(cfg), cfg, "")
    assert "MODEL.WEIGHTS is empty: the weights of the model are random" in caplog.text


@pytest.mark.parametrize("enabled", [True, False])
def test_evaluation_takes_the_averaged_weights_if_ema_is_enabled(
    make_cfg, tmp_path, caplog, enabled
):
    cfg = make_cfg("MODEL.EMA.ENABLED", enabled)
    model, average = build(cfg, seed=1), EMAHook(model=build(cfg, seed=2), decay=0.5).average
    DetrCheckpointer(model, str(tmp_path), cfg=cfg, ema=average).save("a", iteration=3)
    evaluated = build(cfg)
    DetrCheckpointer(evaluated, cfg=cfg).load(str(tmp_path / "a.pth"))
    assert same_weights(evaluated, average.module if enabled else model)
    unused = "a.pth also holds averaged weights, which are not used; MODEL.EMA.ENABLED True"
    assert (unused in caplog.text) == (not enabled)


def test_a_resumed_training_gets_its_weights_and_its_average(make_cfg, tmp_path):
    cfg = make_cfg("MODEL.EMA.ENABLED", True)
    model, average = build(cfg, seed=1), EMAHook(model=build(cfg, seed=2), decay=0.5).average
    DetrCheckpointer(model, str(tmp_path), cfg=cfg, ema=average).save("a", iteration=3)
    resumed = build(cfg)
    resumed_average = EMAHook(model=resumed, decay=0.5).average
    checkpointer = DetrCheckpointer(resumed, str(tmp_path), cfg=cfg, ema=resumed_average)
    checkpointer.resume_or_load("", resume=True)
    assert same_weights(resumed, model)
    assert same_weights(resumed_average.module, average.module)


def test_a_process_that_is_not_to_save_writes_nothing(make_cfg, tmp_path):
    cfg = make_cfg()
    model = build(cfg)
    DetrCheckpointer(model, str(tmp_path), cfg=cfg, save_to_disk=False).save("a", iteration=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keep", "left"), [(0, (1, 3, 5, 7)), (1, (7,)), (3, (3, 5, 7)), (9, (1, 3, 5, 7))]
)
def test_the_newest_regular_checkpoints_are_kept_and_all_others(make_cfg, tmp_path, keep, left):
    cfg = make_cfg("SOLVER.CHECKPOINT_KEEP", keep)
    numbered = [f"model_{number:07d}" for number in (1, 3, 5, 7)]
    saved(cfg, tmp_path, ["model_best", *numbered[:2], "model_final", *numbered[2:]])
    expected = {f"model_{number:07d}.pth" for number in left}
    assert {path.name for path in tmp_path.glob("*.pth")} == {
        *expected,
        "model_best.pth",
        "model_final.pth",
    }
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"


def test_what_is_kept_is_told_by_the_time_not_by_the_number(make_cfg, tmp_path):
    cfg = make_cfg("SOLVER.CHECKPOINT_KEEP", 1)
    saved(cfg, tmp_path, ["model_0000009", "model_0000004"])
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000004.pth"]


class Notes:
    """A checkpointable with a state of its own."""

    def __init__(self):
        self.state = {"score": None, "name": "cells"}

    def state_dict(self):
        return self.state


def bytes_by_name(path):
    """All tensors and values of a checkpoint, tensors as their bits."""
    contents = torch.load(path)
    return {
        **{k: v.view(torch.uint8).tolist() for k, v in contents["model"].items() if v.dim()},
        **{k: v for k, v in contents.items() if k != "model"},
    }


def test_what_is_known_later_is_put_into_the_newest_files_of_its_iteration(make_cfg, tmp_path):
    cfg, notes = make_cfg(), Notes()
    checkpointer = DetrCheckpointer(build(cfg), str(tmp_path), cfg=cfg, notes=notes)
    for name, iteration in (("model_0000003", 3), ("model_0000007", 7), ("model_final", 7)):
        checkpointer.save(name, iteration=iteration)
    before = {path.name: bytes_by_name(path) for path in tmp_path.glob("*.pth")}
    checkpointer.add_to_saved("notes", {"score": 0.5}, iteration=7)
    for name in ("model_0000007.pth", "model_final.pth"):
        before[name]["notes"] = {"score": 0.5, "name": "cells"}
    assert {path.name: bytes_by_name(path) for path in tmp_path.glob("*.pth")} == before
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.fault(area="checkpoints", expected="survived")
@pytest.mark.parametrize("fault", ["full disk", "damaged"])
def test_a_file_that_cannot_take_metrics_stays_as_it_is(
    make_cfg, tmp_path, monkeypatch, caplog, fault
):
    cfg = make_cfg()
    checkpointer = DetrCheckpointer(build(cfg), str(tmp_path), cfg=cfg, notes=Notes())
    checkpointer.save("model_final", iteration=7)
    path = tmp_path / "model_final.pth"
    if fault == "damaged":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
    before = path.read_bytes()
    checkpointer.add_to_saved("notes", {"score": 0.5}, iteration=7)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.tmp*")) == []
    assert "The metrics are missing in" in caplog.text


def named(cfg, path, names, seed=1):
    """Save random weights with a record of these classes."""
    record = DetectorRecord(cfg, classes=Classes(names), iteration=lambda: 1)
    state = build(cfg, seed).state_dict()
    torch.save({"model": state, "detector": record.state_dict()}, path)
    return state


@pytest.fixture
def shapes(make_cfg):
    """Configurations of data with the classes rectangle, ellipse and triangle."""

    def make(*changes):
        cfg = make_cfg(*changes)
        register_datasets(cfg)
        return cfg

    return make


def test_a_training_takes_the_rows_of_classes_by_their_names(shapes, tmp_path, caplog):
    cfg = shapes()
    state = named(cfg, tmp_path / "a.pth", ["Triangle", "cell", "rectangle"])
    model, before = build(cfg), build(cfg)
    DetrCheckpointer(model, cfg=cfg).load(str(tmp_path / "a.pth"))
    for name, start in before.heads.class_embed[0].named_parameters():
        ours, theirs = (
            model.state_dict()[f"heads.class_embed.0.{name}"],
            state[f"heads.class_embed.0.{name}"],
        )
        assert torch.equal(ours[0], theirs[2])
        assert torch.equal(ours[1], start[1])
        assert torch.equal(ours[2], theirs[0])
    assert torch.equal(model.neck.level_embed, state["neck.level_embed"])
    assert "rectangle, triangle from the file (2 of 3); ellipse start anew" in caplog.text
    assert any("as many classes" in x.message for x in caplog.records if x.levelname == "WARNING")


def test_inference_has_the_classes_of_the_file_and_warns(shapes, tmp_path, caplog):
    cfg = shapes()
    state = named(cfg, tmp_path / "a.pth", ["Triangle", "cell", "rectangle"])
    model = build(cfg)
    DetrCheckpointer(model, cfg=cfg, for_inference=True).load(str(tmp_path / "a.pth"))
    assert same_weights(model, Weights(state))
    assert "has the classes Triangle, cell, rectangle, but shapes_val has rectangle" in caplog.text


class Weights:
    def __init__(self, state):
        self.state_dict = lambda: state


def test_the_same_classes_load_bit_for_bit(shapes, tmp_path):
    cfg = shapes()
    state = named(cfg, tmp_path / "a.pth", ["rectangle", "ellipse", "triangle"])
    model = build(cfg)
    DetrCheckpointer(model, cfg=cfg).load(str(tmp_path / "a.pth"))
    assert same_weights(model, Weights(state))
