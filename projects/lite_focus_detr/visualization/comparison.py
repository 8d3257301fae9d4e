"""A page that compares what several detectors do with one image: one file, without a network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from ..analysis.inspection import Inspection
from ..analysis.sampling import Samples
from .detections import SHORT_LABEL_SCALE, label_size
from .labels import Boxes, fit_picture, place_labels
from .style import KEPT, MIN_PICTURE_SIZE, OBJECT, Picture, class_color, rgb, text_color

#: Detections with less than this score are left out of the page,
MIN_SCORE = 0.02
#: and so are all but the best.
MAX_DETECTIONS = 200
# Larger images are shown with this long side; coordinates remain those of the file.
_MAX_SHOWN_SIZE = 1600
# Bytes of the samples of all models together: they are most of the page.
_MAX_SAMPLE_BYTES = 2_500_000
# Samples may lie outside of the image: coordinates are 16 bits of this range of its sides.
_RANGE_START, _RANGE = -0.5, 2.0
# The long side of the image in heights of the text of labels.
_LETTERS_PER_SIDE = 42
_PART_COLORS = {
    "backbone": "#8c96a3",
    "encoder": "#1268d3",
    "decoder": "#e59b00",
    "rest": "#d5dae0",
    "total": "",
}
_LEVEL_COLORS = ("#ffd21f", "#3fd9ff", "#ff6bd6", "#8dff57", "#ff9d3b")


@dataclass(frozen=True)
class ComparedModel:
    """What one detector has done with the image.

    Args:
        inspection: what it found, kept and sampled.
        file: where its weights are from, to be shown.
        class_names: of its class rows; empty: they have numbers.
    """

    inspection: Inspection
    file: str
    class_names: Sequence[str] = ()

    def class_name(self, label: int) -> str:
        """Name of a class row."""
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"


@dataclass(frozen=True)
class ComparedImage:
    """The image that all detectors have seen.

    Args:
        pixels: (H, W, 3) RGB.
        name: of its file.
    """

    pixels: Picture
    name: str


def comparison_page(
    image: ComparedImage, models: Sequence[ComparedModel], *, threshold: float, rounds: int
) -> str:
    """Make a page of HTML that holds all that it shows.

    Args:
        image: that the models have seen.
        models: at least one.
        threshold: least score of a detection that is shown at first, in [0, 1].
        rounds: timed runs of each model, to be said.
    """
    classes = _class_numbers(models)
    data = {
        "image": _image_data(image),
        "classes": [
            {"name": name, "color": _css(class_color(x)), "ink": _css(text_color(class_color(x)))}
            for name, x in classes.items()
        ],
        "states": [
            {"name": "dropped token", "color": [20, 22, 26, 0.78]},
            {"name": "kept token", "color": [*rgb(KEPT), 0.2]},
            {"name": "object token, kept", "color": [*rgb(OBJECT), 0.5]},
        ],
        "parts": _PART_COLORS,
        "levelColors": _LEVEL_COLORS,
        "rangeStart": _RANGE_START,
        "range": _RANGE,
        "threshold": threshold,
        "rounds": rounds,
        "models": [_model_data(x, image, classes, len(models)) for x in models],
    }
    # "</script>" in a name would end the script that holds the data.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    page = _read("comparison.html").replace("/*STYLE*/", _read("comparison.css"))
    return page.replace("/*SCRIPT*/", _read("comparison.js")).replace("/*DATA*/", text)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _class_numbers(models: Sequence[ComparedModel]) -> dict[str, int]:
    """A number for each name of a class, so that all models have one colour for it."""
    names = [
        model.class_name(label)
        for model in models
        for label in range(
            len(model.class_names)
            or 1 + max(model.inspection.detections.pred_classes.tolist() or [-1])
        )
    ]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _image_data(image: ComparedImage) -> dict[str, Any]:
    height, width = image.pixels.shape[:2]
    picture, buffer = Image.fromarray(image.pixels), io.BytesIO()
    small = max(height, width) < MIN_PICTURE_SIZE
    if small:
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((_MAX_SHOWN_SIZE, _MAX_SHOWN_SIZE))
        picture.save(buffer, "JPEG", quality=88)
    kind = "png" if small else "jpeg"
    return {
        "name": image.name,
        "width": width,
        "height": height,
        "enlarged": small,
        "source": f"data:image/{kind};base64,{_base64(buffer.getvalue())}",
    }


def _model_data(
    model: ComparedModel, image: ComparedImage, classes: dict[str, int], num_models: int
) -> dict[str, Any]:
    seen = model.inspection
    size = image.pixels.shape[:2]
    boxes, long_labels = _boxes_data(model, size, classes)
    limit = _MAX_SAMPLE_BYTES // num_models // len(seen.samples)
    samples = {name: _samples_data(x, size, limit) for name, x in seen.samples.items()}
    seconds = {**seen.seconds}
    seconds["rest"] = max(0.0, 2 * seconds["total"] - sum(seconds.values()))
    return {
        "name": seen.name,
        "file": model.file,
        "times": {part: round(1e3 * value, 2) for part, value in seconds.items()},
        "boxes": boxes,
        "longLabels": long_labels,
        "levels": _levels_data(seen, size),
        "layers": _layers_data(seen),
        "samples": samples,
    }


def _boxes_data(
    model: ComparedModel, size: tuple[int, int], classes: dict[str, int]
) -> tuple[list[dict[str, Any]], int]:
    """Boxes with the places of their labels, and how many can have long ones."""
    found = model.inspection.detections
    found = found[found.scores >= MIN_SCORE][:MAX_DETECTIONS]
    names = [model.class_name(label) for label in found.pred_classes.tolist()]
    boxes = found.pred_boxes.tensor.numpy().astype(float)
    rows: list[dict[str, Any]] = [
        {
            "box": [round(x, 1) for x in box],
            "score": round(score, 4),
            "class": classes[name],
            "label": f"{name} {score:.0%}",
            "shortLabel": f"{100 * score:.0f}",
        }
        for box, score, name in zip(boxes.tolist(), found.scores.tolist(), names, strict=True)
    ]
    text = max(size) / _LETTERS_PER_SIDE
    long_places, sizes = _label_places([row["label"] for row in rows], boxes, size, text)
    short = [row["shortLabel"] for row in rows]
    short_places, short_sizes = _label_places(short, boxes, size, SHORT_LABEL_SCALE * text)
    for index, row in enumerate(rows):
        row["long"] = _rectangle(long_places[index], sizes[index])
        row["short"] = _rectangle(short_places[index], short_sizes[index])
    # Places do not depend on worse detections: a threshold leaves the first ones as they are.
    fitting = (n for n in range(len(rows) + 1) if fit_picture(long_places[:n], sizes[:n], size))
    return rows, max(fitting)


def _label_places(
    labels: Sequence[str], boxes: Boxes, size: tuple[int, int], text: float
) -> tuple[list[tuple[float, float] | None], list[tuple[float, float]]]:
    sizes = [label_size(label, text) for label in labels]
    return place_labels(boxes, sizes, size), sizes


def _rectangle(place: tuple[float, float] | None, size: tuple[float, float]) -> list[float] | None:
    """Left, top, width and height of a label, if it has a place."""
    return None if place is None else [round(x, 2) for x in (*place, *size)]


def _levels_data(seen: Inspection, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Tokens of each level, and how much of the image, in its pixels, their map covers."""
    scale_y, scale_x = (x / y for x, y in zip(size, seen.resized, strict=True))
    return [
        {
            "stride": stride,
            "rows": rows,
            "columns": columns,
            "width": round(columns * stride * scale_x, 2),
            "height": round(rows * stride * scale_y, 2),
        }
        for (rows, columns), stride in zip(seen.spatial_shapes, seen.strides, strict=True)
    ]


def _layers_data(seen: Inspection) -> list[dict[str, Any]]:
    sizes = [rows * columns for rows, columns in seen.spatial_shapes]
    return [
        {
            "states": _base64(layer.numpy().astype(np.uint8).tobytes()),
            "counts": [int((level > 0).sum()) for level in layer.split(sizes)],
            "total": len(layer),
        }
        for layer in seen.layers
    ]


def _samples_data(samples: Samples, size: tuple[int, int], limit: int) -> dict[str, Any]:
    """Samples of N queries: (N, L * M * P, 3) numbers of 16 bits, x, y and weight."""
    locations = samples.locations.permute(0, 2, 1, 3, 4).flatten(1, 3).numpy(force=True)
    weights = samples.weights.permute(0, 2, 1, 3).flatten(1).numpy(force=True)
    values = np.concatenate([(locations - _RANGE_START) / _RANGE, weights[..., None]], -1)
    values = (65535 * values.clip(0, 1)).round().astype("<u2")
    # Base64 makes four bytes of three.
    count = min(len(values), max(1, limit * 3 // 4 // values[:1].nbytes))
    chosen = np.linspace(0, len(values) - 1, count).round().astype(int)
    points = samples.queries.numpy(force=True)[chosen] * [size[1], size[0]]
    return {"points": points.round(2).tolist(), "values": _base64(values[chosen].tobytes())}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
