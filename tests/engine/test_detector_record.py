import json
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from lite_focus_detr import __version__, model_zoo
from lite_focus_detr.data import register_datasets
from lite_focus_detr.engine import DetrTrainer, describe_checkpoint
from lite_focus_detr.engine.detector_record import Classes, DetectorRecord, classes_of

RESULTS = {"bbox": {"AP": 58.2, "AP50": 90.1, "threshold": 0.3125, "F1": 88.0}}


def record(names, made, results=None):
    cfg = model_zoo.get_config("lite_dino_small")
    written = DetectorRecord(cfg, classes=Classes(names, (3, 4)), iteration=lambda: made)
    if results:
        written.note_evaluation(results)
    return written


def test_a_record_is_made_of_texts_and_numbers():
    state = record(("a", "b"), 1845, RESULTS).state_dict()
    assert json.loads(json.dumps(state)) == state
    assert "META_ARCHITECTURE: LiteDETR" in state.pop("config")
    assert state == {
        "class_names": ["a", "b"],
        "category_ids": [3, 4],
        "input_format": "RGB",
        "threshold": 0.3125,
        "metrics": RESULTS,
        "evaluated": 1845,
        "iteration": 1845,
        "version": __version__,
    }


def test_what_is_known_of_the_evaluation_is_resumed_and_the_rest_is_not():
    resumed = record(("a", "b"), 1900)
    resumed.load_state_dict(record(("c", "d"), 1845, RESULTS).state_dict())
    state = resumed.state_dict()
    assert (state["evaluated"], state["threshold"], state["metrics"]) == (1845, 0.3125, RESULTS)
    assert (state["iteration"], state["class_names"]) == (1900, ["a", "b"])


def test_names_are_those_of_the_training_set_if_there_are_as_many_as_classes(small_config):
    register_datasets(small_config)
    names = ["rectangle", "ellipse", "triangle"]
    assert classes_of(small_config) == (names, None)
    DatasetCatalog.get("shapes_train")
    categories = json.loads(Path(MetadataCatalog.get("shapes_train").json_file).read_text())
    ids = {x["name"]: x["id"] for x in categories["categories"]}
    assert classes_of(small_config) == (names, [ids[name] for name in names])
    small_config.MODEL.DETR.NUM_CLASSES = 4
    assert classes_of(small_config) == (None, None)
    small_config.DATASETS.TRAIN = ()
    assert classes_of(small_config) == (None, None)


def test_every_checkpoint_of_a_training_has_a_record(setup, make_args, tmp_path):
    every = ("SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2")
    best = ("SOLVER.BEST_METRIC", "bbox/AP", "SOLVER.BASE_LR", "0.0")
    trainer = DetrTrainer(setup(make_args(*every, *best)))
    trainer.resume_or_load(resume=False)
    trainer.train()
    files = sorted((tmp_path / "out").glob("model_*.pth"))
    found = {path.name: describe_checkpoint(str(path)) for path in files}
    assert {name: x.iteration for name, x in found.items()} == {
        "model_0000000.pth": 1,
        "model_0000001.pth": 2,
        "model_0000002.pth": 3,
        "model_0000003.pth": 4,
        "model_best.pth": 2,  # nothing is learnt, the second evaluation is no better
        "model_final.pth": 4,
    }
    assert [x.evaluated for x in found.values()] == [None, 2, 2, 4, 2, 4]
    assert all(x.class_names == ("rectangle", "ellipse", "triangle") for x in found.values())
    last = trainer._last_eval_results["bbox"]
    assert str(found["model_final.pth"].metrics["bbox"]) == str(dict(last))
    build_model(trainer.cfg).load_state_dict(torch.load(files[-1])["model"])
