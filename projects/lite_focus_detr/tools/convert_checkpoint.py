"""Convert a published checkpoint to the names and shapes of a configured model.

    lite-focus-detr convert IN OUT [--config-file NAME_OR_PATH] \
        [--to {detectron2,hf}] [--opts KEY VALUE ...]

``MODEL.WEIGHTS`` takes published files as they are; this writes the result down for other programs,
together with the configuration and the names of the classes, which the commands then find in it.
Files that hold a configuration themselves need no ``--config-file``.
``--to hf`` writes a folder for ``DeformableDetrForObjectDetection.from_pretrained`` of
transformers, of a file of this package or of a published one.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from safetensors.torch import save
from torch import Tensor

from .. import model_zoo
from ..converters import Conversion, convert_state_dict, training_options, unwrap
from ..converters.to_hugging_face import to_hugging_face
from ..engine import describe_checkpoint, user_errors
from ..engine.checkpoint_io import read_checkpoint, write_atomically, write_checkpoint
from ..engine.checkpointer import take_average
from ..engine.detector_record import RECORD
from .command_line import (
    add_config_argument,
    add_opts_argument,
    add_trust_argument,
    choose_config,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if a file or the configuration is wrong."""
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr convert", description="Convert a published checkpoint."
    )
    parser.add_argument("input", metavar="IN", help="published .pth, .pkl or .safetensors file")
    parser.add_argument("output", metavar="OUT", help="detectron2 .pth file, or folder, to write")
    parser.add_argument(
        "--to",
        choices=("detectron2", "hf"),
        default="detectron2",
        help="hf: a folder for Hugging Face's transformers",
    )
    add_config_argument(parser, default="IN")
    add_trust_argument(parser)
    add_opts_argument(parser)
    args = parser.parse_args(arguments)
    with user_errors():
        options = [*args.opts, "MODEL.WEIGHTS", args.input]
        config = choose_config(args.config_file, options, trust_imports=args.trust_imports)
        cfg = model_zoo.get_config(config, args.opts)
        cfg.MODEL.DEVICE = "cpu"
        convert = convert_file if args.to == "detectron2" else export_to_hugging_face
        convert(args.input, args.output, cfg)


def convert_file(source: str, target: str, cfg: CfgNode) -> None:
    """Convert one file and print where every tensor went.

    Args:
        source: published checkpoint.
        target: file to write: the tensors that the source fills, under ``model``, and the record
            of the detector.
        cfg: configuration of the model.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the source is unsafe, of no known format, or does not fit the configuration.
    """
    weights, report = _read(source, cfg)
    author = f"lite_focus_detr, from the format {report.format}"
    record = describe_checkpoint(source).record(cfg)
    write_checkpoint(target, {"model": weights, "__author__": author, RECORD: record})


def export_to_hugging_face(source: str, folder: str, cfg: CfgNode) -> None:
    """Write ``model.safetensors`` and ``config.json`` of the same detector in transformers.

    Args:
        source: checkpoint of this package, or a published one.
        folder: made if it does not exist.
        cfg: configuration of the model.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: as :func:`convert_file`, the source does not fill the model, or transformers has
            no such detector.
    """
    weights, report = _read(source, cfg)
    if report.missing:
        raise ValueError(
            f"{source} lacks {len(report.missing)} tensors of the model, {report.missing[0]} among "
            "them: train it, or give the configuration of the file"
        )
    tensors, config = to_hugging_face(weights, cfg)
    os.makedirs(folder, exist_ok=True)
    content = save(tensors, metadata={"format": "pt"})
    write_atomically(os.path.join(folder, "model.safetensors"), lambda file: file.write(content))
    text = json.dumps(config, indent=2).encode()
    write_atomically(os.path.join(folder, "config.json"), lambda file: file.write(text))


def _read(source: str, cfg: CfgNode) -> Conversion:
    """Convert a file, print where every tensor went, and check that it fits."""
    expected = build_model(cfg).state_dict()
    contents = read_checkpoint(source)
    take_average(source, contents, cfg)
    options = training_options(contents)
    conversion = convert_state_dict(unwrap(contents), cfg, expected, options)
    print(conversion.report.table())
    print(conversion.report.summary())
    _require_shapes(conversion.state_dict, expected)
    return conversion


def _require_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    differing = [
        f"{name} is {tuple(tensor.shape)}, the model has {tuple(expected[name].shape)}"
        for name, tensor in weights.items()
        if tensor.shape != expected[name].shape
    ]
    if differing or not weights:
        raise ValueError(
            f"the file does not fit the configuration: {'; '.join(differing) or 'no tensor fits'}. "
            "Give the configuration of the published model"
        )


if __name__ == "__main__":
    main()
