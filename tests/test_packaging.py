"""Installation of the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "configs", "kernels", "projects")

REPORT = """
import json
from lite_focus_detr import model_zoo, ops
import lite_focus_detr
print(json.dumps({
    "package": lite_focus_detr.__file__,
    "config": model_zoo.get_config_file("deformable_detr/dino_r50_12ep"),
    "iterations": model_zoo.get_config("dino_r50_12ep").SOLVER.MAX_ITER,
    "backend": ops.backend("cpu"),
    "reason": ops.unavailable_reason("cpu"),
}))
"""


def report(path, folder):
    """What a new interpreter in ``folder`` finds, with the package on ``path``."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", REPORT]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def installed_without_compiler(tmp_path_factory):
    """The folder that a plain, not editable, installation with broken compilers fills."""
    folder = tmp_path_factory.mktemp("packaging")
    checkout, target = folder / "checkout", folder / "target"
    checkout.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=ignore)
        else:
            shutil.copy(source, checkout)
    environment = {**os.environ, "CXX": "/bin/false", "CC": "/bin/false", "CUDA_HOME": "/nowhere"}
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--quiet", "--target", str(target), str(checkout)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    return target


def test_a_broken_compiler_does_not_break_the_installation(installed_without_compiler):
    found = report(installed_without_compiler, installed_without_compiler)
    assert Path(found["package"]).is_relative_to(installed_without_compiler)
    assert found["backend"] == "reference"
    assert "has not been built" in found["reason"]


def test_an_installed_package_brings_its_configurations(installed_without_compiler):
    found = report(installed_without_compiler, installed_without_compiler)
    assert Path(found["config"]).is_relative_to(installed_without_compiler)
    assert found["iterations"] == 90000


def test_an_installed_package_brings_the_sources_of_its_kernels(installed_without_compiler):
    shipped = installed_without_compiler / "lite_focus_detr" / "kernels"
    for source in (ROOT / "kernels").rglob("*.h"):
        assert (shipped / source.relative_to(ROOT / "kernels")).is_file()


def test_a_checkout_works_without_installation(tmp_path):
    found = report(ROOT / "projects", tmp_path)
    assert Path(found["package"]).is_relative_to(ROOT)
    assert Path(found["config"]).is_relative_to(ROOT)
    assert found["iterations"] == 90000
