import base64
import io
import re
import shutil
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from tests.visualization.test_report_tables import SCRIPT, quality

from lite_focus_detr import visualization
from lite_focus_detr.analysis.detection_quality import ImageErrors
from lite_focus_detr.analysis.token_selection import Placement
from lite_focus_detr.visualization.report_page import DrawnErrors, Report, Selection, render
from lite_focus_detr.visualization.style import contrast, mix, rgb

CHROMIUM = shutil.which("chromium")
TEMPLATE = resources.files(visualization).joinpath("report.html").read_text()


@pytest.fixture
def report():
    blue = np.zeros((40, 60, 3), np.uint8)
    blue[..., 2] = 200
    errors = ImageErrors(image_id=7, found=1, wrong=2, missed=3, f1=0.25)
    shares = {"small": 0.25, "medium": 0.5, "large": 1.0, "all": 0.75}
    return Report(
        title="model_final.pth",
        subtitle=f"FocusDETR on {SCRIPT}",
        quality=quality(names=("cell", SCRIPT)),
        selection=Selection(5, [shares] * 2, [Placement(shares, 0.5, 0.5)] * 2),
        history=[{"iteration": i, "total_loss": 9.0 - i, "loss_class": 1.0} for i in range(4)]
        + [{"iteration": 4, "shapes_val/bbox/AP": 12.0}],
        pictures=[DrawnErrors(f"{SCRIPT}.jpg", errors, blue, 255 - blue)],
        footer="lite-focus-detr & others",
    )


def test_the_page_has_every_section(report):
    page = render(report)
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        *("Classes", "Object size", "Score threshold", "Confusion matrix", "Error types"),
        *("Kept tokens", "Training", "Worst images"),
    ]
    assert page.count("<svg") == 2 + 3
    assert "$" not in page


def test_nothing_in_the_page_is_executed_or_fetched(report):
    page = render(report)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?://|url\((?!#)|@import|<link|<iframe", without_namespaces)
    assert all(x.startswith(("data:", "#")) for x in re.findall(r'(?:src|href)="([^"]*)', page))


def test_pictures_are_in_the_page(report):
    page = render(report)
    truth, found = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="(.*?)"', page)
    assert (truth[1], found[1]) == ("Ground truth", "Detections")
    with Image.open(io.BytesIO(base64.b64decode(truth[0]))) as picture:
        assert picture.size == (60, 40)
        assert (
            max(abs(x - y) for x, y in zip(picture.getpixel((30, 20)), (0, 0, 200), strict=True))
            < 9
        )
    assert "1 found, 3 missed, 2 wrong" in page


def test_what_is_not_known_is_said():
    page = render(Report("model.pth", "on data", quality()))
    assert "scores no tokens" in page
    assert "no metrics.json" in page
    assert "no image with an error" in page


def theme(css):
    return dict(re.findall(r"--([\w-]+): (#\w{6})", css))


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_both_themes(dark):
    light_css, dark_css = TEMPLATE.split("@media (prefers-color-scheme: dark)")
    colors = theme(dark_css if dark else light_css)
    (share,) = re.findall(r"var\(--share\) \* (\d+)%", TEMPLATE)
    strongest = mix(colors["paper"], colors["accent"], int(share) / 100)
    for background in (colors["paper"], colors["panel"], strongest):
        assert contrast(rgb(colors["ink"]), rgb(background)) >= 4.5
    for background in (colors["paper"], colors["panel"]):
        assert contrast(rgb(colors["muted"]), rgb(background)) >= 4.5
    lines = [value for name, value in colors.items() if name.startswith(("class-", "accent"))]
    assert len(lines) == 13
    for color in lines:
        assert contrast(rgb(color), rgb(colors["paper"])) >= 3


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_it_on_a_phone_and_on_a_wide_screen(report, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "report.html"
    path.write_text(render(report), encoding="utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        seen = []
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        page.on("request", lambda request: seen.append(request.url[:5]))
        page.goto(path.as_uri())
        for width in (390, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            for picture in page.locator("figure > *").all():
                box = picture.bounding_box()
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
        texts = page.locator("svg text").all_text_contents()
        size = page.evaluate("getComputedStyle(document.querySelector('svg text')).fontSize")
        browser.close()
    assert "best: 0.50" in texts
    assert float(size.removesuffix("px")) >= 9
    assert set(seen) <= {"file:", "data:"}
