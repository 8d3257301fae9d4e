"""The page that compares detectors."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from lite_focus_detr.analysis.inspection import Inspection
from lite_focus_detr.analysis.sampling import Samples
from lite_focus_detr.visualization.comparison import ComparedImage, ComparedModel, comparison_page
from lite_focus_detr.visualization.style import class_color

SCORES = [0.9, 0.8, 0.55, 0.3, 0.1]


def inspection(size=(480, 640), num_queries=20, heads=2, **changes):
    """A detector that has seen a grey image at half its size, with levels of 8 and 16 pixels."""
    height, width = size
    detections = Instances(size)
    corners = torch.arange(5)[:, None] * torch.tensor([0.15 * width, 0.15 * height])
    side = torch.tensor([0.2 * width, 0.2 * height])
    detections.pred_boxes = Boxes(torch.cat((corners, corners + side), 1))
    detections.scores = torch.tensor(SCORES)
    detections.pred_classes = torch.tensor([0, 1, 0, 1, 0])
    shapes = tuple((-(-height // (2 * s)), -(-width // (2 * s))) for s in (8, 16))
    count = sum(rows * columns for rows, columns in shapes)
    layers = torch.zeros(2, count, dtype=torch.int8)
    layers[0] = 1
    layers[1, : count // 2] = 1
    layers[1, 0] = 2
    torch.manual_seed(0)
    samples = {
        part: Samples(
            torch.rand(num_queries, 2),
            torch.rand(num_queries, heads, 2, 4, 2),
            torch.full((num_queries, heads, 2, 4), 0.125),
        )
        for part in ("encoder", "decoder")
    }
    fields = {
        "name": "FocusDETR, keep ratio 0.3",
        "detections": detections,
        "seconds": {"backbone": 0.02, "encoder": 0.01, "decoder": 0.005, "total": 0.04},
        "spatial_shapes": shapes,
        "strides": (8, 16),
        "resized": (height // 2, width // 2),
        "layers": layers,
        "samples": samples,
    }
    return Inspection(**{**fields, **changes})


def make_page(*models, size=(480, 640), name="cells.png", pixels=None, threshold=0.5):
    if pixels is None:
        pixels = np.full((*size, 3), 150, np.uint8)
    if not models:
        models = [ComparedModel(inspection(size), "a.pth", ["RBC", "WBC"])]
    return comparison_page(ComparedImage(pixels, name), models, threshold=threshold, rounds=3)


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def test_the_page_holds_everything_and_asks_for_nothing():
    page = make_page()
    assert not re.findall(r"""(?:src|href)=["']|@import|url\(|fetch\(|XMLHttp|import\(""", page)
    assert "default-src 'none'" in page
    assert "/*" not in re.sub(r"<script>.*|<style>.*?</style>", "", page, flags=re.DOTALL)


def test_one_class_has_one_colour_in_all_models():
    first = ComparedModel(inspection(), "a.pth", ["RBC", "WBC"])
    second = ComparedModel(inspection(), "b.pth", ["WBC", "Platelets"])
    data = data_of(make_page(first, second))
    assert [x["name"] for x in data["classes"]] == ["RBC", "WBC", "Platelets"]
    assert data["classes"][2]["color"] == "#{:02x}{:02x}{:02x}".format(*class_color(2))
    labels = [[box["label"] for box in model["boxes"]][:2] for model in data["models"]]
    assert labels == [["RBC 90%", "WBC 80%"], ["WBC 90%", "Platelets 80%"]]
    numbers = [[box["class"] for box in model["boxes"]][:2] for model in data["models"]]
    assert numbers == [[0, 1], [1, 2]]


def test_classes_without_names_have_numbers():
    data = data_of(make_page(ComparedModel(inspection(), "a.pth")))
    assert [x["name"] for x in data["classes"]] == ["class 0", "class 1"]


def test_times_are_milliseconds_and_add_up():
    (model,) = data_of(make_page())["models"]
    times = {"backbone": 20, "encoder": 10, "decoder": 5, "rest": 5, "total": 40}
    assert model["times"] == pytest.approx(times)


def test_maps_of_tokens_cover_the_image():
    # 640 x 480 pixels, seen as 320 x 240: 15 rows of 16 pixels are all of them, 15 of 8 half.
    (model,) = data_of(make_page())["models"]
    assert [(x["columns"], x["rows"]) for x in model["levels"]] == [(40, 30), (20, 15)]
    assert [(x["width"], x["height"]) for x in model["levels"]] == [(640, 480), (640, 480)]
    assert [x["counts"] for x in model["layers"]] == [[1200, 300], [750, 0]]


def test_samples_are_kept_by_query_and_level():
    locations = torch.rand(3, 2, 2, 4, 2) * 1.6 - 0.3
    weights = torch.rand(3, 2, 2, 4)
    seen = inspection(
        samples={"encoder": Samples(torch.tensor([[0.25, 0.5]] * 3), locations, weights)}
    )
    (model,) = data_of(make_page(ComparedModel(seen, "a.pth")))["models"]
    samples = model["samples"]["encoder"]
    assert samples["points"] == [[160, 240]] * 3
    values = np.frombuffer(base64.b64decode(samples["values"]), "<u2").reshape(3, 2, 8, 3) / 65535
    for level in range(2):
        places = locations[:, :, level].flatten(1, 2)
        np.testing.assert_allclose(2 * values[:, level, :, :2] - 0.5, places, atol=1e-4)
        np.testing.assert_allclose(
            values[:, level, :, 2], weights[:, :, level].flatten(1), atol=1e-4
        )


def test_a_large_image_is_shown_smaller_and_a_small_one_as_it_is():
    noise = np.random.RandomState(0).randint(0, 256, (2400, 3200, 3), dtype=np.uint8)
    page = make_page(size=(2400, 3200), pixels=noise)
    assert data_of(page)["image"]["width"] == 3200
    assert len(page) < 2_500_000
    small = noise[:48, :64]
    page = make_page(size=(48, 64), pixels=small)
    source = data_of(page)["image"]["source"]
    header, content = source.split(",")
    assert header == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), small)


def test_a_page_with_many_models_stays_small():
    models = [
        ComparedModel(inspection(num_queries=900, heads=8), f"{index}.pth", ["RBC", "WBC"])
        for index in range(6)
    ]
    page = make_page(*models)
    assert len(page) < 5_000_000
    for model in data_of(page)["models"]:
        assert len(model["samples"]["encoder"]["points"]) > 100


def test_labels_are_long_while_they_find_room():
    (model,) = data_of(make_page())["models"]
    assert model["longLabels"] == 5
    assert all(box["long"] and box["short"] for box in model["boxes"])


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "size"), [(390, (1080, 1920)), (1280, (480, 640)), (2560, (60, 40))]
)
def test_a_click_marks_the_pixel_of_the_file(open_page, tmp_path, width, size):
    path = tmp_path / "page.html"
    path.write_text(make_page(size=size))
    page, requests, complaints = open_page(path.as_uri(), width)
    picture = page.locator("svg.picture").first
    picture.scroll_into_view_if_needed()
    shown = picture.locator("image").first.bounding_box()
    for share_x, share_y in ((0.25, 0.6), (0.9, 0.1)):
        x = round(shown["x"] + share_x * shown["width"])
        y = round(shown["y"] + share_y * shown["height"])
        page.mouse.click(x, y)
        expected_x = (x - shown["x"]) / shown["width"] * size[1]
        expected_y = (y - shown["y"]) / shown["height"] * size[0]
        told = [int(z) for z in re.findall(r"\d+", page.locator("#pixel").text_content())]
        assert told == pytest.approx([expected_x, expected_y], abs=2)
        cross = picture.locator(".cross").bounding_box()
        center = (cross["x"] + cross["width"] / 2, cross["y"] + cross["height"] / 2)
        assert center == pytest.approx((x, y), abs=2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert requests == [path.as_uri()]
    assert complaints == []


@pytest.mark.browser
def test_what_is_shown_follows_the_controls(open_page, tmp_path, least_contrast, unlabelled_inputs):
    expect = pytest.importorskip("playwright.sync_api").expect
    path = tmp_path / "page.html"
    path.write_text(make_page())
    page, _, complaints = open_page(path.as_uri())
    found = page.locator(".found")
    slider = page.get_by_label("Confidence")
    assert found.text_content() == "3 objects: 2 RBC, 1 WBC"
    slider.focus()
    page.keyboard.press("Home")
    seen = []
    for percent in range(101):
        expect(page.locator("#confidence-value")).to_have_text(f"{percent} %")
        boxes = page.locator(".detection").filter(visible=True).count()
        assert boxes == sum(100 * score >= percent for score in SCORES)
        seen.append(boxes)
        page.keyboard.press("ArrowRight")
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {5, 4, 3, 2, 1, 0}
    assert found.text_content() == "0 objects, the best has 90 %"
    classes = page.locator("#legend [data-group=classes]").filter(visible=True)
    assert classes.count() == 0
    slider.fill("85")
    assert classes.all_inner_texts() == ["RBC"]
    assert unlabelled_inputs(page) == []
    contrast, text = least_contrast(page)
    assert contrast >= 4.5, text
    assert complaints == []


@pytest.mark.browser
def test_the_picture_obeys_the_keyboard(open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(make_page())
    page, _, complaints = open_page(path.as_uri())
    for _ in range(5):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.classList.value") == "picture"
    page.keyboard.press("ArrowRight")
    assert page.locator("#pixel").text_content() == "pixel 326, 240"
    page.keyboard.press("Shift+ArrowUp")
    assert page.locator("#pixel").text_content() == "pixel 326, 176"
    assert page.locator(".sample").count() == 2 * 2 * 4
    page.get_by_label("Samples of").select_option("none")
    assert page.locator(".sample").count() == 0
    assert page.locator(".cross").count() == 1
    assert complaints == []


def brightness(page):
    with Image.open(io.BytesIO(page.locator("svg.picture").screenshot())) as picture:
        return np.asarray(picture.convert("L")).astype(float)


@pytest.mark.browser
def test_dropped_tokens_are_dark(open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(make_page(threshold=1.0))
    page, _, complaints = open_page(path.as_uri())
    before = brightness(page)
    page.get_by_label("Kept tokens").select_option("1")
    page.get_by_label("Level").select_option("0")
    after = brightness(page)
    # Half of all 1500 tokens, 750, are the first 18.75 of 30 rows of the first level.
    height, width = after.shape
    # The corners are round.
    kept, dropped = after[5 : int(0.6 * height), 5:-5], after[int(0.65 * height) : -5, 5:-5]
    assert kept[:, 20:].min() > 0.7 * before.mean()
    assert dropped.max() < 0.5 * before.mean()
    edge = after[:, width // 4]
    assert np.flatnonzero(edge[5:] < 0.6 * before.mean())[0] + 5 == pytest.approx(
        19 / 30 * height, abs=2
    )
    table = page.get_by_role("table").nth(1).locator("tbody tr")
    assert table.all_inner_texts() == ["1\t1200\t300\t1500\t100", "2\t750\t0\t750\t50"]
    assert complaints == []


@pytest.mark.browser
def test_names_are_text_whatever_they_are(open_page, tmp_path):
    evil = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    path = tmp_path / "page.html"
    model = ComparedModel(inspection(name=evil), evil, [evil, "WBC"])
    path.write_text(make_page(model, name=evil))
    page, requests, complaints = open_page(path.as_uri())
    assert page.locator("h2").text_content() == evil
    assert page.locator(".file").text_content() == evil
    assert evil in page.locator(".found").text_content()
    assert page.locator("h1").text_content().startswith(evil)
    assert page.title() != "taken"
    assert page.locator("img").count() == 0
    assert requests == [path.as_uri()]
    assert complaints == []


@pytest.mark.browser
def test_a_layer_that_a_detector_does_not_have_is_not_drawn(open_page, tmp_path):
    path = tmp_path / "page.html"
    long = inspection()
    short = inspection(layers=long.layers[:1])
    path.write_text(make_page(ComparedModel(long, "a.pth"), ComparedModel(short, "b.pth")))
    page, _, complaints = open_page(path.as_uri())
    for layer, drawn, told in (
        ("0", [2, 2], ["", ""]),
        ("1", [2, 0], ["", "No layer 2: this encoder has 1"]),
        ("", [0, 0], ["", ""]),
    ):
        page.get_by_label("Kept tokens").select_option(layer)
        panels = page.locator("article").all()
        assert [x.locator("image.tokens").count() for x in panels] == drawn
        assert [x.locator(".missing").text_content() for x in panels] == told
    assert complaints == []
