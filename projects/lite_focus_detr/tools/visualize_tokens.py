"""Shows which tokens a selective encoder keeps.

    lite-focus-detr tokens --weights PATH [--config-file NAME_OR_PATH] \
        --output FOLDER [--dataset NAME] [--num-pictures 4] [--num-images 100] \
        [--opts KEY VALUE ...]

Writes one picture for each of the first images of a data set (the ground truth, foreground scores,
and the tokens of each level and layer), and selection.md, over more images: the share of objects
that keep a token, where kept and object tokens lie, and the correlation of the selection with the
decoder's attention.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from matplotlib.figure import Figure
from tabulate import tabulate

from ..analysis.inspection import detector_name
from ..analysis.token_selection import (
    ImageTrace,
    SelectionSummary,
    require_selection,
    trace_selection,
)
from ..data import read_image
from ..engine import user_errors
from ..predictor import Predictor
from ..visualization.detections import class_legend, draw_ground_truth
from ..visualization.style import Caption
from ..visualization.token_selection import Truth, draw_selection
from .command_line import add_config_arguments, inference_config, load_records, output_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if the configuration or a file is wrong."""
    args = _parser().parse_args(arguments)
    setup_logger(name="lite_focus_detr")
    with user_errors():
        cfg = inference_config(args)
        count = max(args.num_images, args.num_pictures)
        name, records = load_records(cfg, args.dataset, count)
        output = Path(args.output)
        output.mkdir(parents=True, exist_ok=True)
        predictor = Predictor(cfg)
        require_selection(predictor.model)
    with output_errors("--output"):
        summary = summarize(predictor, records, output, name, args.num_pictures)
        table = summary_table(summary)
        (output / "selection.md").write_text(table + "\n")
    print(f"{len(records)} images of {name}. {table}\n\nThe pictures are in {output}")


def summarize(
    predictor: Predictor,
    records: Sequence[dict[str, Any]],
    output: Path,
    dataset: str,
    num_pictures: int,
) -> SelectionSummary:
    """Trace all records of a data set, and draw the first of them to the folder ``output``."""
    metadata = MetadataCatalog.get(dataset)
    summary = SelectionSummary()
    for index, record in enumerate(records):
        inputs = predictor.mapper(record)
        trace = trace_selection(predictor.model, inputs)
        summary.add_annotated(trace, record["annotations"], inputs["width"], inputs["height"])
        if index < num_pictures:
            path = output / f"{index:04d}_{Path(record['file_name']).stem}_tokens.png"
            figure = _draw(record, metadata, trace, detector_name(predictor.model))
            figure.savefig(path, dpi=100)
            print(path)
    return summary


def _draw(record: dict[str, Any], metadata: Any, trace: ImageTrace, model: str) -> Figure:
    image = read_image(record["file_name"], "RGB")
    legend = class_legend([x["category_id"] for x in record["annotations"]], metadata)
    truth = Truth(draw_ground_truth(image, record, metadata, labels=False), legend)
    caption = Caption("kept tokens", f"{model} · {Path(record['file_name']).name}")
    return draw_selection(truth, image, trace, caption)


def summary_table(summary: SelectionSummary) -> str:
    """Markdown tables of what is kept of the objects, and the correlation."""
    rows = [
        {"encoder layer": layer, **shares}
        for layer, shares in enumerate(summary.coverage(), start=1)
    ]
    table = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f")
    rows = [
        {
            "encoder layer": layer,
            **placement.recall,
            "kept tokens in boxes": placement.kept_inside,
            "object tokens in boxes": placement.objects_inside,
        }
        for layer, placement in enumerate(summary.placement(), start=1)
    ]
    tokens = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f")
    correlation = summary.correlation()
    return (
        f"Share of objects that keep at least one token:\n\n{table}\n\n"
        "Share of the tokens in boxes that are kept, by the size of the object, and of the kept "
        f"and the object tokens that lie in a box:\n\n{tokens}\n\n"
        f"Correlation with the decoder's attention, top 10 %: {correlation:.3f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr tokens",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", required=True, help="folder for pictures and table")
    parser.add_argument("--dataset", help="by default the first of DATASETS.TEST")
    parser.add_argument("--num-pictures", type=int, default=4)
    parser.add_argument("--num-images", type=int, default=100, help="images of the table")
    add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
