"""Configurations and batches that many tests need."""

import json
import runpy
import shutil
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from detectron2.structures import Boxes, Instances

from lite_focus_detr import model_zoo
from lite_focus_detr.config import load_config

#: The file under configs/_base_/family of each family.
FAMILIES = {
    "deformable": "deformable_detr",
    "deformable_refine": "deformable_detr_refine",
    "deformable_two_stage": "deformable_detr_two_stage",
    "dn_deformable": "dn_deformable_detr",
    "dino": "dino_detrex",
}
FOLDER = Path(__file__).resolve().parents[1] / "configs/_base_/family"

#: A small detector in the flavour of detrex, without dropout.
TINY = {
    "NUM_CLASSES": 7,
    "EMBED_DIM": 32,
    "NUM_HEADS": 4,
    "NORM_GROUPS": 8,
    "NUM_QUERIES": 20,
    "INVERSE_SIGMOID_EPS": 1e-3,
    "PROPOSAL_BOXES": "selected",
    "LOSS.CLASS_WEIGHT": 1.0,
    "LOSS.GIOU_EPS": 1e-6,
    "ENCODER.NUM_LAYERS": 2,
    "ENCODER.FFN_DIM": 64,
    "ENCODER.DROPOUT": 0.0,
    "DECODER.NUM_LAYERS": 2,
    "DECODER.FFN_DIM": 64,
    "DECODER.DROPOUT": 0.0,
}


@pytest.fixture
def tiny_config():
    """Make the configuration of a small detector of a family."""

    def make(family="dino", **changes):
        cfg = load_config(str(FOLDER / f"{FAMILIES[family]}.yaml"))
        groups = 3 if family == "dn_deformable" else 10
        settings = {**TINY, "DENOISING.NUM": groups, **changes}
        for key, value in settings.items():
            cfg.merge_from_list([f"MODEL.DETR.{key}", value])
        cfg.MODEL.LITE.NUM_BLOCKS = 1
        cfg.MODEL.LITE.LOW_FFN_DIM = 16
        cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
        cfg.MODEL.TIMM.NAME = "test_resnet"
        cfg.MODEL.DEVICE = "cpu"
        return cfg

    return make


@pytest.fixture
def make_batch():
    """Random images with the given numbers of boxes, as a data loader gives them."""

    def make(counts, sizes=((64, 96), (80, 64)), num_classes=7, seed=0):
        random = torch.Generator().manual_seed(seed)
        batch = []
        for count, (height, width) in zip(counts, sizes, strict=True):
            instances = Instances((height, width))
            corner = torch.rand(count, 2, generator=random) * 30
            side = torch.rand(count, 2, generator=random) * 25 + 5
            instances.gt_boxes = Boxes(torch.cat((corner, corner + side), 1))
            instances.gt_classes = torch.randint(num_classes, (count,), generator=random)
            image = torch.rand(3, height, width, generator=random) * 255
            batch.append({"image": image, "instances": instances})
        return batch

    return make


#: What makes a detector of shapes that is built in no time.
SMALL = {
    "DATASETS.TRAIN": ("shapes_train",),
    "DATASETS.TEST": ("shapes_val",),
    "DATASETS.SHAPES.NUM_VAL": 3,
    "DATASETS.SHAPES.IMAGE_SIZE": 48,
    "INPUT.MIN_SIZE_TEST": 48,
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.DETR.NUM_CLASSES": 3,
    "MODEL.DETR.EMBED_DIM": 32,
    "MODEL.DETR.NORM_GROUPS": 8,
    "MODEL.DETR.NUM_HEADS": 2,
    "MODEL.DETR.NUM_QUERIES": 10,
    "MODEL.DETR.ENCODER.NUM_LAYERS": 1,
    "MODEL.DETR.ENCODER.FFN_DIM": 16,
    "MODEL.DETR.DECODER.NUM_LAYERS": 1,
    "MODEL.DETR.DECODER.FFN_DIM": 16,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "TEST.DETECTIONS_PER_IMAGE": 10,
}


@pytest.fixture
def small_config(tmp_path):
    """The configuration of a small detector of shapes."""
    cfg = model_zoo.get_config("deformable_detr/deformable_detr_r50_50ep")
    for key, value in SMALL.items():
        cfg.merge_from_list([key, value])
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path / "shapes")
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    yield cfg
    for name in ("shapes_train", "shapes_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def small_config_file(small_config, tmp_path):
    """A file with that configuration."""
    path = tmp_path / "small.yaml"
    path.write_text(small_config.dump())
    return str(path)


@pytest.fixture
def setup_of_train_net():
    """Prepare a run as ``train_net.py`` does for a configuration file and ``KEY VALUE ...``."""
    setup = runpy.run_path(str(Path(__file__).resolve().parents[1] / "train_net.py"))["setup"]

    def prepare(config_file, *options):
        arguments = ["--config-file", config_file, *options]
        return setup(default_argument_parser().parse_args(arguments))

    return prepare


class _Extension(types.ModuleType):
    """Has every function of the compiled operators of mmcv, and none of them works."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


@pytest.fixture
def mmcv_extension(monkeypatch):
    """Make ``mmcv.ops`` importable: mmcv-lite lacks the compiled part that it imports."""
    pytest.importorskip("mmcv")
    monkeypatch.setitem(sys.modules, "mmcv._ext", _Extension("mmcv._ext"))


#: Metrics that differ between two trainings with the same result.
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}


@pytest.fixture
def require_same_training():
    """``require_same_training(folder, other)``: two trainings have ended with the same bits.

    Compared are all that their last checkpoints hold but times and names of folders, and all lines
    of ``metrics.json``.
    """

    def require(first, second):
        ours, theirs = _last_checkpoint(first), _last_checkpoint(second)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if ours[key] != theirs[key]] == []
        assert _metrics(first) == _metrics(second)

    return require


def _last_checkpoint(folder):
    content = torch.load(folder / "model_final.pth")
    for scalar in TIMES:
        content["trainer"]["hooks"]["MetricHistory"]["scalars"].pop(scalar, None)
    del content["detector"]["config"]
    return {path: _exactly(value) for path, value in _leaves(content)}


def _leaves(value, path=""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _exactly(value):
    """Equal for equal bits only, which NaN is not."""
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).contiguous().view(torch.uint8).tolist()
    return repr(value)


def _metrics(folder):
    rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [str({k: row[k] for k in sorted(row) if k not in TIMES}) for row in rows]


# A small data set in three formats, for the tests of more than one folder.
_FOLDERS = runpy.run_path(str(Path(__file__).with_name("data_folder.py")))
write_folder, boxes_of, expected_boxes = (
    _FOLDERS[name] for name in ("write_folder", "boxes_of", "expected_boxes")
)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    reason = "playwright is not installed: pip install playwright"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    # Not for the session: its event loop would be that of all later tests.
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class OpenPage(NamedTuple):
    """A page in the browser."""

    page: Any  #: of playwright
    requests: list[str]  #: addresses that it asked for, those of its own data aside
    complaints: list[str]  #: errors and warnings on its console


@pytest.fixture
def open_page(browser):
    """Open an address in a window of a width."""
    pages = []

    def run(address, width=1280):
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        opened = OpenPage(page, [], [])

        def note(request):
            if not request.url.startswith(("data:", "blob:")):
                opened.requests.append(request.url)

        def listen(message):
            if message.type in ("error", "warning"):
                opened.complaints.append(message.text)

        page.on("request", note)
        page.on("console", listen)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.set_default_timeout(20_000)
        page.goto(address)
        return opened

    yield run
    for page in pages:
        page.close()


#: Of all texts on a page the one with the least contrast, by the styles that the browser computed.
LEAST_CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (x) => x / 255 <= .04045 ? x / 255 / 12.92 : ((x / 255 + .055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  let least = [21, ""];
  for (const node of document.body.querySelectorAll("*")) {
    const texts = [...node.childNodes].filter((x) => x.nodeType === 3).map((x) => x.data);
    const text = texts.join("").trim();
    if (!text || node.namespaceURI.endsWith("svg") || !node.checkVisibility()) continue;
    if (node.matches("script, style, noscript, option, :disabled")) continue;
    const pair = [parse(getComputedStyle(node).color), background(node)].map(luminance);
    const contrast = (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    if (contrast < least[0]) least = [contrast, text];
  }
  return least;
}"""


@pytest.fixture
def least_contrast():
    """The least contrast of a text on a page or in a frame, and this text."""
    return lambda page: page.evaluate(LEAST_CONTRAST)


@pytest.fixture
def unlabelled_inputs():
    """Inputs of a page or a frame that have no label."""
    script = """() => [...document.querySelectorAll("input, select, textarea")]
      .filter((x) => x.checkVisibility() && !x.labels?.length && !x.ariaLabel
              && !x.getAttribute("aria-labelledby"))
      .map((x) => x.outerHTML.slice(0, 200))"""
    return lambda page: page.evaluate(script)
