"""Damage to files is found wherever it is; nothing larger than the file comes out of it."""

import io
import os
import zipfile
from contextlib import contextmanager

import pytest
import torch

from lite_focus_detr.engine.checkpoint_digest import DamagedFileError, append_digest, require_intact
from lite_focus_detr.engine.checkpoint_io import read_checkpoint, write_checkpoint

CONTENTS = {
    "model": {"w": torch.arange(5.0), "b": torch.zeros(3)},
    "trainer": {"optimizer": {"exp_avg": torch.ones(2)}},
    "iteration": 7,
}


@contextmanager
def flipped(path, bit):
    """One bit of a file is another for a while. Writing all of it anew takes much longer."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(bit // 8)
        byte = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte[0] ^ 1 << bit % 8]))
        yield
        file.seek(bit // 8)
        file.write(byte)


@pytest.mark.fault(area="checkpoints", expected="refused")
def test_a_flip_of_any_single_bit_of_a_file_of_ours_is_refused_with_its_name(tmp_path):
    path = tmp_path / "model.pth"
    write_checkpoint(str(path), CONTENTS)
    for bit in range(8 * path.stat().st_size):
        with flipped(path, bit), pytest.raises(ValueError, match=r"model\.pth .*is damaged"):
            read_checkpoint(str(path))
    assert read_checkpoint(str(path))["iteration"] == 7


@pytest.mark.fault(area="checkpoints", expected="refused")
@pytest.mark.parametrize(
    "size", [1, 4095, 4096, 4097, (1 << 20) - 150, 1 << 20, (5 << 20) + 13], ids="{} bytes".format
)
def test_flips_are_found_in_files_of_any_size(tmp_path, size):
    path = tmp_path / "model.pth"
    random = torch.Generator().manual_seed(0)
    content = torch.randint(256, (size,), dtype=torch.uint8, generator=random)
    write_checkpoint(str(path), {"w": content})
    assert torch.equal(read_checkpoint(str(path))["w"], content)
    for bit in torch.randint(8 * path.stat().st_size, (20,), generator=random).tolist():
        with flipped(path, bit), pytest.raises(DamagedFileError):
            require_intact(str(path))


@pytest.mark.fault(area="checkpoints", expected="refused")
@pytest.mark.parametrize("ours", [True, False], ids=["of ours", "published"])
def test_flips_in_large_files_are_found_while_they_are_read(tmp_path, ours):
    path = tmp_path / "model.pth"
    random = torch.Generator().manual_seed(0)
    contents = {"model": {str(n): torch.randn(1 << 18, generator=random) for n in range(6)}}
    if ours:
        write_checkpoint(str(path), contents)
    else:
        torch.save(contents, path)
    size = 8 * path.stat().st_size
    assert torch.equal(read_checkpoint(str(path))["model"]["5"], contents["model"]["5"])
    # Tensors; and of ours what says where they lie, which is read before damage is known.
    bits = [*torch.randint(size // 50, size - size // 50, (10,), generator=random).tolist()]
    if ours:
        bits += [*range(0, 8000, 501), *range(size - 8000, size, 501)]
    for bit in bits:
        with flipped(path, bit), pytest.raises(ValueError, match=r"model\.pth .*is damaged"):
            read_checkpoint(str(path))


@pytest.mark.fault(area="checkpoints", expected="refused")
@pytest.mark.parametrize(
    "distance", [8, 4096, 1 << 20], ids=["swapped words", "swapped rows", "swapped blocks"]
)
def test_swapped_words_rows_and_blocks_are_found(tmp_path, distance):
    path = tmp_path / "model.pth"
    write_checkpoint(str(path), {"w": torch.randn(1 << 20, dtype=torch.float64)})
    whole = bytearray(path.read_bytes())
    start = 2 << 20
    first, second = slice(start, start + distance), slice(start + distance, start + 2 * distance)
    whole[first], whole[second] = whole[second], whole[first]
    path.write_bytes(whole)
    with pytest.raises(DamagedFileError, match="does not fit its digest"):
        require_intact(str(path))


@pytest.mark.fault(area="checkpoints", expected="refused")
@pytest.mark.parametrize(
    "change",
    [lambda x: x[:-1], lambda x: x + b"\0", lambda x: b"\0" + x],
    ids=["without the last byte", "a byte more", "a byte before"],
)
def test_files_of_ours_that_are_shorter_or_longer_are_refused(tmp_path, change):
    path = tmp_path / "model.pth"
    write_checkpoint(str(path), CONTENTS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.pth .*(damaged|truncated)"):
        read_checkpoint(str(path))


def test_other_programs_read_a_file_with_a_digest(tmp_path):
    path = str(tmp_path / "model.pth")
    write_checkpoint(path, CONTENTS)
    assert torch.load(path, weights_only=True)["model"]["w"].tolist() == [0, 1, 2, 3, 4]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.fault(area="checkpoints", expected="refused")
def test_flips_in_the_members_of_published_archives_are_refused(tmp_path):
    path = tmp_path / "published.pth"
    torch.save(CONTENTS, path)
    found = r"published\.pth is damaged: Bad CRC-32 .*file"
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as content:
                start = archive.fp.tell()
                size = len(content.read())
            for bit in range(8 * start, 8 * (start + size), 7):
                with flipped(path, bit), pytest.raises(ValueError, match=found):
                    read_checkpoint(str(path))


def test_an_archive_that_was_saved_without_checksums_is_read(tmp_path):
    path = str(tmp_path / "model.pth")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENTS, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(path)["iteration"] == 7


def repacked(path, compression):
    """An archive of PyTorch, its members written anew."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("ours", [False, True], ids=["", "with a digest"])
@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=["deflated", "bzip2"]
)
def test_compressed_members_are_refused_before_they_are_inflated(tmp_path, compression, ours):
    path = str(tmp_path / "bomb.pth")
    torch.save({"w": torch.zeros(1 << 20)}, path)
    repacked(path, compression)
    if ours:
        with open(path, "r+b") as file:
            file.seek(0, os.SEEK_END)
            append_digest(file)
    assert os.path.getsize(path) < 100_000
    with pytest.raises(ValueError, match=r"bomb\.pth is refused: it has compressed"):
        read_checkpoint(path)


@pytest.mark.fault(area="security", expected="refused")
def test_members_that_overlap_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(1 << 16)}, path)
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02", 0, content.index(b"data/0", len(content) - 1000))
    # The size of the member data/0 in the central directory, as it is and inflated.
    for field in (directory + 20, directory + 24):
        content[field : field + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bomb\.pth is refused: it has members that are larger"):
        read_checkpoint(str(path))


def test_only_an_archive_without_a_comment_gets_a_digest():
    file = io.BytesIO(bytes(30))
    file.seek(0, os.SEEK_END)
    with pytest.raises(ValueError, match="without a comment"):
        append_digest(file)
