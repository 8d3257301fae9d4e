import dataclasses
import math
import re
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import MetadataCatalog

from lite_focus_detr import __version__, model_zoo
from lite_focus_detr.engine import CheckpointDescription, describe_checkpoint
from lite_focus_detr.engine.checkpoint_io import write_checkpoint
from lite_focus_detr.engine.description import description_of, saved_config
from lite_focus_detr.engine.detector_record import Classes, DetectorRecord

CFG = model_zoo.get_config("lite_dino_small")
RESULTS = {"bbox": {"AP": 58.2, "AP50": 90.1, "threshold": 0.3125, "F1": 88.0}}


def record(results=None, *, names=("RBC", "WBC", "Platelets"), made=1845, evaluated_at=1845):
    made_then = SimpleNamespace(iteration=evaluated_at)
    classes = Classes(names, range(1, len(names) + 1))
    written = DetectorRecord(CFG, classes=classes, iteration=lambda: made_then.iteration)
    if results:
        written.note_evaluation(results)
    made_then.iteration = made
    return written


def describe(written, file="runs/cells/model_final.pth"):
    return description_of({"model": {}, "detector": written.state_dict()}, file)


def test_one_line_says_what_a_checkpoint_is():
    assert str(describe(record(RESULTS))) == (
        "model_final.pth: LiteDETR, 3 classes RBC WBC Platelets, iteration 1845, AP 58.2, "
        "threshold 0.31"
    )


def test_the_line_says_when_the_evaluation_was_of_other_weights():
    line = str(describe(record(RESULTS, evaluated_at=1500)))
    assert "iteration 1845, AP 58.2 at iteration 1500" in line


def test_before_an_evaluation_there_is_no_threshold():
    description = describe(record())
    assert description.threshold is None
    assert description.ap is None
    assert str(description).endswith("Platelets, iteration 1845")


def test_an_evaluation_that_found_nothing_gives_no_threshold():
    nothing = {"bbox": {"AP": math.nan, "threshold": math.nan}}
    description = describe(record(nothing))
    assert description.threshold is None
    assert "AP" not in str(description)


def test_many_classes_are_shortened_and_names_cannot_control_a_terminal():
    names = tuple(CFG.MODEL.DETR.NUM_CLASSES * [""]) + tuple(f"class{i}" for i in range(20))
    description = describe(record(names=names[3:]))
    assert "20 classes class0 class1 class2 ... class19" in str(description)
    description = describe(record(names=("traffic light", "\x1b[31mred")))
    assert "2 classes 'traffic light' \\x1b[31mred" in str(description)


def test_with_several_data_sets_the_first_one_counts():
    results = {"first": {"bbox": {"AP": 1.5, "threshold": 0.5}}, "second": RESULTS}
    description = describe(record(results))
    assert description.ap == 1.5
    assert description.threshold == 0.5
    assert description.metrics["second"]["bbox"]["AP50"] == 90.1


def test_a_record_is_read_from_a_file_with_all_it_says(tmp_path):
    path = str(tmp_path / "a.pth")
    write_checkpoint(path, {"model": {}, "detector": record(RESULTS).state_dict()})
    description = describe_checkpoint(path)
    assert description == CheckpointDescription(
        path,
        class_names=("RBC", "WBC", "Platelets"),
        category_ids=(1, 2, 3),
        config=CFG.dump(),
        architecture="LiteDETR",
        input_format=CFG.INPUT.FORMAT,
        threshold=0.3125,
        metrics=RESULTS,
        evaluated=1845,
        iteration=1845,
        version=__version__,
    )


@pytest.mark.fault(area="checkpoints", expected="refused")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"class_names": "abc"}, "class_names"),
        ({"class_names": [1]}, "class_names"),
        ({"category_ids": ["1"]}, "category_ids"),
        ({"threshold": "0.5"}, "threshold"),
        ({"metrics": {"bbox": "good"}}, "metrics"),
        ({"config": {"MODEL": 1}}, "config"),
        (None, "content"),
    ],
)
def test_a_record_of_another_kind_is_refused(change, named):
    state = [] if change is None else {**record(RESULTS).state_dict(), **change}
    with pytest.raises(ValueError, match=rf"a\.pth has a record .* whose {named} is not what"):
        description_of({"model": {}, "detector": state}, "a.pth")


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['false']",
        "a: &a [x]\nb: [" + "*a, " * 20 + "]",
        "a: " + "[" * 5000,
        "a: 2001-99-99",
    ],
)
def test_the_configuration_of_a_file_is_only_data(text):
    state = {**record().state_dict(), "config": text}
    with pytest.raises(ValueError, match=r"a\.pth"):
        description_of({"model": {}, "detector": state}, "a.pth")


def test_earlier_checkpoints_had_their_configuration_elsewhere():
    contents = {"model": {}, "trainer": {"config": CFG.dump()}}
    assert saved_config(contents) == CFG.dump()
    assert str(description_of(contents, "a.pth")) == "a.pth: LiteDETR"
    assert saved_config({"model": {}, "trainer": {}}) is None


@pytest.mark.parametrize(("rows", "named"), [(80, True), (91, True), (20, False)])
def test_published_detectors_of_coco_have_its_names(rows, named):
    # Keys of the original Deformable DETR.
    weights = {
        "transformer.level_embed": torch.zeros(4, 256),
        "input_proj.0.0.weight": torch.zeros(256, 512, 1, 1),
        "class_embed.0.bias": torch.zeros(rows),
    }
    description = description_of({"model": weights}, "r50.pth")
    assert (description.class_names is not None) == named
    if named:
        coco = MetadataCatalog.get("coco_2017_val")
        assert list(description.class_names) == coco.thing_classes
        assert list(description.category_ids) == list(coco.thing_dataset_id_to_contiguous_id)
        line = str(description)
        assert line.endswith("80 classes person bicycle car ... toothbrush")
        assert re.match("r50.pth: ", line)


def test_weights_of_an_unknown_model_have_no_names():
    assert description_of({"model": {"w": torch.zeros(1)}}, "a.pth").class_names is None


def test_a_file_without_a_configuration_is_no_place_to_read_one(tmp_path):
    write_checkpoint(str(tmp_path / "a.pth"), {"model": {"w": torch.zeros(1)}})
    description = describe_checkpoint(str(tmp_path / "a.pth"))
    with pytest.raises(ValueError, match=r"a\.pth holds no configuration: .* --config-file"):
        description.saved_config()


def test_the_record_of_a_converted_file_keeps_what_is_known():
    known = describe(record(RESULTS))
    again = describe_again(known, CFG)
    assert again == dataclasses.replace(known, file="b.pth")
    other = CFG.clone()
    other.MODEL.DETR.NUM_CLASSES = 4
    assert describe_again(known, other).class_names is None


def describe_again(description, cfg):
    return description_of({"model": {}, "detector": description.record(cfg)}, "b.pth")
