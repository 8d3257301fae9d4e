"""Writes a report on a trained detector: one HTML file that needs nothing else.

    python -m lite_focus_detr.tools.report --weights PATH [--config-file NAME_OR_PATH] \
        [--dataset NAME] [--output report.html] [--num-pictures 8] [--num-token-images 100] \
        [--opts KEY VALUE ...]

It has AP by class and size, precision, recall and F1 with the best threshold, what is taken for
what, the kinds of errors, the tokens that a selective encoder keeps of objects of each size, the
losses of the training, and the worst images beside their ground truth. Needs the extra ``report``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from tqdm import tqdm

from .. import __version__
from ..analysis.detection_quality import DetectionQuality, analyze_detections, hotcoco
from ..analysis.inspection import detector_name
from ..analysis.token_selection import SelectionSummary, trace_selection
from ..data import read_image
from ..data.coco_json import read_coco_json
from ..engine import user_errors
from ..engine.metrics import read_metrics
from ..predictor import Predictor
from ..visualization.detections import draw_ground_truth, draw_predictions, keep_best
from ..visualization.report_page import DrawnErrors, Report, Selection, render
from ..visualization.report_tables import number, percent
from .command_line import add_config_arguments, inference_config, load_records, output_errors

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if something of the user's is wrong."""
    args = _parser().parse_args(arguments)
    with user_errors():
        hotcoco()  # Before anything takes time.
        cfg = inference_config(args)
        name, records = load_records(cfg, args.dataset)
        predictor = Predictor(cfg)
        found = [predictor(record["file_name"]) for record in _progress(records, "detecting")]
        quality = evaluate(name, records, found)
        selection = trace_tokens(predictor, records[: args.num_token_images])
        pictures = list(draw_worst(quality, name, records, found, args.num_pictures))
    weights = Path(cfg.MODEL.WEIGHTS)
    report = Report(
        title=weights.name,
        subtitle=f"{detector_name(predictor.model)} on {name}, {len(records)} images",
        quality=quality,
        selection=selection,
        history=read_metrics(weights.parent / "metrics.json"),
        pictures=pictures,
        footer=f"lite-focus-detr {__version__}. {weights}",
    )
    with output_errors("--output"):
        output = Path(args.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(render(report), encoding="utf-8")
    print(f"AP {percent(quality.metrics['AP'])}, best threshold {number(quality.threshold)}")
    print(f"The report is in {output}")


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
    if not predictor.model.encoder.keep_ratios or not records:
        return None
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
        prog="python -m lite_focus_detr.tools.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", metavar="NAME", help="by default the first of DATASETS.TEST")
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
