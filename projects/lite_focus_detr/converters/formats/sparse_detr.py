"""Sparse DETR as its authors released it (https://github.com/kakaobrain/sparse-detr)."""

from __future__ import annotations

from ..checkpoint_format import CheckpointFormat, Rules, has_keys, rename_by
from .deformable_detr import ORIGINAL_RULES

# Of the encoder layers, under names of their own and once more behind the heads of the decoder.
_ENCODER_HEADS = "encoder.aux_heads"

_RULES: Rules = (
    (r"^transformer\.enc_mask_predictor\.", "encoder.scorer."),
    (r"^transformer\.encoder\.(class|bbox)_embed\.", rf"{_ENCODER_HEADS}.\1_embed."),
    *ORIGINAL_RULES,
    (r"^transformer\.pos_trans", "query_selector.pos_trans"),
)

SPARSE_DETR = CheckpointFormat(
    name="sparse_detr",
    recognises=has_keys("input_proj.0.0.weight", "transformer.enc_mask_predictor.layer1.0.bias"),
    rename=rename_by(_RULES),
    encoder_heads=_ENCODER_HEADS,
    settings=lambda keys, options: {
        "MODEL.META_ARCHITECTURE": "SparseDETR",
        "MODEL.DETR.POSITION.TEMPERATURE": 10000.0,
        "MODEL.DETR.POSITION.OFFSET": -0.5,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-5,
        "MODEL.DETR.QUERY_SELECTION": "token_content",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": False,
        "MODEL.DETR.BOX_REFINE": True,
        **({"MODEL.SPARSE.KEEP_RATIO": options["rho"]} if "rho" in options else {}),
    },
    hidden=("MODEL.SPARSE.KEEP_RATIO",),
)
