"""The report on the environment."""

import importlib
import logging
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.tools import check_env


@pytest.fixture(autouse=True)
def log_level():
    """The command silences the log of its process."""
    logger = logging.getLogger("lite_focus_detr")
    level = logger.level
    yield
    logger.setLevel(level)


def finding(name):
    return next(f for f in check_env.run_checks() if f.name == name)


def test_this_environment_works(capsys):
    assert check_env.main([]) == 0
    report = capsys.readouterr().out
    assert torch.__version__ in report
    assert re.search(rf"operators on cpu +{ops.backend('cpu')}", report)


def test_the_reason_for_the_slow_path_is_given(monkeypatch):
    monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    found = finding("operators on cpu")
    assert "LITE_FOCUS_DETR_OPS=reference" in found.value
    assert found.fix
    assert not found.fatal


def hide(monkeypatch, module, error):
    real = importlib.import_module

    def import_module(name, *args):
        if name == module:
            raise error
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_a_missing_detectron2_is_fatal_and_has_a_fix(monkeypatch):
    error = ModuleNotFoundError("No module named 'detectron2'", name="detectron2")
    hide(monkeypatch, "detectron2", error)
    found = finding("detectron2")
    assert found.fatal
    assert found.value == "missing"
    assert "No module named 'detectron2'" in found.problem
    assert "facebookresearch/detectron2" in found.fix


def test_the_report_comes_out_even_if_the_package_does_not_import():
    hidden = f"""
import runpy, sys
sys.modules["detectron2"] = None
runpy.run_path({check_env.__file__!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"detectron2 +missing", done.stdout)
    assert "facebookresearch/detectron2" in done.stdout


def test_a_detectron2_made_for_another_pillow_is_reported_with_a_fix(tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.6'")
    (package / "modeling.py").write_text("from PIL import Image\nImage.LINEAR")
    (package / "config.py").write_text("from PIL import Image\nImage.LINEAR")
    projects = str(Path(check_env.__file__).parents[2])
    path = os.pathsep.join([str(tmp_path), projects])
    done = subprocess.run(
        [sys.executable, check_env.__file__],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"detectron2 +broken", done.stdout)
    assert re.search(r"ERROR: detectron2\.modeling does not import: .*LINEAR", done.stdout)
    assert re.search("fix: pip uninstall detectron2, then .*facebookresearch", done.stdout)
    # They need PyTorch alone.
    assert re.search(r"self-test on cpu +largest relative error", done.stdout)


def test_the_words_of_the_loader_are_kept(monkeypatch):
    hide(monkeypatch, "torchvision", RuntimeError("operator torchvision::nms does not exist"))
    found = finding("torchvision")
    assert found.fatal
    assert "torchvision::nms" in found.problem


def test_a_torchvision_of_another_torch_is_fatal(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==1.0.0"])
    found = finding("torchvision")
    assert found.fatal
    assert "made for torch 1.0.0" in found.problem
    assert "torch==1.0.0" in found.fix


def test_missing_pkg_resources_is_a_note_only(monkeypatch):
    monkeypatch.setattr(check_env, "find_spec", lambda name: None)
    found = finding("pkg_resources")
    assert found.problem
    assert not found.fatal


def test_a_missing_package_is_fatal(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "scipy":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = finding("scipy")
    assert found.fatal
    assert found.fix == "pip install scipy"


def requires(monkeypatch, requirements):
    """Let the installed package have these requirements."""
    real = metadata.requires
    own = check_env.DISTRIBUTION

    def fake(name):
        if name != own:
            return real(name)
        if requirements is None:
            raise metadata.PackageNotFoundError(name)
        return requirements

    monkeypatch.setattr(metadata, "requires", fake)


def test_what_the_package_declares_is_checked_but_not_its_extras(monkeypatch):
    requires(
        monkeypatch,
        ["torch>=2.10", "numpy", "no-such-thing>=2; python_version > '3'", "x-ray; extra == 'a'"],
    )
    names = [found.name for found in check_env.run_checks()]
    assert "numpy" in names
    assert names.count("torch") == 1
    assert "x-ray" not in names
    assert finding("no-such-thing").fatal
    assert finding("no-such-thing").fix == "pip install no-such-thing"


def test_without_metadata_the_report_says_what_it_could_not_check(monkeypatch):
    requires(monkeypatch, None)
    found = finding(check_env.DISTRIBUTION)
    assert found.value == "not installed"
    assert found.problem
    assert not found.fatal


@pytest.mark.parametrize("broken", ["multi_scale", "key_aware"])
def test_the_self_test_notices_a_wrong_operator(monkeypatch, broken):
    assert check_env.operator_error("cpu") <= check_env.TOLERANCE
    name = f"{broken}_deformable_attention"
    right = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda *args: right(*args) * 1.001)
    assert finding("self-test on cpu").fatal


@pytest.mark.fault(area="tools", expected="refused")
@pytest.mark.parametrize("argument", ["--config-file", "extra"])
def test_an_argument_that_the_command_does_not_know_is_refused(capsys, argument):
    with pytest.raises(SystemExit) as end:
        check_env.main([argument])
    assert end.value.code == 2
    assert f"unrecognized arguments: {argument}" in capsys.readouterr().err
