"""A report on a detector as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from string import Template

from PIL import Image

from ..analysis.detection_quality import DetectionQuality, ImageErrors
from ..analysis.token_selection import Placement
from .report_charts import draw_f1, draw_history, draw_precision
from .report_tables import (
    class_table,
    confusion_table,
    error_table,
    number,
    percent,
    selection_table,
    size_table,
)
from .style import Picture

_JPEG_QUALITY = 85
#: Metrics of a training that are drawn, by the end of their names.
_HISTORY = {
    "Loss": {"total_loss": "all losses"},
    "Loss of the last decoder layer": {
        "loss_class": "classes",
        "loss_bbox": "boxes, L1",
        "loss_giou": "boxes, GIoU",
        "loss_foreground": "foreground",
    },
    "AP": {"bbox/AP": "AP", "bbox/AP50": "AP50", "bbox/AP75": "AP75"},
}


@dataclass(frozen=True)
class DrawnErrors:
    """One of the worst images."""

    file_name: str
    errors: ImageErrors
    truth: Picture
    detections: Picture  #: those of at least the best threshold


@dataclass(frozen=True)
class Selection:
    """Which tokens the encoder has kept, one entry per layer; see ``SelectionSummary``."""

    num_images: int  #: 0: it was not looked at, and the report does not speak of it
    coverage: Sequence[Mapping[str, float]]
    placement: Sequence[Placement]


@dataclass(frozen=True)
class Report:
    """What the page says."""

    title: str  #: the name of the checkpoint
    subtitle: str  #: the detector, and what it was evaluated on
    quality: DetectionQuality
    selection: Selection | None = None  #: None: the encoder updates all tokens
    history: Sequence[Mapping[str, float]] = ()  #: rows of the metrics file of the training
    pictures: Sequence[DrawnErrors] = field(default=())
    footer: str = ""


def render(report: Report) -> str:
    """The page."""
    template = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    body = "\n".join(_sections(report))
    texts = {key: escape(getattr(report, key)) for key in ("title", "subtitle", "footer")}
    return Template(template).substitute(texts, body=body)


def _sections(report: Report) -> Iterator[str]:
    quality = report.quality
    threshold = quality.threshold
    at = "nothing was found" if threshold is None else f"at the threshold {threshold:.2f}"
    yield _tiles(quality)
    classes = _section(
        "Classes",
        "AP is the mean over the IoU thresholds 0.50 to 0.95; precision, recall and F1 are those "
        f"{at}, at an IoU of 0.5.",
        class_table(quality),
    )
    sizes = _section(
        "Object size",
        "Small: less than 32x32 pixels of the file; large: more than 96x96. AR: recall, the mean "
        "over the IoU thresholds.",
        size_table(quality),
    )
    yield f'<div class="row">{classes}{sizes}</div>'
    yield _section(
        "Score threshold",
        "The best threshold has the greatest F1, which weighs missed and wrong detections alike. A "
        "higher one gives fewer wrong detections, a lower one misses less.",
        _charts(draw_f1(quality), draw_precision(quality)),
    )
    yield _section(
        "Confusion matrix",
        f"Objects in rows, detections in columns, {at}. The last column counts missed objects, the "
        "last row detections of background.",
        confusion_table(quality.confusion),
    )
    yield _section(
        "Error types",
        "How many points AP50 would gain without each type (TIDE), over all scores, and how many "
        f"errors there are {at}.",
        error_table(quality.errors),
    )
    yield _kept_tokens(report.selection)
    yield _training(report.history)
    yield _worst_images(report.pictures)


def _section(title: str, text: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(text)}</p>\n{content}\n</section>"


def _tiles(quality: DetectionQuality) -> str:
    metrics, threshold = quality.metrics, quality.threshold
    precision, recall, _ = quality.curve.at(2.0 if threshold is None else threshold)
    tiles = {
        "AP": percent(metrics["AP"]),
        "AP50": percent(metrics["AP50"]),
        "AP75": percent(metrics["AP75"]),
        "best threshold": number(threshold),
        "precision there": percent(precision),
        "recall there": percent(recall),
    }
    parts = [
        f'<div class="tile"><b>{value}</b><span>{key}</span></div>' for key, value in tiles.items()
    ]
    return f'<div class="tiles">{"".join(parts)}</div>'


def _charts(*charts: str) -> str:
    return f'<div class="charts">{"".join(f"<figure>{chart}</figure>" for chart in charts)}</div>'


def _kept_tokens(selection: Selection | None) -> str:
    title = "Kept tokens"
    if selection is None:
        return _section(title, "The encoder of this detector scores no tokens: it drops none.", "")
    if not selection.num_images:
        return ""
    placed = [placement.recall for placement in selection.placement]
    tables = selection_table(
        "Objects that keep at least one token", selection.coverage
    ) + selection_table("Tokens inside of objects that are kept", placed)
    return _section(
        title,
        "An object of which an early layer keeps no token can hardly be found. By encoder layer "
        f"and size of the object, over {selection.num_images} images.",
        f'<div class="charts">{tables}</div>',
    )


def _training(history: Sequence[Mapping[str, float]]) -> str:
    title = "Training"
    charts = []
    for name, wanted in _HISTORY.items():
        names = sorted({key for row in history for key in row})
        keys = {key: label for end, label in wanted.items() for key in names if _is(key, end)}
        if keys:
            charts.append(draw_history(history, name, keys))
    if not charts:
        return _section(title, "There is no metrics.json beside the checkpoint.", "")
    return _section(title, "From metrics.json beside the checkpoint.", _charts(*charts))


def _is(key: str, end: str) -> bool:
    """Whether a key is that of a metric, or that of one of several data sets."""
    return key == end or key.endswith(f"/{end}")


def _worst_images(pictures: Sequence[DrawnErrors]) -> str:
    title = "Worst images"
    if not pictures:
        return _section(title, "There is no image with an error, or none was asked for.", "")
    parts = []
    for picture in pictures:
        errors = picture.errors
        counts = f"{errors.found} found, {errors.missed} missed, {errors.wrong} wrong"
        pair = _image(picture.truth, "Ground truth") + _image(picture.detections, "Detections")
        caption = escape(f"{picture.file_name}: {counts}")
        parts.append(f'<h3>{caption}</h3>\n<div class="pair">{pair}</div>')
    return _section(title, "Those with the least F1, at the best threshold.", "\n".join(parts))


def _image(picture: Picture, caption: str) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = picture.shape[:2]
    source = f"data:image/jpeg;base64,{data}"
    return (
        f'<figure><img src="{source}" alt="{caption}" width="{width}" height="{height}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
