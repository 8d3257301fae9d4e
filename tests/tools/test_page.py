"""The page on which detectors are tried."""

import re
import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr.predictor import Predictor
from lite_focus_detr.tools import page as page_tool
from lite_focus_detr.tools.compare import ComparisonOptions
from lite_focus_detr.tools.page import DetectorView


@pytest.fixture
def make_view(small_config, tmp_path):
    """Views of small detectors with random weights, by the names of their architectures."""

    def make(*architectures, keep_ratios=(0.5, 0.5)):
        predictors = []
        for architecture, ratio in zip(architectures, keep_ratios, strict=False):
            cfg = small_config.clone()
            cfg.MODEL.META_ARCHITECTURE = architecture
            cfg.MODEL.FOCUS.KEEP_RATIOS = [ratio]
            cfg.MODEL.WEIGHTS = str(tmp_path / f"{architecture}.pth")
            model = build_model(cfg)
            for name, parameter in model.named_parameters():
                if "class_embed" in name:  # Some detections shall be sure.
                    torch.nn.init.normal_(parameter, std=0.2)
            torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
            predictors.append(Predictor(cfg))
        return DetectorView(ComparisonOptions(predictors, threshold=0.0, rounds=1))

    return make


@pytest.fixture
def image(tmp_path):
    """A file of 64 x 48 pixels, which detectors see as it is: 65 tokens."""
    path = tmp_path / "photo <b>.png"
    noise = np.random.RandomState(0).randint(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return str(path)


def kept(frame):
    return re.findall(r"counts&quot;:.([0-9,]+)", frame)


def test_the_budget_is_that_of_the_slider(make_view, image):
    view = make_view("FocusDETR")
    assert view.keep_ratio() == 0.5
    for ratio in (0.3, 0.8, 0.3):
        message, frame = view.show(image, ratio)
        assert message == ""
        (counts,) = kept(frame)
        assert sum(map(int, counts.split(","))) == int(ratio * 65) + 1


def test_detectors_without_a_budget_update_all_tokens(make_view, image):
    view = make_view("DeformableDETR")
    assert view.keep_ratio() is None
    _, frame = view.show(image, None)
    assert kept(frame) == ["48,12,4,1"]


@pytest.fixture
def bad_uploads(tmp_path):
    """Files that are no pictures of anything."""
    text, empty, dot = (tmp_path / name for name in ("notes.txt", "empty.png", "dot.png"))
    text.write_text("no image")
    empty.write_bytes(b"")
    Image.new("RGB", (1, 1)).save(dot)
    return {
        str(text): "notes.txt cannot be shown",
        str(empty): "empty.png cannot be shown",
        str(dot): "dot.png is too small, 1 x 1 pixels",
    }


def test_a_bad_upload_gets_a_message(make_view, bad_uploads):
    view = make_view("DeformableDETR")
    for path, expected in bad_uploads.items():
        message, frame = view.show(path, None)
        assert expected in message
        assert "\n" not in message
        assert "/" not in message  # Nobody needs to know where the server keeps it.
        assert frame == ""
    assert view.show(None, None) == ("Upload an image to see what the detectors find in it.", "")


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    arguments = ["--weights", "w.pth", "--config-file", "dino_shapes"]
    with pytest.raises(SystemExit, match=r"pip install 'lite-focus-detr\[page\]'"):
        page_tool.main(arguments)


@pytest.fixture
def serve():
    """Serve the page of a view; returns its address."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")
    pages = []

    def serve(view):
        pages.append(page_tool.build_page(view))
        return page_tool.serve(pages[-1], 0)

    yield serve
    for page in pages:
        page.close()


@pytest.fixture
def served(serve, make_view):
    """The address of the page of a selective and a dense detector."""
    return serve(make_view("FocusDETR", "DeformableDETR"))


def test_only_this_machine_can_reach_the_page(served):
    assert served.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_named(served, make_view):
    port = int(re.findall(r":(\d+)/", served)[0])
    import gradio

    with (
        gradio.Blocks(analytics_enabled=False) as blocks,
        pytest.raises(ValueError, match=str(port)),
    ):
        page_tool.serve(blocks, port)


@pytest.mark.browser
def test_an_image_is_uploaded_and_detected_in(
    served, image, bad_uploads, open_page, least_contrast, unlabelled_inputs
):
    expect = pytest.importorskip("playwright.sync_api").expect
    page, requests, complaints = open_page(served)
    message = page.locator("#message")
    expect(message).to_have_text("Upload an image to see what the detectors find in it.")
    upload = page.locator("input[type=file]")
    upload.set_input_files(image)
    frame = page.frame_locator("iframe")
    focus = frame.locator("article").first.locator("[data-kept]")
    expect(focus).to_have_text(str(int(0.5 * 65) + 1))
    expect(message).to_have_text("")
    page.get_by_label("number input for Keep ratio").fill("0.3")
    expect(focus).to_have_text(str(int(0.3 * 65) + 1))
    expect(frame.locator("h2").first).to_have_text("FocusDETR, keep ratio 0.3")
    expect(frame.locator("article").nth(1).locator("[data-kept]")).to_have_text("65")

    found, slider = frame.locator(".found").first, frame.get_by_label("Confidence")
    assert int(found.get_attribute("data-count")) == 10
    slider.focus()
    counts = []
    for percent in range(0, 100, 10):
        slider.fill(str(percent))
        expect(frame.locator("#confidence-value")).to_have_text(f"{percent} %")
        counts.append(int(found.get_attribute("data-count")))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 10
    assert counts[-1] < 10

    for place in (page, page.frames[1]):
        assert unlabelled_inputs(place) == []
        contrast, text = least_contrast(place)
        assert contrast >= 4.5, text
    for path, expected in bad_uploads.items():
        page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
        expect(message).to_have_text("Upload an image to see what the detectors find in it.")
        upload.set_input_files(path)
        expect(message).to_contain_text(expected)
        expect(page.locator("iframe")).to_have_count(0)
    assert [x for x in requests if not x.startswith(served)] == []
    assert [x for x in complaints if x != "Method not implemented."] == []


@pytest.mark.browser
def test_budgets_are_those_of_the_detectors_until_the_slider_has_moved(
    serve, make_view, image, open_page
):
    expect = pytest.importorskip("playwright.sync_api").expect
    page, _, _ = open_page(serve(make_view("FocusDETR", "FocusDETR", keep_ratios=(0.1, 0.4))))
    page.locator("input[type=file]").set_input_files(image)
    kept = page.frame_locator("iframe").locator("[data-kept]")
    expect(kept).to_have_text([str(int(0.1 * 65) + 1), str(int(0.4 * 65) + 1)])
    slider = page.get_by_label("number input for Keep ratio")
    for ratio in (0.3, 0.4):  # The second is where it was.
        slider.fill(str(ratio))
        expect(kept).to_have_text(2 * [str(int(ratio * 65) + 1)])


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_a_click_marks_the_pixel_at_every_width(served, image, open_page, width):
    expect = pytest.importorskip("playwright.sync_api").expect
    page, _, _ = open_page(served, width)
    page.locator("input[type=file]").set_input_files(image)
    frame = page.frame_locator("iframe")
    picture = frame.locator("svg.picture").first
    picture.scroll_into_view_if_needed()
    shown = picture.bounding_box()
    x, y = round(shown["x"] + 0.3 * shown["width"]), round(shown["y"] + 0.4 * shown["height"])
    page.mouse.click(x, y)
    expect(frame.locator("#pixel")).to_contain_text("pixel")
    told = [int(z) for z in re.findall(r"\d+", frame.locator("#pixel").text_content())]
    expected = [(x - shown["x"]) / shown["width"] * 64, (y - shown["y"]) / shown["height"] * 48]
    assert told == pytest.approx(expected, abs=2)
    for place in (page, page.frames[1]):
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert place.evaluate(overflow) <= 0
