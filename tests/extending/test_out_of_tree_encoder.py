"""An encoder that lives outside of the package: its file, a configuration, nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg

from lite_focus_detr.config import add_lite_focus_detr_config, load_config, loading
from lite_focus_detr.modeling import LiteDETR
from lite_focus_detr.modeling.encoder import ENCODER_REGISTRY, FocusEncoder

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = HERE / "skip_dino_shapes.yaml"


def train_net(*options, cwd=HERE):
    """Run train_net.py from the folder of the encoder."""
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(CONFIG), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_it_trains_with_its_own_key_and_loss(tmp_path):
    done = train_net(
        *("SOLVER.EPOCHS", "0", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"),
        *("SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "MODEL.SKIP.PERIOD", "1"),
        *("DATASETS.SHAPES.ROOT", str(tmp_path / "shapes"), "DATASETS.SHAPES.NUM_TRAIN", "8"),
        *("DATASETS.SHAPES.NUM_VAL", "2", "DATASETS.SHAPES.IMAGE_SIZE", "64"),
        *("OUTPUT_DIR", str(tmp_path / "output")),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    saved = torch.load(tmp_path / "output/model_final.pth", weights_only=True)["model"]
    assert "encoder.layers.1.self_attn.value_proj.weight" in saved
    assert "PERIOD: 1" in (tmp_path / "output/config.yaml").read_text()
    lines = (tmp_path / "output/metrics.json").read_text().splitlines()
    assert any("loss_memory" in json.loads(line) for line in lines)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("MODEL.SKIP.PERIOD", "MODEL.SKIP.PERIOD is 0; it must be at least 1"),
        ("MODEL.SKIP.PEROD", "did you mean MODEL.SKIP.PERIOD"),
    ],
)
def test_its_keys_are_checked_by_itself(key, message):
    # In a process of its own: here the encoder must not be registered for other tests.
    done = train_net(key, "0")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_does_not_exist_is_one_line(tmp_path):
    done = train_net("IMPORTS", "['no_such_encoder']")
    assert done.returncode == 1
    (line,) = [x for x in done.stderr.splitlines() if "attention kernels" not in x]
    assert line.startswith("error: IMPORTS in the command line names the module 'no_such_encoder'")
    assert "PYTHONPATH" in line


@pytest.mark.parametrize(
    "error",
    ["ValueError('broken')", "OSError('broken')", "KeyError('broken')", "SystemExit('broken')"],
)
def test_an_error_inside_a_module_shows_its_own_traceback(tmp_path, error):
    (tmp_path / "broken_encoder.py").write_text(f"raise {error}\n")
    done = train_net("IMPORTS", "['broken_encoder']", cwd=tmp_path)
    assert done.returncode == 1
    assert "broken_encoder.py" in done.stderr
    assert f"raise {error}" in done.stderr


def test_a_missing_dependency_of_a_module_is_not_mistaken_for_the_module(tmp_path):
    (tmp_path / "needy_encoder.py").write_text("import no_such_dependency\n")
    done = train_net("IMPORTS", "['needy_encoder']", cwd=tmp_path)
    assert done.returncode == 1
    assert "No module named 'no_such_dependency'" in done.stderr
    assert "needy_encoder.py" in done.stderr


def test_imports_must_be_a_list_of_names():
    with pytest.raises(ValueError, match=r"IMPORTS in the command line is 'json'; give a list"):
        load_config("", ["IMPORTS", "json"])


@pytest.mark.parametrize("value", ["['json']", "('json',)", "[json]", ["json"]])
def test_imports_of_the_command_line_are_read_as_python_or_yaml(value):
    assert list(load_config("", ["IMPORTS", value]).IMPORTS) == ["json"]


def test_the_last_imports_of_the_command_line_win():
    options = ["IMPORTS", "[no_such_module]", "IMPORTS", "[json]"]
    assert load_config("", options).IMPORTS == ["json"]


def test_the_document_shows_the_same_files():
    text = (ROOT / "docs/write_an_encoder.md").read_text()
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL))
    assert blocks["python"] == (HERE / "skip_encoder.py").read_text()
    assert blocks["yaml"] == CONFIG.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.DEVICE", "cpu", "IMPORTS"], "ends with 'IMPORTS'"),
        (["IMPORTS", "[json"], r"IMPORTS in the command line is '\[json'; give a list"),
        (["IMPORTS", "['']"], r"IMPORTS in the command line is \[''\]; give a list"),
        (["IMPORTS", "['.relative']"], r"is \['.relative'\]; give a list"),
    ],
)
def test_mistakes_in_imports_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_config("", options)


def test_an_encoder_derived_from_another_keeps_its_keys(monkeypatch):
    class Parent(FocusEncoder):
        @staticmethod
        def add_config(cfg):
            cfg.MODEL.FOCUS.EXTRA = 1

    class Child(Parent):
        pass

    class Sibling(FocusEncoder):
        pass

    new = {"Parent": Parent, "Child": Child, "Sibling": Sibling}
    for names in (["Parent", "Child", "Sibling"], ["Child"], ["Sibling", "Child"]):
        registry = [*ENCODER_REGISTRY, *((name, new[name]) for name in names)]
        monkeypatch.setattr(loading, "ENCODER_REGISTRY", registry)
        cfg = get_cfg()
        add_lite_focus_detr_config(cfg)
        assert cfg.MODEL.FOCUS.EXTRA == 1


def test_a_detector_of_an_unknown_encoder_is_named(monkeypatch):
    monkeypatch.setattr(LiteDETR, "encoder_name", "LiteEncodr")
    with pytest.raises(ValueError, match=r"'LiteEncodr', which is not registered.*LiteEncoder"):
        load_config("", ["MODEL.META_ARCHITECTURE", "LiteDETR"])
