"""Files of installed packages; the package here is a folder with what pip would write."""

import hashlib
import re

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr import model_zoo
from lite_focus_detr.config.installed_file import installed_file
from lite_focus_detr.engine import DetrCheckpointer

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "pip://some-weights==1.2.0/some_weights/models/w.pth"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Folder of some-weights 1.2.0, which must not be imported."""
    folder = tmp_path / "some_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "models" / "w.pth").write_bytes(CONTENT)
    information = tmp_path / "some_weights-1.2.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.2.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("end", ["", f"#sha256={SHA256}"])
def test_a_file_of_an_installed_package_is_found(package, end):
    assert installed_file(URL + end) == str(package / "models" / "w.pth")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        (
            URL.replace("some-", "other-"),
            "other-weights, which is not here: pip install other-weig",
        ),
        (URL.replace("1.2.0", "1.3"), "some-weights 1.3, not 1.2.0: pip install some-weights==1.3"),
        (URL + "x", "w.pthx, which some-weights 1.2.0 does not have"),
        (
            URL + "#sha256=" + "0" * 64,
            "has not the SHA-256 .* pip install some-weights==1.2.0 --fo",
        ),
        (URL + "#md5=0", "must end with #sha256="),
        (URL.replace("==1.2.0", ""), "is not of the form pip://PACKAGE==VERSION/path"),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_the_remedy(package, url, line):
    with pytest.raises(ValueError, match=line) as error:
        installed_file(url)
    assert "\n" not in str(error.value)


def test_model_weights_take_such_a_file(package):
    cfg = model_zoo.get_config("dino_shapes", ["MODEL.DEVICE", "cpu"])
    model, trained = build_model(cfg), build_model(cfg)
    torch.save({"model": trained.state_dict()}, package / "models" / "w.pth")
    DetrCheckpointer(model, cfg=cfg, for_inference=True).load(URL)
    for loaded, expected in zip(model.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(loaded, expected, rtol=0, atol=0)


def test_the_weights_of_a_configuration_are_pinned():
    url = model_zoo.get_config("lite_dino_small_pretrained").MODEL.WEIGHTS
    assert re.fullmatch(r"pip://[\w-]+==[\d.]+/\S+\.pth#sha256=[0-9a-f]{64}", url)
