"""Libraries that are not all there, or of something else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lite_focus_detr import ops
from lite_focus_detr.ops.shared_library import library_fault


@pytest.fixture(scope="module")
def library():
    """Some shared library that this process has loaded: that of the kernels, or of NumPy."""
    built = sorted(Path(ops.__file__).parent.glob("_cpu.*so"))
    if built:
        return built[0]
    import numpy as np

    return sorted(Path(np.__file__).parent.rglob("_multiarray_umath*.so"))[0]


def test_a_whole_library_may_be_loaded(library):
    assert library_fault(str(library)) is None


@pytest.mark.fault(area="operators", expected="survived")
@pytest.mark.parametrize("keep", [64, 65, 4096, 0.1, 0.5, 0.9, 0.999, -1], ids="kept {}".format)
def test_a_library_that_lacks_its_end_is_named_truncated(library, tmp_path, keep):
    content = library.read_bytes()
    size = keep if isinstance(keep, int) else int(keep * len(content))
    (tmp_path / "a.so").write_bytes(content[:size])
    found = rf"is truncated: it has {(tmp_path / 'a.so').stat().st_size} of at least \d+ bytes"
    assert re.fullmatch(found, library_fault(str(tmp_path / "a.so")))


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"text" * 100])
def test_what_the_loader_refuses_by_itself_is_left_to_it(tmp_path, content):
    (tmp_path / "a.so").write_bytes(content)
    assert library_fault(str(tmp_path / "a.so")) is None


@pytest.mark.fault(area="operators", expected="survived")
def test_a_library_for_another_machine_is_named(library, tmp_path):
    content = bytearray(library.read_bytes())
    content[18:20] = (8).to_bytes(2, "little")  # MIPS
    (tmp_path / "a.so").write_bytes(content)
    assert library_fault(str(tmp_path / "a.so")) == (
        f"is for another machine than {os.uname().machine}"
    )


def backend_of_a_process(tmp_path, library):
    """What a new process says whose kernels are the file ``library``."""
    package = tmp_path / "lite_focus_detr"
    shutil.copytree(
        Path(ops.__file__).parent, package / "ops", ignore=shutil.ignore_patterns("*.so")
    )
    (package / "__init__.py").touch()
    shutil.copy(library, package / "ops" / "_cpu.so")
    code = (
        "from lite_focus_detr import ops; print(ops.backend('cpu'), ops.unavailable_reason('cpu'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.fault(area="operators", expected="survived")
@pytest.mark.parametrize("kind", ["truncated", "foreign"])
def test_the_reference_takes_over_and_says_why(library, tmp_path, kind):
    bad = tmp_path / "bad.so"
    if kind == "truncated":
        content = library.read_bytes()
        bad.write_bytes(content[: len(content) // 2])
        reason = "_cpu.so is truncated: it has"
    else:
        import _ctypes

        shutil.copy(_ctypes.__file__, bad)
        reason = "_cpu.so is of another version or another project: it has no ms_deform_attn, "
    done = backend_of_a_process(tmp_path, bad)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"reference {reason}")
    assert "Traceback" not in done.stderr
    assert done.stderr.count(reason) == 1
