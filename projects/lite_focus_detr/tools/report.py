"""Writes a report on a trained detector: one HTML file that needs nothing else.

    lite-focus-detr report --weights PATH [--data FOLDER [--split NAME] | --dataset NAME] \
        [--output report.html] [--num-pictures 8] [--num-token-images 100] \
        [--config-file NAME_OR_PATH] [--opts KEY VALUE ...]

It has AP by class and size, precision, recall and F1 with the best threshold, what is taken for
what, the kinds of errors, the tokens that a selective encoder keeps of objects of each size, the
losses of the training, and the worst images beside their ground truth. Needs the extra ``report``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from tqdm import tqdm

from .. import __version__
from ..analysis.detection_quality import DetectionQuality, analyze_detections, hotcoco
from ..analysis.inspection import detector_name
from ..analysis.token_selection import SelectionSummary, trace_selection
from ..config import load_config
from ..data import read_image
from ..data.coco_format import name_first
from ..data.coco_json import read_coco_json
from ..data.folders.records import SPLITS
from ..engine import describe_checkpoint, find_weights, user_errors
from ..engine.metrics import read_metrics
from ..predictor import Predictor, load_inference_config
from ..visualization.detections import draw_ground_truth, draw_predictions, keep_best
from ..visualization.report_page import DrawnErrors, Report, Selection, render
from ..visualization.report_tables import number, percent
from .command_line import (
    add_config_arguments,
    config_of,
    load_records,
    options_with_weights,
    output_errors,
    output_file,
)
from .run_arguments import data_options

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if something of the user's is wrong."""
    args = _parser().parse_args(arguments)
    with user_errors():
        hotcoco()  # Before anything takes time.
        output = output_file(args.output)
        cfg = _config(args)
        name, records = load_records(cfg, args.dataset)
        predictor = Predictor(cfg)
        found = detect(predictor, name, records)
        quality = evaluate(name, records, found)
        selection = trace_tokens(predictor, records[: args.num_token_images])
        pictures = list(draw_worst(quality, name, records, found, args.num_pictures))
    weights = Path(cfg.MODEL.WEIGHTS)
    report = Report(
        title=weights.name,
        subtitle=_describe(predictor, name, records),
        quality=quality,
        selection=selection,
        history=read_metrics(weights.parent / "metrics.json"),
        pictures=pictures,
        footer=f"lite-focus-detr {__version__}. {weights}",
    )
    with output_errors("--output"):
        output.write_text(render(report), encoding="utf-8")
    print(f"AP {percent(quality.metrics['AP'])}, best threshold {number(quality.threshold)}")
    print(f"The report is in {output}")


def _config(args: argparse.Namespace) -> CfgNode:
    config, options = config_of(args), options_with_weights(args)
    if args.data is not None:
        weights = load_config(config, options).MODEL.WEIGHTS
        names = describe_checkpoint(find_weights(weights)).class_names if weights else None
        options = data_options(args.data, config, options, test=args.split, class_names=names)
    return load_inference_config(config, options)


def _describe(predictor: Predictor, name: str, records: Sequence[Record]) -> str:
    iteration = predictor.description.iteration
    after = "" if iteration is None else f" after {iteration} iterations"
    return f"{detector_name(predictor.model)}{after}, on {name}: {len(records)} images"


def detect(predictor: Predictor, name: str, records: Sequence[Record]) -> list[Instances]:
    """Detections in the images of a data set, with the classes of the data set.

    Args:
        predictor: the detector.
        name: of the data set, which has been loaded.
        records: its images.

    Raises:
        ValueError: the classes of the two have other names.
    """
    order = match_classes(predictor.class_names, MetadataCatalog.get(name).get("thing_classes"))
    found = []
    for record in _progress(records, "detecting"):
        instances = predictor(record["file_name"])
        if order is not None:
            instances.pred_classes = torch.tensor(order)[instances.pred_classes]
        found.append(instances)
    return found


def match_classes(detector: Sequence[str] | None, data: Sequence[str] | None) -> list[int] | None:
    """The class of a data set for each class of a detector; None: they are the same.

    Args:
        detector: names of its classes, where they are known.
        data: likewise.

    Raises:
        ValueError: the names are not the same, in whatever order.
    """
    if detector is None or data is None or list(detector) == list(data):
        return None
    if sorted(detector) != sorted(data) or len(set(data)) < len(data):
        shown = (name_first(sorted(names)) for names in (detector, data))
        raise ValueError("the classes of the weights are {}, those of the data {}".format(*shown))
    return [list(data).index(name) for name in detector]


def _progress(records: Sequence[Record], what: str) -> Iterable[Record]:
    progress: Iterable[Record] = tqdm(records, what, leave=False, disable=None)
    return progress


def evaluate(name: str, records: Sequence[Record], found: Sequence[Instances]) -> DetectionQuality:
    """Compare detections with the annotation file of a data set.

    Args:
        name: of the data set, which has been loaded.
        records: its images.
        found: detections in each.

    Raises:
        ValueError: the data set has no annotation file.
    """
    metadata = MetadataCatalog.get(name)
    json_file, ids = metadata.get("json_file"), metadata.get("thing_dataset_id_to_contiguous_id")
    if json_file is None or ids is None:
        raise ValueError(f"data set {name} has no COCO annotation file; name one that has")
    categories = {label: category for category, label in ids.items()}
    detections = {
        record["image_id"]: [
            {**result, "category_id": categories[result["category_id"]]}
            for result in instances_to_coco_json(instances, record["image_id"])
        ]
        for record, instances in zip(records, found, strict=True)
    }
    return analyze_detections(read_coco_json(json_file), detections)


def trace_tokens(predictor: Predictor, records: Sequence[Record]) -> Selection | None:
    """What a selective encoder keeps of the objects in some images; None for other encoders."""
    if not predictor.model.encoder.keep_ratios:
        return None
    if not records:
        return Selection(0, (), ())
    summary = SelectionSummary()
    for record in _progress(records, "tracing tokens"):
        inputs = predictor.mapper(record)
        trace = trace_selection(predictor.model, inputs)
        summary.add_annotated(trace, record["annotations"], inputs["width"], inputs["height"])
    return Selection(len(records), summary.coverage(), summary.placement())


def draw_worst(
    quality: DetectionQuality,
    name: str,
    records: Sequence[Record],
    found: Sequence[Instances],
    count: int,
) -> Iterator[DrawnErrors]:
    """The worst images of a data set with what is there and what was found.

    Args:
        quality: of the detections.
        name: of the data set.
        records: its images.
        found: detections in each.
        count: at most so many.
    """
    metadata = MetadataCatalog.get(name)
    places = {record["image_id"]: place for place, record in enumerate(records)}
    threshold = 2.0 if quality.threshold is None else quality.threshold
    for errors in quality.images[:count]:
        record = records[places[errors.image_id]]
        image = read_image(record["file_name"], "RGB")
        best = keep_best(found[places[errors.image_id]], threshold)
        yield DrawnErrors(
            file_name=Path(record["file_name"]).name,
            errors=errors,
            truth=draw_ground_truth(image, record, metadata),
            detections=draw_predictions(image, best, metadata),
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="FOLDER", help="in COCO, YOLO or Pascal VOC format")
    where.add_argument("--dataset", metavar="NAME", help="by default the first of DATASETS.TEST")
    parser.add_argument("--split", choices=SPLITS, default="val", help="of --data")
    parser.add_argument("--output", default="report.html", metavar="FILE")
    parser.add_argument("--num-pictures", type=int, default=8, metavar="N", help="worst images")
    parser.add_argument(
        "--num-token-images",
        type=int,
        default=100,
        metavar="N",
        help="images in which kept tokens are counted",
    )
    add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
