"""Set-ups that were ended while they wrote, and what the next one makes of it."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Stands for pip: installs files named in $WHEEL, one by one, and can be ended after any of them.
PIP = """
import os, pathlib, sys
if any(word.startswith("git+") for word in sys.argv):
    raise SystemExit(1)
target = pathlib.Path(sys.argv[sys.argv.index("--target") + 1])
for number, line in enumerate(os.environ["WHEEL"].splitlines()):
    if str(number) == os.environ.get("END_AFTER"):
        os.kill(os.getppid(), 9)
        os.kill(os.getpid(), 9)
    name, _, content = line.partition("=")
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content.replace(";", chr(10)))
"""


# Stands for an interpreter: `python -m venv` without the half minute that pip takes.
PYTHON = """#!/bin/sh
test "$1" = -m || exit 0
test "$3" != --clear || { rm -rf "$4"; shift; }
mkdir -p "$3/bin" && touch "$3/bin/pip"
"""


def wheel(version):
    """Files of a package and, as in wheels, at last its metadata."""
    info = f"sal_detectron2-{version}.dist-info"
    files = {
        "detectron2/__init__.py": f"__version__ = '{version}'",
        "detectron2/a.py": version,
        f"detectron2/only_{version[0]}.py": "",
        f"{info}/METADATA": "Name: sal-detectron2",
    }
    record = ",,;".join([*files, f"{info}/RECORD"]) + ",,"
    return "\n".join(f"{name}={text}" for name, text in {**files, f"{info}/RECORD": record}.items())


@pytest.fixture
def environment(tmp_path):
    """A virtual environment with the pip above and without a network."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(PIP)
    (packages / "other.py").write_text("kept")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    return packages


def install(tmp_path, version, end_after=None):
    variables = {"WHEEL": wheel(version)}
    if end_after is not None:
        variables["END_AFTER"] = str(end_after)
    return subprocess.run(
        [ROOT / "dev/install_detectron2.sh", tmp_path / "venv/bin/python"],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def installed(packages):
    return sorted(str(x.relative_to(packages)) for x in packages.glob("*detectron2*/*.*y"))


@pytest.mark.fault(area="installation", expected="survived")
@pytest.mark.parametrize("end_after", range(5), ids=lambda n: f"after {n} files")
@pytest.mark.parametrize("before", [None, "1.0"], ids=["first", "another version"])
def test_detectron2_is_whole_after_a_run_that_was_ended(tmp_path, environment, before, end_after):
    if before:
        assert install(tmp_path, before).returncode == 0
    assert install(tmp_path, "2.0", end_after).returncode == -signal.SIGKILL
    done = install(tmp_path, "2.0")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "detectron2 2.0")
    names = [f"detectron2/{name}.py" for name in ("__init__", "a", "only_2")]
    assert installed(environment) == names
    assert (environment / "detectron2/a.py").read_text() == "2.0"
    assert len(list(environment.glob("*.dist-info"))) == 1
    assert not list(environment.glob(".new_*"))
    assert (environment / "other.py").read_text() == "kept"


@pytest.mark.fault(area="installation", expected="survived")
def test_a_half_copied_detectron2_without_metadata_is_replaced(tmp_path, environment):
    (environment / "detectron2").mkdir()
    (environment / "detectron2/a.py").write_text("half")
    (environment / "detectron2/stale.py").touch()
    assert install(tmp_path, "2.0").returncode == 0
    assert (environment / "detectron2/a.py").read_text() == "2.0"
    assert not (environment / "detectron2/stale.py").exists()


@pytest.mark.fault(area="installation", expected="refused")
def test_an_installation_that_lacks_a_file_does_not_count_as_one(tmp_path, environment):
    (environment / "pip" / "__main__.py").write_text(PIP + "(target / 'detectron2/a.py').unlink()")
    done = install(tmp_path, "2.0")
    assert done.returncode == 1
    assert "detectron2 is not complete: 1 installed, " in done.stderr
    assert "detectron2/a.py" in done.stderr


def package(packages, name, files):
    """An installed package with a list of its files and their sizes."""
    info = packages / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    rows = [f"{name}-1.0.dist-info/METADATA,,", f"{name}-1.0.dist-info/RECORD,,"]
    for file, text in files.items():
        (packages / file).parent.mkdir(exist_ok=True)
        (packages / file).write_text(text)
        rows.append(f"{file},sha256=x,{len(text)}")
    (info / "RECORD").write_text("\n".join(rows))
    return info


@pytest.mark.fault(area="installation", expected="survived")
def test_packages_that_are_incomplete_are_installed_again(tmp_path, environment):
    infos = {
        name: package(environment, name, {f"{name}/a.py": "a = 1", f"{name}/b.py": "b = 1"})
        for name in ("whole", "lacks_a_file", "has_half_a_file", "has_no_list")
    }
    (environment / "lacks_a_file/b.py").unlink()
    (environment / "has_half_a_file/b.py").write_text("b")
    (infos["has_no_list"] / "RECORD").unlink()
    (environment / "~oved").mkdir()
    done = subprocess.run(
        [tmp_path / "venv/bin/python", ROOT / "dev/mend_environment.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [name for name, info in infos.items() if info.exists()] == ["whole"]
    assert not (environment / "~oved").exists()
    for reason in ("b.py is missing", "b.py has 1 of 5 bytes", "no list of files"):
        assert done.stdout.count(reason) == 1


@pytest.mark.fault(area="installation", expected="survived")
@pytest.mark.parametrize("ended", [True, False], ids=["half there", "of the user"])
def test_an_environment_that_is_half_there_is_made_anew_and_a_users_own_is_not(tmp_path, ended):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "mine").touch()
    if ended:
        (tmp_path / "venv.incomplete").touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    subprocess.run(
        ["make", f"VENV={venv}", f"PYTHON={tmp_path}/python", f"{venv}/.created"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert (venv / "mine").exists() is not ended
    assert (venv / "bin/pip").exists()
    assert not (tmp_path / "venv.incomplete").exists()
