"""Checks a data set before training: files, boxes, classes, duplicates; suggests what to train.

    lite-focus-detr check --data FOLDER_OR_JSON [--output FOLDER] [--config-file NAME_OR_PATH]

The folder is in COCO, YOLO or Pascal VOC format, which is recognised. Every image is opened. The
folder of ``--output`` gets ``check.json`` with all findings, and ``samples.png`` with 16 annotated
images. The exit status is 0 if there is nothing to mend, 1 if there is and training can start, and
2 if it cannot.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from .. import model_zoo
from ..data import UnreadableImage, read_image
from ..data.checks import CheckedData, Finding, Level, check_data, read_data, worst_level
from ..data.checks import Split as CheckedSplit
from ..engine.description import printable
from ..visualization.contact_sheet import draw_contact_sheet
from ..visualization.detections import class_legend, draw_ground_truth
from ..visualization.style import Caption, Picture
from .command_line import output_errors

T = TypeVar("T")

#: Images of the contact sheet.
NUM_SAMPLES = 16
# What is shown on the screen; check.json has all.
SHOWN_CLASSES = 8
_FINDINGS = 12
_WIDTH = 120
_LEAST = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    output = Path(args.output)
    with output_errors("--output"):
        output.mkdir(parents=True, exist_ok=True)
    try:
        data = read_data(args.data, output / "datasets")
        checked = check_data(data, model_zoo.get_config, args.config_file, _progress)
    except (ValueError, OSError) as error:
        findings: Sequence[Finding] = [Finding(Level.ERROR, "files", str(error), 1)]
        result: dict[str, Any] = {"data": args.data}
    else:
        findings = checked.findings
        command = train_command(args.data, checked)
        result = {"data": args.data, **describe(checked), "command": command}
        print("\n".join(_summary(args.data, checked)))
    print("\n".join(finding_lines(findings)))
    level = worst_level(findings)
    result |= {"findings": [_as_json(x) for x in findings], "exit_status": int(level)}
    with output_errors("--output"):
        (output / "check.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        if "command" in result:
            Image.fromarray(draw_samples(args.data, checked)).save(output / "samples.png")
    if "command" in result:
        print("\n".join(_advice(checked, result["command"])))
        print(
            f"\nAnnotated images: {output / 'samples.png'}, all findings: {output / 'check.json'}"
        )
    return int(level)


def _progress(checks: Iterable[T], total: int) -> Iterable[T]:
    progress: Iterable[T] = tqdm(checks, "opening images", total, leave=False, disable=None)
    return progress


def describe(checked: CheckedData) -> dict[str, Any]:
    """The numbers of a data set, for ``check.json``."""
    splits = {
        split.name: {
            "json_file": split.source.json_file,
            "image_root": split.source.image_root,
            "images": len(split.objects),
            "objects": dict(zip(checked.class_names, split.counts, strict=True)),
        }
        for split in checked.splits
    }
    suggestion = asdict(checked.suggestion)
    return {"format": checked.format, "splits": splits, "suggestion": suggestion}


def train_command(data: str, checked: CheckedData) -> str:
    """What to enter in a shell to train.

    Args:
        data: folder, or annotation file.
        checked: what was found in it.
    """
    suggestion = checked.suggestion
    command = ["lite-focus-detr", "train"]
    options = list(suggestion.options)
    if Path(data).is_file():
        (split,) = checked.splits
        entry = ["data", split.source.json_file, split.source.image_root]
        options = [
            *("DATASETS.COCO", json.dumps([entry])),
            *("DATASETS.TRAIN", '["data"]', "DATASETS.TEST", '["data"]'),
            *("MODEL.DETR.NUM_CLASSES", str(suggestion.num_classes)),
            *options,
        ]
    else:
        command += ["--data", data]
    command += ["--config-file", suggestion.config]
    return shlex.join([*command, *(["--opts", *options] if options else [])])


def _summary(data: str, checked: CheckedData) -> Iterator[str]:
    """The numbers of images and objects, of at most some classes."""
    names, splits = checked.class_names, checked.splits
    num_images = sum(len(split.objects) for split in splits)
    num_objects = sum(sum(split.counts) for split in splits)
    yield (
        f"{data}: {checked.format}, {_count(len(names), 'class', 'classes')}, "
        f"{_count(num_images, 'image')}, {_count(num_objects, 'object')}"
    )
    rows = [["images", *(len(split.objects) for split in splits)]]
    rows += [
        [cut(name, 40), *counts]
        for name, *counts in zip(names, *(split.counts for split in splits), strict=True)
    ][:SHOWN_CLASSES]
    headers = ["", *(split.name for split in splits)]
    yield str(tabulate(rows, headers, tablefmt="plain", disable_numparse=True, stralign="right"))
    if len(names) > SHOWN_CLASSES:
        yield f"and {len(names) - SHOWN_CLASSES} more classes"


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each finding, with the first examples, as far as they find room."""
    for finding in findings[:_FINDINGS]:
        line = f"{finding.level.name.lower():8} {printable(finding.text)}"
        if finding.examples:
            examples = f": {finding.count} ({'; '.join(finding.examples)})"
            line += cut(examples, max(_WIDTH - len(line), _LEAST))
        yield line
    if len(findings) > _FINDINGS:
        yield f"and {len(findings) - _FINDINGS} more kinds of findings"
    if not findings:
        yield "nothing to mend"


def cut(text: str, width: int) -> str:
    """Printable text of at most ``width`` characters."""
    text = printable(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _advice(checked: CheckedData, command: str) -> Iterator[str]:
    suggestion = checked.suggestion
    images = f"images of {suggestion.image_size} pixels (short side)"
    yield f"\nSuggested: {suggestion.config}, {suggestion.num_classes} classes, {images}"
    yield f"  {command}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _as_json(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "level": finding.level.name.lower()}


def draw_samples(data: str, checked: CheckedData) -> Picture:
    """Annotated images, evenly spread over the splits.

    Args:
        data: its name, for the caption.
        checked: the data set.
    """
    metadata = {"thing_classes": checked.class_names}
    images = [(split, image) for split in checked.splits for image in split.dataset["images"]]
    cells, classes = [], Counter[int]()
    places = np.linspace(0, len(images) - 1, min(NUM_SAMPLES, len(images)), dtype=int)
    for split, image in (images[place] for place in places):
        record = _record(split, image["id"])
        try:
            pixels = read_image(split.path(image), "RGB")
        except UnreadableImage:
            continue
        cells.append(
            (
                f"{split.name}: {image['file_name']}",
                draw_ground_truth(pixels, record, metadata, labels=False),
            )
        )
        classes.update(x["category_id"] for x in record["annotations"])
    legend = class_legend(list(classes.elements()), metadata)
    return draw_contact_sheet(cells, Caption("annotations", data), legend)


def _record(split: CheckedSplit, image_id: Any) -> dict[str, Any]:
    """The annotations of an image in detectron2's format."""
    classes = {category["id"]: index for index, category in enumerate(split.categories)}
    annotations = [
        {
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": classes[annotation["category_id"]],
        }
        for annotation in split.objects[image_id]
    ]
    return {"annotations": annotations}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", required=True, metavar="FOLDER_OR_JSON", help="images with their annotations"
    )
    parser.add_argument("--output", default="output/check", metavar="FOLDER")
    parser.add_argument(
        "--config-file", metavar="NAME_OR_PATH", help="to train with; by default what fits"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
