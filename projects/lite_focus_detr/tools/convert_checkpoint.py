"""Convert a published checkpoint to the names and shapes of a configured model.

    python -m lite_focus_detr.tools.convert_checkpoint IN OUT --config-file NAME_OR_PATH \
        [--opts KEY VALUE ...]

``MODEL.WEIGHTS`` takes published files as they are; this writes the result down for other programs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from .. import model_zoo
from ..converters import convert_state_dict, training_options, unwrap
from ..engine import user_errors
from ..engine.checkpoint_io import read_checkpoint, write_checkpoint
from .command_line import add_config_arguments


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if a file or the configuration is wrong."""
    parser = argparse.ArgumentParser(description="Convert a published checkpoint.")
    parser.add_argument("input", metavar="IN", help="published .pth or .pkl file")
    parser.add_argument("output", metavar="OUT", help="detectron2 .pth file to write")
    add_config_arguments(parser, weights=False)
    args = parser.parse_args(arguments)
    with user_errors():
        cfg = model_zoo.get_config(args.config_file, args.opts)
        cfg.MODEL.DEVICE = "cpu"
        convert_file(args.input, args.output, cfg)


def convert_file(source: str, target: str, cfg: CfgNode) -> None:
    """Convert one file and print where every tensor went.

    Args:
        source: published checkpoint.
        target: file to write: the tensors that the source fills, under ``model``.
        cfg: configuration of the model.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the source is unsafe, of no known format, or does not fit the configuration.
    """
    expected = build_model(cfg).state_dict()
    contents = read_checkpoint(source)
    options = training_options(contents)
    weights, report = convert_state_dict(unwrap(contents), cfg, expected, options)
    print(report.table())
    print(report.summary())
    _require_shapes(weights, expected)
    author = f"lite_focus_detr, from the format {report.format}"
    converted = {"model": weights, "__author__": author}
    write_checkpoint(target, converted)


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
