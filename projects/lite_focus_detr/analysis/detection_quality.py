"""What a detector finds, misses and mistakes on a data set, by the library ``hotcoco``."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .score_curve import IOU, ScoreCurve, score_curve

#: COCO's sizes of objects, and the number of each among the ranges of areas.
SIZES = {"small": 1, "medium": 2, "large": 3}


@dataclass(frozen=True)
class ClassQuality:
    """Of one class, in [0, 1]; NaN where there are no objects."""

    name: str
    num_objects: int
    ap: float
    ap50: float
    ap75: float
    curve: ScoreCurve  #: at an IoU of 0.5


@dataclass(frozen=True)
class SizeQuality:
    """Of the objects of one size, in [0, 1]; NaN where there are none."""

    num_objects: int
    ap: float
    recall: float  #: mean over IoU thresholds, with 100 detections per image (AR)


@dataclass(frozen=True)
class Confusion:
    """K classes and the background, which missed objects and wrong detections are counted for."""

    names: tuple[str, ...]  #: K + 1
    counts: npt.NDArray[np.int64]  #: (K + 1, K + 1), objects in rows, detections in columns


@dataclass(frozen=True)
class ErrorType:
    """One kind of error of TIDE (arXiv:2008.08115)."""

    count: int  #: at the threshold
    ap_lost: float  #: by how much AP50, over all scores, would rise without them, in [0, 1]


@dataclass(frozen=True)
class ImageErrors:
    """An image at the best threshold."""

    image_id: Any  #: in the annotation file
    found: int
    wrong: int
    missed: int
    f1: float


@dataclass(frozen=True)
class DetectionQuality:
    """Everything that the evaluation of a data set says."""

    num_images: int
    metrics: Mapping[str, float]  #: AP, AP50, AP75, AR100 and their like in [0, 1], or NaN
    classes: tuple[ClassQuality, ...]
    sizes: Mapping[str, SizeQuality]
    precision: Mapping[str, npt.NDArray[np.float64]]  #: (101,) over recall, by the IoU threshold
    curve: ScoreCurve  #: of all classes at an IoU of 0.5
    threshold: float | None  #: with the greatest F1 over all objects; None: nothing was found
    confusion: Confusion  #: at the threshold
    errors: Mapping[str, ErrorType]
    images: tuple[ImageErrors, ...]  #: those with errors, the worst first


def hotcoco() -> ModuleType:
    """The library, imported when it is needed.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import hotcoco as library
    except ModuleNotFoundError as error:
        raise ValueError(
            "the report needs the package hotcoco: pip install 'lite-focus-detr[report]'"
        ) from error
    return library


def analyze_detections(
    dataset: Mapping[str, Any], detections: Mapping[Any, Sequence[Mapping[str, Any]]]
) -> DetectionQuality:
    """Evaluate detections.

    Args:
        dataset: content of a COCO annotation file without invalid boxes.
        detections: by the ids of its images: ``category_id`` as in the file, ``bbox`` (left, top,
            width, height) in pixels, ``score``.

    Raises:
        ValueError: the library is not installed.
    """
    ids = [image["id"] for image in dataset["images"]]
    truth = hotcoco().COCO(_with_numbers(dataset))
    results = [
        {**detection, "image_id": number}
        for number, image_id in enumerate(ids, 1)
        for detection in detections.get(image_id, ())
    ]
    evaluation = _evaluate(truth, results)
    images = [x for x in evaluation.evalImgs if x and x["aRng"] == evaluation.params.areaRng[0]]
    iou_index = int(np.argmin(np.abs(np.array(evaluation.params.iouThrs) - IOU)))
    curve = score_curve(images, iou_index)
    best = curve.best()
    threshold = None if best is None else float(curve.scores[best])
    least = math.inf if threshold is None else threshold
    kept = _evaluate(truth, [result for result in results if result["score"] >= least])
    return DetectionQuality(
        num_images=len(dataset["images"]),
        metrics={key: _valid(value) for key, value in evaluation.get_results().items()},
        classes=_classes(evaluation, truth, images, iou_index),
        sizes=_sizes(evaluation),
        precision=_precision(evaluation),
        curve=curve,
        threshold=threshold,
        confusion=_confusion(evaluation, threshold),
        errors=_errors(evaluation, kept),
        images=_images(kept, ids),
    )


def _with_numbers(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The data set with images 1, 2, ...: the library takes no text as an id."""
    numbers = {image["id"]: number for number, image in enumerate(dataset["images"], 1)}
    return {
        "images": [{**image, "id": numbers[image["id"]]} for image in dataset["images"]],
        "annotations": [
            {**annotation, "image_id": numbers[annotation["image_id"]]}
            for annotation in dataset.get("annotations", ())
        ],
        "categories": dataset["categories"],
    }


def _evaluate(truth: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    evaluation = hotcoco().COCOeval(truth, truth.load_res(results), "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.run()
    return evaluation


def _valid(value: float) -> float:
    """COCO says -1 where there is nothing to evaluate."""
    return math.nan if value == -1 else float(value)


def _mean(values: npt.NDArray[np.float64]) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan


def _classes(
    evaluation: Any, truth: Any, images: Sequence[Mapping[str, Any]], iou_index: int
) -> tuple[ClassQuality, ...]:
    precision = evaluation.eval["precision"]  # (IoU, recall, class, size, number of detections)
    thresholds = np.array(evaluation.params.iouThrs)
    strict = int(np.argmin(np.abs(thresholds - 0.75)))
    found = []
    for index, category in enumerate(evaluation.params.catIds):
        own = [image for image in images if image["category_id"] == category]
        of_class = precision[:, :, index, 0, -1]
        found.append(
            ClassQuality(
                name=str(truth.cats[category]["name"]),
                num_objects=sum(not ignored for image in own for ignored in image["gtIgnore"]),
                ap=_mean(of_class),
                ap50=_mean(of_class[iou_index]),
                ap75=_mean(of_class[strict]),
                curve=score_curve(own, iou_index),
            )
        )
    return tuple(found)


def _sizes(evaluation: Any) -> dict[str, SizeQuality]:
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    sizes = {}
    for name, index in SIZES.items():
        area = evaluation.params.areaRng[index]
        images = [image for image in evaluation.evalImgs if image and image["aRng"] == area]
        count = sum(not ignored for image in images for ignored in image["gtIgnore"])
        ap, ar = _mean(precision[:, :, :, index, -1]), _mean(recall[:, :, index, -1])
        sizes[name] = SizeQuality(count, ap, ar)
    return sizes


def _precision(evaluation: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Precision over recall, the mean of the classes, for three IoU thresholds."""
    curves = evaluation.report()["curves"]
    names = {f"{iou:.2f}": f"pr@{iou:.2f}" for iou in (0.5, 0.75, 0.9)}
    return {iou: np.asarray(curves[name], dtype=float) for iou, name in names.items()}


def _confusion(evaluation: Any, threshold: float | None) -> Confusion:
    found = evaluation.confusion_matrix(iou_thr=IOU, min_score=threshold)
    return Confusion((*found["cat_names"], "background"), found["matrix"].astype(np.int64))


def _errors(evaluation: Any, kept: Any) -> dict[str, ErrorType]:
    lost = evaluation.tide_errors(pos_thr=IOU)["delta_ap"]
    counts = kept.tide_errors(pos_thr=IOU)["counts"]
    return {name: ErrorType(count, lost[name]) for name, count in counts.items()}


def _images(kept: Any, ids: Sequence[Any]) -> tuple[ImageErrors, ...]:
    """Of the images with errors, the one with the least F1 first, of several the one with most."""
    summary = kept.image_diagnostics(iou_thr=IOU)["img_summary"]
    images = [
        ImageErrors(ids[number - 1], image["tp"], image["fp"], image["fn"], image["f1"])
        for number, image in sorted(summary.items())
        if image["fp"] or image["fn"]
    ]
    return tuple(sorted(images, key=lambda x: (x.f1, -x.wrong - x.missed)))
