"""DINO as its authors released it (https://github.com/IDEA-Research/DINO)."""

from __future__ import annotations

from ..checkpoint_format import CheckpointFormat, Rules, has_keys, rename_by
from .deformable_detr import ORIGINAL_RULES

_RULES: Rules = (
    (r"^transformer\.enc_out_(class|bbox)_embed\.", r"proposal_head.\1_embed."),
    *ORIGINAL_RULES,
    (r"^transformer\.tgt_embed\.", "query_selector.tgt_embed."),
    (r"^label_enc\.", "denoising.label_enc."),
)

DINO = CheckpointFormat(
    name="dino",
    recognises=has_keys("transformer.enc_out_class_embed.weight", "transformer.tgt_embed.weight"),
    rename=rename_by(_RULES),
    settings=lambda keys, options: {
        "MODEL.DETR.POSITION.TEMPERATURE": 20.0,
        "MODEL.DETR.POSITION.OFFSET": 0.0,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-3,
        "MODEL.DETR.QUERY_SELECTION": "mixed",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": False,
        "MODEL.DETR.BOX_REFINE": True,
    },
)
