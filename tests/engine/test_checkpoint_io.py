import argparse
import os
import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lite_focus_detr.engine.checkpoint_io import (
    read_checkpoint,
    remove_partial_files,
    write_atomically,
)


class Touch:
    """Creates a file when it is unpickled by something that executes code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return str(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_with_a_command_line_and_numpy_scalars_are_read(tmp_path, zipped):
    content = {
        "model": {"w": torch.arange(3.0)},
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
    }
    read = read_checkpoint(save(tmp_path / "a.pth", content, zipped))
    assert read["model"]["w"].tolist() == [0.0, 1.0, 2.0]
    assert (read["args"].lr, read["best"]) == (0.1, 0.5)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_arrays_are_read(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    content = {"model": {"w": np.arange(3.0)}, "__author__": "x", "n": np.int64(7)}
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_checkpoint(str(path))
    assert read["model"]["w"].tolist() == [0.0, 1.0, 2.0]
    assert (read["__author__"], read["n"]) == ("x", 7)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "a.pkl"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path, name):
    trace = tmp_path / "executed"
    path, content = tmp_path / name, {"model": Touch(trace)}
    if name == "a.pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        save(path, content, zipped=name == "zip.pth")
    with pytest.raises(ValueError, match=rf"{name} is refused: it wants to import [\w.]+, which"):
        read_checkpoint(str(path))
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip.pth", "legacy.pth", "a.pkl"])
def test_a_truncated_file_is_one_clear_line(tmp_path, kind, keep):
    path, content = tmp_path / kind, {"model": {"w": np.arange(5000.0)}}
    if kind == "a.pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        save(path, {"model": {"w": torch.arange(5000.0)}}, zipped=kind == "zip.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match="is truncated or not a checkpoint") as error:
        read_checkpoint(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["page.pth", "page.pkl"])
@pytest.mark.parametrize("text", [b"<html>404 Not Found</html>", b"hello", bytes(range(256))])
def test_something_else_than_a_checkpoint_is_one_clear_line(tmp_path, name, text):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
        read_checkpoint(str(tmp_path / name))


def test_a_checkpoint_that_is_no_dictionary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds a Tensor, not a dictionary of tensors"):
        read_checkpoint(save(tmp_path / "a.pth", torch.zeros(3)))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match=r"model\.pth \(No space left on device\).*intact"):
        write_atomically(str(path), fail)
    assert os.listdir(tmp_path) == ["model.pth"]
    assert path.read_bytes() == b"old"


def test_who_has_the_old_file_open_still_reads_all_of_it(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old and whole")
    with open(path, "rb") as reader:
        write_atomically(str(path), lambda file: file.write(b"new"))
        assert reader.read() == b"old and whole"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.pth"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    path = str(tmp_path / "model.pth")
    write_atomically(path, lambda file: torch.save({"w": torch.zeros(10)}, file))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"could not write .*model\.pth"):
            write_atomically(path, lambda file: torch.save({"w": torch.zeros(100_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["model.pth"]
    assert read_checkpoint(path)["w"].shape == (10,)


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *x: calls.append("fsync") or fsync(*x))
    monkeypatch.setattr(os, "replace", lambda *x: calls.append("replace") or replace(*x))
    write_atomically(str(tmp_path / "model.pth"), lambda file: file.write(b"new"))
    assert calls == ["fsync", "replace"]


#: ``{"w": numpy.array([1.0, -2.0])}`` as Python 2 pickles it: the numbers are a text of bytes.
PYTHON_2 = (
    b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89U\x10" + struct.pack("<2d", 1.0, -2.0) + b"tbs."
)


def test_a_pickle_of_python_2_is_read(tmp_path):
    (tmp_path / "old.pkl").write_bytes(PYTHON_2)
    assert read_checkpoint(str(tmp_path / "old.pkl"))["w"].tolist() == [1.0, -2.0]


def test_only_partial_files_of_killed_processes_are_removed(tmp_path):
    kept = {"model_0000001.pth", "notes.tmp", "a.tmp1b", "metrics.json"}
    for name in {*kept, "model_0000002.pth.tmp4711", "last_checkpoint.tmp1"}:
        (tmp_path / name).write_text("")
    (tmp_path / "folder.tmp1").mkdir()
    remove_partial_files(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "folder.tmp1"}


def test_safetensors_are_read_and_a_truncated_file_is_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(3.0)}, path)
    assert read_checkpoint(str(path))["w"].tolist() == [0.0, 1.0, 2.0]

    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"model\.safetensors .*truncated or not a checkpoint"):
        read_checkpoint(str(path))


def test_a_pickle_that_is_called_safetensors_is_not_executed(tmp_path):
    trace, path = tmp_path / "executed", tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"model": Touch(trace)}))
    with pytest.raises(ValueError, match="not a checkpoint"):
        read_checkpoint(str(path))
    assert not trace.exists()
