import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from lite_focus_detr.engine import DetrTrainer, user_errors
from lite_focus_detr.engine.setup import compute_threads

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture
def message_of(setup):
    """The line that ``train_net.py`` writes to stderr for given arguments."""

    def message_of(args) -> str:
        with pytest.raises(SystemExit) as exit_, user_errors():
            DetrTrainer.load_model(setup(args))
        message = exit_.value.code
        assert isinstance(message, str)  # printed to stderr, exit status 1
        assert "\n" not in message
        return message

    return message_of


@pytest.fixture
def coco_json(tmp_path):
    """Annotation file of a data set with two categories."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = tmp_path / "two.json"
    path.write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    return path


FAULTS = {
    "misspelt key": (
        ["MODEL.DETR.NUM_CLASES", "3"],
        "unknown configuration key MODEL.DETR.NUM_CLASES in the command line; "
        "did you mean MODEL.DETR.NUM_CLASSES",
    ),
    "value of another type": (
        ["MODEL.DETR.NUM_CLASSES", "three"],
        "the command line: Type mismatch .* MODEL.DETR.NUM_CLASSES",
    ),
    "key without value": (["MODEL.DETR.NUM_CLASSES"], "come in pairs, KEY VALUE"),
    "unknown architecture": (
        ["MODEL.META_ARCHITECTURE", "DeformabelDETR"],
        "MODEL.META_ARCHITECTURE is 'DeformabelDETR', .* did you mean DeformableDETR",
    ),
    "unknown backbone": (
        ["MODEL.BACKBONE.NAME", "build_swin_backbon"],
        "MODEL.BACKBONE.NAME is 'build_swin_backbon', .* did you mean build_swin_backbone",
    ),
    "unknown device": (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu': .*; set cuda or cpu"),
    "value in place of a node": (["MODEL.DETR", "3"], "the command line: Type mismatch .*CfgNode"),
    "impossible combination": (
        ["MODEL.DETR.LOOK_FORWARD_TWICE", "True"],
        "MODEL.DETR.LOOK_FORWARD_TWICE needs MODEL.DETR.BOX_REFINE",
    ),
    "NUM_CLASSES off by one": (
        ["MODEL.DETR.NUM_CLASSES", "4"],
        r"NUM_CLASSES is 4, but data set shapes_val \(.*instances.json\) has 3 categories; "
        "set MODEL.DETR.NUM_CLASSES 3",
    ),
    "unregistered data set": (
        ["DATASETS.TEST", "('shapes_vall',)"],
        "data set 'shapes_vall' .* not registered; did you mean shapes_val",
    ),
    "missing data set": (
        ["DATASETS.TEST", "('coco_2017_val',)", "MODEL.DETR.NUM_CLASSES", "80"],
        "annotation file .*instances_val2017.json of data set coco_2017_val does not exist",
    ),
    "missing checkpoint": (
        ["MODEL.WEIGHTS", "no/such.pth"],
        "the checkpoint no/such.pth does not exist; check MODEL.WEIGHTS",
    ),
}


@pytest.mark.fault(area="configuration", expected="refused")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_of_the_user_is_one_line_with_cause_place_and_remedy(
    message_of, make_args, options, fault
):
    changes, pattern = FAULTS[fault]
    args = make_args("--eval-only")
    args.opts = [*options, *changes]
    message = message_of(args)
    assert message.startswith("error: ")
    assert re.search(pattern, message), message


def test_a_missing_configuration_file_is_named(message_of, make_args):
    args = make_args("--eval-only")
    args.config_file = "no/such.yaml"
    assert "configuration file no/such.yaml does not exist" in message_of(args)


def test_a_missing_base_file_is_named(message_of, make_args, tmp_path):
    args = make_args("--eval-only")
    args.config_file = str(tmp_path / "leaf.yaml")
    Path(args.config_file).write_text("_BASE_: gone.yaml\n")
    assert "gone.yaml does not exist; check --config-file and _BASE_" in message_of(args)


def test_a_misspelt_key_in_a_file_is_named_with_the_file(message_of, make_args, tmp_path):
    args = make_args("--eval-only")
    args.config_file = str(tmp_path / "leaf.yaml")
    Path(args.config_file).write_text("MODEL:\n  DETR:\n    NUM_QUERYS: 3\n")
    assert "key MODEL.DETR.NUM_QUERYS in" in (message := message_of(args))
    assert "leaf.yaml; did you mean MODEL.DETR.NUM_QUERIES" in message


def test_a_malformed_configuration_file_is_named_with_the_line(message_of, make_args, tmp_path):
    args = make_args("--eval-only")
    args.config_file = str(tmp_path / "leaf.yaml")
    Path(args.config_file).write_text("MODEL:\n  DETR: [1, 2\nSOLVER: {}\n")
    message = message_of(args)
    assert "leaf.yaml is not valid YAML" in message
    assert "line 3" in message


@pytest.mark.parametrize("content", ["", "# only a comment\n", "- MODEL\n- SOLVER\n", "MODEL\n"])
@pytest.mark.parametrize("as_base", [False, True])
def test_a_configuration_file_without_keys_is_named(
    message_of, make_args, tmp_path, content, as_base
):
    args = make_args("--eval-only")
    args.config_file = str(tmp_path / "leaf.yaml")
    Path(args.config_file).write_text("_BASE_: base.yaml\nMODEL: {}\n" if as_base else content)
    (tmp_path / "base.yaml").write_text(content)
    assert "leaf.yaml, or a file that it names in _BASE_, is empty or" in message_of(args)


def test_several_cpu_processes_on_a_machine_with_a_gpu_are_refused(
    message_of, make_args, monkeypatch
):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    message = message_of(make_args("--eval-only"))
    assert "MODEL.DEVICE is cpu, but 2 processes" in message
    assert "set MODEL.DEVICE cuda, use one process, or hide the GPUs" in message


def test_only_a_training_divides_its_batch_among_the_processes(
    setup, message_of, make_args, monkeypatch
):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = message_of(make_args("SOLVER.IMS_PER_BATCH", "3"))
    assert "SOLVER.IMS_PER_BATCH 3 cannot be divided among 2 processes" in message
    cfg = setup(make_args("--eval-only", "SOLVER.IMS_PER_BATCH", "3"))
    assert cfg.SOLVER.IMS_PER_BATCH == 3


@pytest.mark.parametrize(("chosen", "threads"), [(None, 4), ("5", 5)])
def test_the_number_of_threads_is_left_to_who_has_chosen_it(
    setup, make_args, monkeypatch, chosen, threads
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        setup(make_args("--eval-only", "DATALOADER.NUM_WORKERS", "2"))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_data_set_of_ones_own_with_other_classes_says_what_to_set(
    message_of, make_args, coco_json
):
    entry = f"[['two', '{coco_json}', '{coco_json.parent / 'images'}']]"
    args = make_args("--eval-only", "DATASETS.COCO", entry, "DATASETS.TEST", "('two',)")
    message = message_of(args)
    assert "NUM_CLASSES is 3, but data set two" in message
    assert "has 2 categories; set MODEL.DETR.NUM_CLASSES 2" in message


def test_a_truncated_annotation_file_is_named(message_of, make_args, coco_json):
    coco_json.write_text(coco_json.read_text()[:100])
    entry = f"[['cut', '{coco_json}', '{coco_json.parent / 'images'}']]"
    args = make_args("--eval-only", "DATASETS.COCO", entry, "DATASETS.TEST", "('cut',)")
    assert "two.json is not valid JSON at byte" in message_of(args)


def test_a_truncated_checkpoint_is_one_line(message_of, make_args, tmp_path):
    path = tmp_path / "cut.pth"
    torch.save({"model": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:1000])
    message = message_of(make_args("--eval-only", "MODEL.WEIGHTS", str(path)))
    assert "cut.pth (1000 bytes) is truncated or not a checkpoint" in message


def test_an_output_folder_that_cannot_be_written_is_named(message_of, make_args, tmp_path):
    (tmp_path / "file").write_text("")
    args = make_args("--eval-only")
    args.opts += ["OUTPUT_DIR", str(tmp_path / "file" / "out")]
    assert f"cannot write to OUTPUT_DIR {tmp_path}/file/out" in message_of(args)


@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError, AssertionError, KeyError])
def test_an_error_of_the_program_keeps_its_traceback(error):
    with pytest.raises(error), user_errors():
        raise error("a bug")


def test_a_value_that_only_a_library_refuses_is_an_error_of_the_program():
    with pytest.raises(ValueError, match="Invalid learning rate"), user_errors():
        torch.optim.SGD([torch.zeros(1)], lr=-1.0)


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_mistake_is_one_line_and_its_details_are_logged(error, caplog, monkeypatch):
    with pytest.raises(SystemExit) as exit_, user_errors():
        raise error("a mistake\na table")
    assert exit_.value.code == "error: a mistake"
    logged = {x.getMessage() for x in caplog.records if x.name == "lite_focus_detr.engine.setup"}
    assert logged == {"a table"}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_train_net_exits_with_one_line_on_stderr(options, processes):
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(TINY)]
    command += ["--num-gpus", processes, "--dist-url", "auto", "--eval-only", *options]
    command += ["MODEL.DETR.NUM_CLASSES", "4"]
    environment = {"PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1", "HOME": "/"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [x for x in done.stderr.splitlines() if "attention kernels" not in x]
    assert line.startswith("error: MODEL.DETR.NUM_CLASSES is 4")
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("cores", "processes", "threads"), [(2, 1, 1), (16, 1, 8), (16, 4, 2), (1, 1, 1), (2, 4, 1)]
)
def test_threads_leave_cores_to_loader_workers_and_other_processes(
    monkeypatch, cores, processes, threads
):
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    assert compute_threads(cores) == threads


def test_another_batch_size_than_that_of_the_recipe_gets_advice(setup, make_args, caplog):
    args = make_args()
    args.opts += ["SOLVER.IMS_PER_BATCH", "4"]
    setup(args)
    (advice,) = [x.getMessage() for x in caplog.records if "of the recipe" in x.getMessage()]
    assert advice.startswith("4 images per update instead of the 2 of the recipe: SOLVER.BASE_LR")
    assert " 0.0014 would fit instead of 0.001" in advice
