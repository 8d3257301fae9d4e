"""Deformable DETR as its authors released it: plain, with refinement, two-stage.

https://github.com/fundamentalvision/Deformable-DETR
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..checkpoint_format import CheckpointFormat, Options, Rules, has_keys, rename_by
from .resnet import TORCHVISION_RULES

# Shared by all repositories that descend from this one.
ORIGINAL_RULES: Rules = (
    (r"^backbone\.0\.body\.", ""),
    *TORCHVISION_RULES,
    (r"^backbone\.0\.", "backbone."),
    (r"^input_proj\.", "neck.input_proj."),
    (r"^transformer\.level_embed$", "neck.level_embed"),
    (r"^(transformer\.decoder\.)?(class|bbox)_embed\.", r"heads.\2_embed."),
    (r"^transformer\.enc_output", "proposal_head.enc_output"),
    (r"^transformer\.(encoder|decoder)\.", r"\1."),
)

_RULES: Rules = (
    *ORIGINAL_RULES,
    (r"^query_embed\.", "query_selector.query_embed."),
    (r"^transformer\.(reference_points|pos_trans)", r"query_selector.\1"),
)


def _settings(keys: Collection[str], options: Options) -> Mapping[str, object]:
    two_stage = "transformer.pos_trans.weight" in keys
    return {
        "MODEL.DETR.POSITION.TEMPERATURE": 10000.0,
        "MODEL.DETR.POSITION.OFFSET": -0.5,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-5,
        "MODEL.DETR.QUERY_SELECTION": "two_stage" if two_stage else "learned",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": two_stage,
        "MODEL.DETR.BOX_REFINE": "transformer.decoder.bbox_embed.0.layers.0.weight" in keys,
    }


DEFORMABLE_DETR = CheckpointFormat(
    name="deformable_detr",
    recognises=has_keys("transformer.level_embed", "input_proj.0.0.weight"),
    rename=rename_by(_RULES),
    settings=_settings,
)
