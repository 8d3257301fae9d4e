import hashlib
from pathlib import Path

import pytest
import torch

from lite_focus_detr.engine import find_weights


def test_a_file_is_itself_and_a_missing_one_is_named(tmp_path):
    torch.save({}, tmp_path / "a.pth")
    assert find_weights(str(tmp_path / "a.pth")) == str(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match=r"b\.pth does not exist; check MODEL\.WEIGHTS"):
        find_weights(str(tmp_path / "b.pth"))


def test_an_address_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    fetched = []

    def fetch(url, path):
        fetched.append(url)
        torch.save({"w": torch.ones(2)}, path)

    monkeypatch.setattr("lite_focus_detr.config.download.fetch", fetch)
    path = find_weights("https://example.org/weights/a.pth")
    assert torch.load(path)["w"].tolist() == [1, 1]
    assert find_weights("https://example.org/weights/a.pth") == path
    assert fetched == ["https://example.org/weights/a.pth"]


def test_names_of_detectron2_are_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))

    def fetch(url, path):
        raise OSError(url)

    monkeypatch.setattr("lite_focus_detr.config.download.fetch", fetch)
    place = r"cannot download https://dl\.fbaipublicfiles\.com"
    with pytest.raises(ValueError, match=rf"{place}/detectron2/ImageNetPretrained/R-50\.pkl"):
        find_weights("detectron2://ImageNetPretrained/R-50.pkl")
    with pytest.raises(ValueError, match=rf"{place}/detectron/ImageNetPretrained/MSRA/R-50\.pkl"):
        find_weights("catalog://ImageNetPretrained/MSRA/R-50")
    with pytest.raises(ValueError, match="catalog://ImageNetPretrained/R-49 is not in"):
        find_weights("catalog://ImageNetPretrained/R-49")


@pytest.mark.fault(area="checkpoints", expected="refused")
def test_what_is_no_checkpoint_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))

    def fetch(url, path):
        with open(path, "wb") as file:
            file.write(b"<html>not found</html>")

    monkeypatch.setattr("lite_focus_detr.config.download.fetch", fetch)
    with pytest.raises(ValueError, match=r"a\.pth .*what the server sends .*not a checkpoint"):
        find_weights("https://example.org/a.pth")
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.fault(area="checkpoints", expected="refused")
def test_the_query_of_an_address_is_sent_and_its_hash_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    fetched = []

    def fetch(url, path):
        fetched.append(url)
        Path(path).write_bytes(content)

    monkeypatch.setattr("lite_focus_detr.config.download.fetch", fetch)
    address = "https://example.org/a.pth?token=1&matching_heuristics=True&x=2"
    with pytest.raises(ValueError, match=f"SHA-256 .*not {'0' * 64}"):
        find_weights(f"{address}#sha256={'0' * 64}")
    path = find_weights(f"{address}#sha256={hashlib.sha256(content).hexdigest()}")
    assert Path(path).read_bytes() == content
    assert fetched == 2 * ["https://example.org/a.pth?token=1&x=2"]


def test_the_heuristics_of_detectron2_are_no_part_of_a_name(tmp_path):
    torch.save({}, tmp_path / "a.pth")
    found = find_weights(f"{tmp_path / 'a.pth'}?matching_heuristics=True")
    assert found == str(tmp_path / "a.pth")
