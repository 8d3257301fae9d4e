"""Lite-DINO as its authors released it (https://github.com/IDEA-Research/Lite-DETR).

The keys show which layers update all levels and how the attention weighs its samples. The number
of high levels leaves no trace in them: a wrong one loads, and detects next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from detectron2.config import CfgNode

from ..checkpoint_format import CheckpointFormat, Options
from .dino import DINO

_LAYER = re.compile(r"transformer\.encoder\.layers\.(\d+)\.(.+)")


def _layers(keys: Collection[str], name: str) -> set[int]:
    """Encoder layers that have a tensor called ``name``."""
    matches = map(_LAYER.fullmatch, keys)
    return {int(match[1]) for match in matches if match and match[2] == name}


def _recognises(keys: Collection[str]) -> bool:
    return DINO.recognises(keys) and bool(_layers(keys, "linear12.weight"))


def _settings(keys: Collection[str], options: Options) -> Mapping[str, object]:
    plain = {
        part: f"transformer.{part}.layers.0.{attn}.attention_weights.weight" in keys
        for part, attn in (("encoder", "self_attn"), ("decoder", "cross_attn"))
    }
    return {
        **DINO.settings(keys, options),
        **({"MODEL.LITE.NUM_HIGH_LEVELS": options["enc_scale"]} if "enc_scale" in options else {}),
        "MODEL.META_ARCHITECTURE": "LiteDETR",
        "MODEL.DETR.ENCODER.NUM_LAYERS": len(_layers(keys, "linear1.weight")),
        "MODEL.LITE.LOW_UPDATE": "joint",
        "MODEL.LITE.NUM_BLOCKS": len(_layers(keys, "linear12.weight")),
        "MODEL.DETR.ENCODER.ATTENTION": "deformable" if plain["encoder"] else "key_aware",
        "MODEL.DETR.DECODER.ATTENTION": "deformable" if plain["decoder"] else "key_aware",
        "MODEL.DETR.ENCODER.PROJECTED_KEY": bool(_layers(keys, "self_attn.key_proj.weight")),
        "MODEL.DETR.DECODER.PROJECTED_KEY": (
            "transformer.decoder.layers.0.cross_attn.key_proj.weight" in keys
        ),
    }


def _notes(keys: Collection[str], options: Mapping[str, object], cfg: CfgNode) -> list[str]:
    blocks, layers = len(_layers(keys, "linear12.weight")), len(_layers(keys, "linear1.weight"))
    levels, high = cfg.MODEL.DETR.NUM_LEVELS, cfg.MODEL.LITE.NUM_HIGH_LEVELS
    saved = options.get("enc_scale")
    notes = [
        f"Schedule: H{high}L{levels - high}-({layers // blocks}+1)x{blocks}. The blocks are read "
        f"from the keys, the {high} high levels are MODEL.LITE.NUM_HIGH_LEVELS."
    ]
    if blocks == 3 and 1 in (saved, high):
        notes.append(
            "3 blocks with 1 high level are H1L3-(2+1)x3. The README of Lite-DETR calls them "
            '("a=3, b=1") H2L2-(2+1)x3 by mistake: that layout has 2 high levels. Weights that '
            "were really trained with enc_scale 1 need MODEL.LITE.NUM_HIGH_LEVELS 1, the released "
            "r50_s2ex3_49.9.pth needs MODEL.LITE.NUM_HIGH_LEVELS 2."
        )
    notes.append(
        "Users of the released files report an AP near zero with some options. Evaluate once: "
        "train_net.py --eval-only --config-file FILE MODEL.WEIGHTS THIS_FILE must give the AP in "
        f"the name of the file; otherwise try MODEL.LITE.NUM_HIGH_LEVELS 1 to {levels}."
    )
    return notes


LITE_DINO = CheckpointFormat(
    name="lite_dino",
    recognises=_recognises,
    rename=DINO.rename,
    settings=_settings,
    notes=_notes,
    hidden=("MODEL.LITE.NUM_HIGH_LEVELS", "MODEL.DETR.POSITION"),
)
