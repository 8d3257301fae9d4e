"""The comparison of detectors as one page."""

import json
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr.engine.detector_record import Classes, DetectorRecord
from lite_focus_detr.tools import compare


@pytest.fixture
def arguments(small_config, tmp_path):
    """For an image of 64 x 48 pixels and two detectors, a selective and a dense one."""
    files = {}
    for architecture in ("FocusDETR", "DeformableDETR"):
        small_config.MODEL.META_ARCHITECTURE = architecture
        small_config.MODEL.FOCUS.KEEP_RATIOS = [0.3]
        config_file, weights = (tmp_path / f"{architecture}.{x}" for x in ("yaml", "pth"))
        config_file.write_text(small_config.dump())
        torch.save({"model": build_model(small_config).state_dict()}, weights)
        files[str(weights)] = str(config_file)
    image = tmp_path / "photo.png"
    noise = np.random.RandomState(0).randint(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    return ["--image", str(image), "--weights", *files, "--config-file", *files.values()]


def data_of(page):
    (text,) = re.findall(r'id="data">(.*?)</script>', page.read_text())
    return json.loads(text)


def test_one_command_writes_the_page_and_says_where(arguments, tmp_path, capsys):
    output = tmp_path / "new" / "page.html"
    compare.main([*arguments, "--output", str(output)])
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(output)
    data = data_of(output)
    assert data["image"]["name"] == "photo.png"
    assert (data["image"]["width"], data["image"]["height"]) == (64, 48)
    focus, dense = data["models"]
    assert [focus["name"], dense["name"]] == ["FocusDETR, keep ratio 0.3", "DeformableDETR"]
    # 6 x 8, 3 x 4, 2 x 2 and 1 x 1 tokens; one more than the share that is rounded down.
    (kept,), (all_tokens,) = ([sum(x["counts"]) for x in m["layers"]] for m in (focus, dense))
    assert kept == int(0.3 * 65) + 1
    assert all_tokens == 65
    for model in data["models"]:
        assert set(model["times"]) == {"backbone", "encoder", "decoder", "rest", "total"}
        assert min(model["times"].values()) >= 0
        assert model["times"]["total"] > 0


def test_checkpoints_that_know_what_they_are_of_need_nothing_else(small_config, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    classes = Classes(("RBC", "WBC", "<b>"))
    record = DetectorRecord(small_config, classes=classes, iteration=lambda: 80)
    record.note_evaluation({"bbox": {"AP": 31.4, "threshold": 0.37}})
    weights = tmp_path / "w.pth"
    model = build_model(small_config).state_dict()
    torch.save({"model": model, "detector": record.state_dict()}, weights)
    output = tmp_path / "page.html"
    options = ["--image", str(tmp_path / "photo.png"), "--weights", str(weights)]
    compare.main([*options, "--output", str(output)])
    data = data_of(output)
    assert [x["name"] for x in data["classes"]] == ["RBC", "WBC", "<b>"]
    assert data["threshold"] == 0.37
    assert data["models"][0]["file"] == str(weights)


def test_classes_have_the_names_of_the_data_set(arguments, tmp_path):
    compare.main([*arguments, "--output", str(tmp_path / "page.html")])
    names = [x["name"] for x in data_of(tmp_path / "page.html")["classes"]]
    assert names == ["rectangle", "ellipse", "triangle"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--image", "/no/such.png"], "/no/such.png"),
        (["--weights", "/no/such.pth"], "give --config-file one name"),
        (["--rounds", "0"], "--rounds 0"),
        (["--confidence-threshold", "30"], "--confidence-threshold 30"),
    ],
)
def test_a_mistake_is_one_line(arguments, tmp_path, change, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        compare.main([*arguments, "--output", str(tmp_path / "page.html"), *change])
    told = f"{exit_info.value.code} {capsys.readouterr().err}"
    assert message in told
    assert not (tmp_path / "page.html").exists()


def test_a_place_that_cannot_be_written_is_one_line_before_any_work(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(compare, "load_predictors", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="--output: cannot write"):
        compare.main([*arguments, "--output", str(tmp_path / "file" / "page.html")])


@pytest.mark.browser
def test_the_page_works_in_a_browser(arguments, tmp_path, open_page):
    output = tmp_path / "page.html"
    compare.main([*arguments, "--output", str(output), "--confidence-threshold", "0"])
    page, requests, complaints = open_page(output.as_uri())
    pictures = page.locator("svg.picture")
    assert pictures.count() == 2
    pictures.first.click(position={"x": 100, "y": 60})
    for attention in ("encoder", "decoder"):
        page.get_by_label("Samples of").select_option(attention)
        for index in range(2):
            # 2 heads, 4 levels, 4 points.
            assert pictures.nth(index).locator(".sample").count() == 2 * 4 * 4
    assert requests == [output.as_uri()]
    assert complaints == []
