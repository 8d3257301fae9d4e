"""Pickles that would execute code, or need memory without end, in the three forms of a file."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from lite_focus_detr.engine.checkpoint_io import read_checkpoint
from lite_focus_detr.engine.restricted_pickle import ArrayUnpickler


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def stack_global(module, name):
    return text(module) + text(name) + b"\x93"


def unicode_line(value):
    return b"V" + value.encode() + b"\n"


#: How a pickle calls a function, each with the path of a file that it would make.
CALLS = {
    "reduce os.system": lambda path: b"cos\nsystem\n" + text(f"touch {path}") + b"\x85R.",
    "reduce posix.system": lambda path: b"cposix\nsystem\n" + text(f"touch {path}") + b"\x85R.",
    "builtins.eval": lambda path: (
        b"cbuiltins\neval\n" + text(f"open({str(path)!r}, 'w')") + b"\x85R."
    ),
    "builtins.exec": lambda path: (
        b"cbuiltins\nexec\n" + text(f"open({str(path)!r}, 'w')") + b"\x85R."
    ),
    "Python 2 names": lambda path: (
        b"c__builtin__\neval\n" + text(f"open({str(path)!r}, 'w')") + b"\x85R."
    ),
    "builtins.open": lambda path: b"cbuiltins\nopen\n" + text(str(path)) + text("w") + b"\x86R.",
    "getattr of a module": lambda path: (
        b"cbuiltins\ngetattr\ncposix\n__dict__\n" + text("system") + b"\x86R."
    ),
    "subprocess": lambda path: (
        b"csubprocess\nPopen\n](" + text("touch") + text(str(path)) + b"e\x85R."
    ),
    "pathlib": lambda path: (
        b"cpathlib\nPath.touch\ncpathlib\nPosixPath\n" + text(str(path)) + b"\x85R\x85R."
    ),
    "runpy": lambda path: b"crunpy\nrun_path\n" + text(str(path)) + b"\x85R.",
    "inst": lambda path: b"(" + unicode_line(f"touch {path}") + b"ios\nsystem\n.",
    "obj": lambda path: b"(cos\nsystem\n" + text(f"touch {path}") + b"o.",
    "newobj": lambda path: b"cio\nFileIO\n" + text(str(path)) + text("w") + b"\x86\x81.",
    "stack_global": lambda path: (
        b"\x80\x04" + stack_global("os", "system") + text(f"touch {path}") + b"\x85R."
    ),
    "dotted name": lambda path: (
        b"\x80\x04" + stack_global("collections", "_sys.modules") + text("os") + b"\x85R."
    ),
    "numpy": lambda path: b"cnumpy.f2py\ncompile\n" + text(f"touch {path}") + b"\x85R.",
    "torch": lambda path: b"ctorch.utils.file_baton\nFileBaton\n" + text(str(path)) + b"\x85R.",
    "extension": lambda path: b"\x80\x02\x82\x01.",
    "persistent": lambda path: text(str(path)) + b"Q.",
}


def written(folder, kind, content):
    """A file whose pickle is ``content``: an array pickle, an archive or one of old PyTorch."""
    path = folder / f"evil.{'pkl' if kind == 'pkl' else 'pth'}"
    if kind != "zip":
        path.write_bytes(content)
        return str(path)
    torch.save({"w": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name.endswith("data.pkl") else old)
    return str(path)


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("kind", ["pkl", "zip", "legacy"])
@pytest.mark.parametrize("call", CALLS)
def test_pickles_that_call_something_are_refused_and_call_nothing(tmp_path, kind, call):
    trace = tmp_path / "executed"
    path = written(tmp_path, kind, CALLS[call](trace))
    with pytest.raises(ValueError, match=r"evil\.p(kl|th).* (is refused|is truncated or not a)"):
        read_checkpoint(path)
    assert not trace.exists()


def test_the_same_pickles_execute_code_elsewhere(tmp_path):
    """Otherwise the test above would prove nothing."""
    for call in ("reduce os.system", "inst", "obj", "stack_global", "builtins.eval"):
        trace = tmp_path / call
        pickle.loads(CALLS[call](tmp_path / "executed"))
        assert (tmp_path / "executed").exists(), call
        (tmp_path / "executed").rename(trace)


#: Pickles of a few bytes that claim to be enormous.
BOMBS = {
    "memo": b"]r\xff\xff\xff\xff.",
    "memo in text": b"]p99999999999999\n.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "unicode": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".",
    "array": (
        b"cnumpy\nndarray\n\x8a\x08" + struct.pack("<q", 1 << 60) + b"\x85\x85R."
    ),
    "growing text": text("a") + b"".join(
        b"q\x000c_codecs\nencode\nh\x00" + text("hex") + b"\x86R" for _ in range(40)
    ) + b".",
}  # fmt: skip


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("kind", ["pkl", "zip", "legacy"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_pickles_that_claim_to_be_enormous_are_refused(tmp_path, kind, bomb):
    path = written(tmp_path, kind, BOMBS[bomb])
    with pytest.raises(ValueError, match=r"evil\.p(kl|th)"):
        read_checkpoint(path)


def test_a_view_that_repeats_one_element_is_refused(tmp_path):
    path = str(tmp_path / "evil.pth")
    torch.save({"model": {"w": torch.zeros(1).expand(1 << 40)}}, path)
    with pytest.raises(ValueError, match=r"evil\.pth is refused: model\.w of shape .* is larger"):
        read_checkpoint(path)


@pytest.mark.fault(area="checkpoints", expected="survived")
def test_a_dictionary_that_contains_itself_is_read(tmp_path):
    contents = {"model": {"w": torch.ones(2)}}
    contents["again"] = [contents]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": np.ones(2)}))
    torch.save(contents, tmp_path / "a.pth")
    assert read_checkpoint(str(tmp_path / "a.pth"))["model"]["w"].tolist() == [1, 1]


ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.arange(6, dtype=">i4"),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.array(["a", "bc"]),
    np.array([b"a", b"bc"]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.float32(0.5),
    np.bool_(True),
]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda x: str(x.dtype))
def test_arrays_come_back_as_they_were(array, protocol):
    data = pickle.dumps(array, protocol)
    read, expected = ArrayUnpickler(io.BytesIO(data), encoding="latin1").load(), pickle.loads(data)
    assert read.dtype == expected.dtype
    assert np.array_equal(read, array)
    assert read.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.array([(1, 2.0)], "i4,f8"), np.dtype("O"), np.dtype("V4")],
    ids=["array of objects", "array with fields", "type of objects", "type of raw memory"],
)
def test_types_whose_memory_is_not_only_numbers_are_refused(value):
    data = io.BytesIO(
        pickle.dumps(value, 2).replace(b"builtins\nobject", b"collections\nOrderedDict")
    )
    with pytest.raises(pickle.UnpicklingError, match="unsupported GLOBAL"):
        ArrayUnpickler(data, encoding="latin1").load()


@pytest.mark.fault(area="security", expected="refused")
def test_a_type_that_claims_to_hold_objects_is_refused():
    """With these flags NumPy would take numbers of the file for addresses."""
    flags = b"(K\x03" + text("<") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x3ft"
    data = b"cnumpy\ndtype\n(" + text("f8") + b"\x89\x88tR" + flags + b"b."
    assert pickle.loads(data).flags == 0x3F
    with pytest.raises(pickle.UnpicklingError, match=r"unsupported GLOBAL numpy\.dtype"):
        ArrayUnpickler(io.BytesIO(data)).load()


def test_scalars_of_a_training_state_do_not_change_the_types_of_numpy(tmp_path):
    path = str(tmp_path / "a.pth")
    torch.save({"best": np.float64(0.5), "count": np.int64(3)}, path)
    read = read_checkpoint(path)
    assert (read["best"], read["count"]) == (0.5, 3)
    assert np.dtype("f8").flags == 0
