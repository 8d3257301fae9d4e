"""Installation of the package."""

import ast
import email
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lite_focus_detr

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
METADATA = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
SOURCES = (*METADATA, "configs", "kernels", "projects")
NO_COMPILER = {"CXX": "/bin/false", "CC": "/bin/false", "CUDA_HOME": "/nowhere"}
# Not on PyPI under its own name, so that it cannot be declared.
NOT_DECLARABLE = {"detectron2", "lite_focus_detr"}
# What detectron2 imports for us, without requiring it at installation: COCOEvaluator and the
# writer of TensorBoard files.
FOR_DETECTRON2 = {"pycocotools", "tensorboard"}
# Extras whose packages are imported when they are used.
OPTIONAL = ("data", "video", "report", "page", "export")

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


def copy_sources(checkout):
    """What an installation needs of the project, in an empty folder."""
    checkout.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=ignore)
        else:
            shutil.copy(source, checkout)


@pytest.fixture(scope="module")
def installed_without_compiler(tmp_path_factory):
    """The folder that a plain, not editable, installation with broken compilers fills."""
    folder = tmp_path_factory.mktemp("packaging")
    checkout, target = folder / "checkout", folder / "target"
    copy_sources(checkout)
    environment = {**os.environ, **NO_COMPILER}
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


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    copy_sources(folder / "checkout")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", "."]
    environment = {**os.environ, **NO_COMPILER}
    done = subprocess.run(
        command, cwd=folder / "checkout", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


def test_the_distributions_can_be_published(distributions):
    command = [sys.executable, "-m", "twine", "check", "--strict", *distributions]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_metadata_say_what_this_is_and_what_it_needs(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        found = email.message_from_bytes(wheel.read(name))
    assert found["Name"] == "lite-focus-detr"
    assert found["Version"] == lite_focus_detr.__version__
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.10"
    assert {"torch>=2.10", "tabulate", "pyyaml"} <= set(found.get_all("Requires-Dist"))


def test_the_source_distribution_can_build_the_kernels(distributions):
    with tarfile.open(distributions[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    kernels = {str(path.relative_to(ROOT)) for path in (ROOT / "kernels").rglob("*.*")}
    assert {"setup.py", "pyproject.toml", "LICENSE", *kernels} <= names


def test_the_wheel_has_every_module_and_every_configuration(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
    package, configs = ROOT / "projects" / "lite_focus_detr", ROOT / "configs"
    sources = [path for x in ("py", "html", "css", "js") for path in package.rglob(f"*.{x}")]
    modules = {f"lite_focus_detr/{path.relative_to(package)}" for path in sources}
    assert "lite_focus_detr/visualization/comparison.js" in modules
    files = [path for pattern in ("*.yaml", "*.py") for path in configs.rglob(pattern)]
    assert modules | {f"lite_focus_detr/configs/{x.relative_to(configs)}" for x in files} <= names
    checkpoints = {f"lite_focus_detr/checkpoints/{x.name}" for x in package.glob("checkpoints/*")}
    assert len(checkpoints) >= 2
    assert checkpoints <= names


def project_table():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names_of(requirements):
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported_distributions(folder):
    """Distributions whose modules are imported anywhere in the Python files of a folder."""
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.partition(".")[0])
    modules -= set(sys.stdlib_module_names) | NOT_DECLARABLE
    owners = metadata.packages_distributions()
    return {canonicalize_name(owners[module][0]) for module in modules}


def test_every_import_of_the_package_is_declared_and_no_other():
    project = project_table()
    declared = names_of(project["dependencies"])
    extras = project["optional-dependencies"]
    optional = {name for extra in OPTIONAL for name in names_of(extras[extra])}
    assert declared == (imported_distributions("projects") - optional) | FOR_DETECTRON2
    for_export = names_of(extras["export"])
    assert for_export == imported_distributions("projects/lite_focus_detr/export") - declared


def requirements_file(name):
    lines = (re.sub("#.*", "", line).strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


def test_pinned_requirements_cover_what_is_declared():
    project = project_table()
    pinned = names_of(requirements_file("requirements.txt"))
    assert names_of(project["dependencies"]) <= pinned
    for_development = names_of(requirements_file("requirements-dev.txt"))
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    assert names_of(extras) - {"lite-focus-detr"} <= pinned | for_development


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_pinned_requirements_are_exact(name):
    for line in requirements_file(name):
        assert re.fullmatch(r"==[^,*]+", str(Requirement(line).specifier)), line


def test_changelog_and_citation_are_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert released[0] == lite_focus_detr.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lite_focus_detr.__version__
    assert citation["license"] == "Apache-2.0"
    papers = {
        identifier["value"] for x in citation["references"] for identifier in x["identifiers"]
    }
    numbers = ("2303.07335", "2307.12612", "2111.14330", "2010.04159", "2203.01305", "2203.03605")
    assert papers == {f"arXiv:{number}" for number in numbers}


#: Makes every object and library an empty file, which is all that is asked of it here.
FAKE_COMPILER = """#!/bin/sh
case "$*" in *-dump*|*--version*|"-v") exec c++ "$@" ;; esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done
"""
MISTAKES = {
    "another_version": "echo 'Cuda compilation tools, release 9.1, V9.1.85'",
    "an_error": "exit 1",
    "no_nvcc": None,
}


def write_script(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch has no CUDA")
@pytest.mark.parametrize("force", ["0", "1"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_cuda_does_not_cost_the_kernels_for_the_cpu(tmp_path, mistake, force):
    if force == "0" and mistake != "an_error":
        pytest.skip("nvcc is not called")
    copy_sources(tmp_path / "checkout")
    home = tmp_path / "cuda"
    (home / "include").mkdir(parents=True)
    (home / "include" / "cuda_runtime_api.h").touch()
    if MISTAKES[mistake] is not None:
        write_script(home / "bin" / "nvcc", f"#!/bin/sh\n{MISTAKES[mistake]}\n")
    compiler = str(write_script(tmp_path / "compiler", FAKE_COMPILER))
    environment = {**os.environ, "CXX": compiler, "CC": compiler, "CUDA_HOME": str(home)}
    environment |= {"FORCE_CUDA": force, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["-v", "--target", str(tmp_path / "target"), str(tmp_path / "checkout")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "target" / "lite_focus_detr" / "ops"
    # The other one is built where Debian's header of ONNX Runtime is installed.
    assert {path.name for path in folder.glob("*.so")} - {"_onnxruntime.so"} == {"_cpu.so"}
    output = done.stdout + done.stderr
    if force == "1":
        assert "lite_focus_detr.ops._cuda is not built, PyTorch code takes its place" in output
    else:
        assert "CUDA kernels are not built: no GPU can be seen; FORCE_CUDA=1" in output


def archive_member(name, content):
    """A file in an ``ar`` archive, which a Debian package is."""
    return f"{name:<48}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)


def test_the_header_of_onnx_runtime_is_that_of_the_package_with_the_hash():
    spec = importlib.util.spec_from_file_location(
        "get_onnxruntime_header", ROOT / "dev" / "get_onnxruntime_header.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    header = b"#define ORT_API_VERSION 21"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as files:
        for name, content in (("./usr/other.h", b"other"), (f"./usr/{script.HEADER}", header)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    files = {"debian-binary": b"2.0\n", "odd": b"odd", "data.tar.xz": stream.getvalue()}
    package = b"!<arch>\n" + b"".join(archive_member(*file) for file in files.items())
    assert script.read_header(package, hashlib.sha256(package).hexdigest()) == header
    with pytest.raises(ValueError, match="the package has the SHA-256"):
        script.read_header(package)
