"""The stamp in the file of a library, and which GPUs its code runs on."""

import hashlib
from pathlib import Path

import pytest

from lite_focus_detr import ops
from lite_focus_detr.ops import library_file

KERNELS = Path(__file__).parents[2] / "kernels"


def write_library(path, interface, architectures=()):
    text = library_file.stamp_text(interface, architectures).encode()
    path.write_bytes(b"\x7fELF" + bytes(5000) + text + b"\0" + bytes(5000))
    return path


@pytest.mark.parametrize("architectures", [(), ("8.0", "9.0+PTX")])
def test_a_stamp_is_found_anywhere_in_the_file(tmp_path, architectures):
    path = write_library(tmp_path / "_cuda.so", "0123456789abcdef", architectures)
    assert library_file.read_stamp(path) == ("0123456789abcdef", architectures)


@pytest.mark.parametrize("content", [b"", b"no library", b"lite_focus_detr build 0123 8.0\0"])
def test_a_file_without_a_stamp_has_none(tmp_path, content):
    path = tmp_path / "_cpu.so"
    path.write_bytes(content)
    assert library_file.read_stamp(path) is None


def test_the_digest_changes_with_the_interface_alone(tmp_path):
    for name in (*library_file.INTERFACE, "cpu/schedule.cpp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    joined = "".join(library_file.INTERFACE).encode()
    before = library_file.interface_digest(tmp_path)
    assert before == hashlib.sha256(joined).hexdigest()[:16]
    (tmp_path / "cpu/schedule.cpp").write_text("other")
    assert library_file.interface_digest(tmp_path) == before
    (tmp_path / "problem.h").write_text("other")
    assert library_file.interface_digest(tmp_path) != before


@pytest.mark.usefixtures("native")
def test_the_library_that_runs_has_the_stamp_of_the_sources():
    (path,) = Path(ops.__file__).parent.glob("_cpu.*so")
    assert library_file.read_stamp(path) == (library_file.interface_digest(KERNELS), ())


@pytest.mark.parametrize(
    ("architectures", "capability", "covered"),
    [
        (("8.0", "9.0+PTX"), (8, 0), True),
        (("8.0", "9.0+PTX"), (8, 9), True),  # machine code of a smaller minor version
        (("8.6",), (8, 0), False),
        (("8.0", "9.0+PTX"), (7, 5), False),  # a T4
        (("8.0", "9.0+PTX"), (12, 0), True),  # through PTX
        (("8.0", "9.0"), (12, 0), False),
        (("7.5", "8.0+PTX"), (9, 0), True),
        (("12.0",), (12, 1), True),
        ((), (8, 0), False),
    ],
)
def test_machine_code_serves_its_major_version_and_ptx_everything_later(
    architectures, capability, covered
):
    assert library_file.covers(architectures, capability) is covered
