import json
from pathlib import Path

import pytest
from detectron2.modeling import build_model

from lite_focus_detr.tools.study.suite import (
    ENCODERS,
    MAIN_ENCODERS,
    SPARSIFIED,
    Cell,
    Dataset,
    cell_config,
    cells,
)


@pytest.fixture
def cells_dataset(tmp_path):
    file = tmp_path / "val.json"
    file.write_text(json.dumps({"categories": [{"id": 1}, {"id": 2}]}))
    return Dataset("blood", "train.json", str(file), "images")


def test_the_main_encoders_come_first_on_every_data_set():
    first = list(cells(["blood", "shapes"], 3))[: 2 * len(MAIN_ENCODERS)]
    assert {cell.seed for cell in first} == {0}
    assert [cell.encoder for cell in first] == [*MAIN_ENCODERS, *MAIN_ENCODERS]
    assert MAIN_ENCODERS[0] == "dense"


def test_the_main_encoders_have_all_seeds_before_the_others_begin():
    main = [cell.encoder in MAIN_ENCODERS for cell in cells(["blood", "shapes"], 3)]
    assert main == sorted(main, reverse=True)
    assert sum(main) == 2 * 3 * len(MAIN_ENCODERS) + 2 * 4


def test_every_training_is_named_once():
    found = list(cells(["blood", "shapes"], 3))
    assert len({cell.name for cell in found}) == len(found)
    assert {(c.encoder, c.seed) for c in found if c.host == "dino"} == {
        (encoder, seed) for encoder in ENCODERS for seed in range(3)
    }


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_builds_on_the_detector_of_the_dense_one(encoder):
    cfgs = [
        cell_config(Cell("shapes", "dino", name, 0), None, 60, Path("runs"))
        for name in ("dense", encoder)
    ]
    for cfg in cfgs:
        cfg.MODEL.DEVICE = "meta"
    dense, other = map(build_model, cfgs)
    for part in ("backbone", "neck", "heads", "proposal_head", "query_selector"):
        ours, expected = (getattr(x, part).state_dict() for x in (other, dense))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
    if encoder != SPARSIFIED:
        assert cfgs[1].SOLVER == cfgs[0].SOLVER


@pytest.mark.parametrize("encoder", ["dense", "lite_h2l2", "focus_keep30", "lite_focus_keep30"])
def test_the_second_host_has_proposals_and_no_denoising(encoder):
    cfg = cell_config(Cell("shapes", "two_stage", encoder, 0), None, 60, Path("runs"))
    cfg.MODEL.DEVICE = "meta"
    model = build_model(cfg)
    assert model.denoising is None
    assert cfg.MODEL.DETR.QUERY_SELECTION == "two_stage"


def test_a_training_has_its_seed_its_data_and_its_length(cells_dataset):
    cell = Cell("blood", "dino", "focus_keep10", 2)
    cfg = cell_config(cell, cells_dataset, 60, Path("runs"))
    assert cfg.OUTPUT_DIR == "runs/blood-dino-focus_keep10-seed2"
    assert cfg.SEED == 3
    assert cfg.MODEL.DETR.NUM_CLASSES == 2
    assert [
        ["blood_train", "train.json", "images"],
        ["blood_val", cells_dataset.val_json, "images"],
    ] == cfg.DATASETS.COCO
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("blood_train",), ("blood_val",))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (60, (50,))
    assert sum(cfg.MODEL.FOCUS.KEEP_RATIOS) / 2 == pytest.approx(0.1)


@pytest.mark.parametrize("content", [None, "no json", "{}"])
def test_a_data_set_without_categories_is_named(tmp_path, content):
    file = tmp_path / "val.json"
    if content is not None:
        file.write_text(content)
    dataset = Dataset("blood", "train.json", str(file), "images")
    with pytest.raises(ValueError, match=r"cannot read the categories of .*val\.json"):
        cell_config(Cell("blood", "dino", "dense", 0), dataset, 60, Path("runs"))
