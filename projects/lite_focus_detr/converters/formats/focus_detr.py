"""Focus-DETR as its authors released it, on detrex; detrex's own copy has the same files.

https://github.com/huawei-noah/noah-research/tree/master/Focus-DETR
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..checkpoint_format import CheckpointFormat, Options, Rules, has_keys, rename_by
from .detrex import DETREX, DETREX_RULES, POSITIONS

_RULES: Rules = (
    # Up to 14 names of one tensor, the class head behind those of the six decoder layers.
    (r"^(transformer\.encoder\.enhance_MCSP|enhance_MCSP_layerlist)\.\d+\.", "class_embed.6."),
    (r"^transformer\.enc_mask_predictor\.", "encoder.scorer."),
    (r"^transformer\.alpha$", "encoder.scorer.alpha"),
    # The first attention of a layer is that of the object tokens here.
    (
        r"^transformer\.encoder\.layers\.(\d+)\.attentions\.0\.attn\.",
        r"encoder.dual_attention.\1.self_attn.",
    ),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm2\.", r"encoder.dual_attention.\1.norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.attentions\.1\.", r"encoder.layers.\1.self_attn."),
    *DETREX_RULES,
)


def _settings(keys: Collection[str], options: Options) -> Mapping[str, object]:
    resnet = "backbone.stem.conv1.weight" in keys
    return {
        **DETREX.settings(keys, options),
        "MODEL.META_ARCHITECTURE": "FocusDETR",
        "MODEL.FOCUS.VALUE": "frozen",
        "MODEL.FOCUS.OBJECT_SCORE": "logit",
        "MODEL.FOCUS.MODULATION": "top_down",
        # ResNet files of 12 epochs and all Swin files have the first, ResNet files of 24 and 36
        # epochs the second.
        "MODEL.DETR.POSITION": POSITIONS if resnet else POSITIONS[0],
    }


FOCUS_DETR = CheckpointFormat(
    name="focus_detr",
    recognises=has_keys("neck.convs.0.conv.weight", "transformer.enc_mask_predictor.layer1.0.bias"),
    rename=rename_by(_RULES),
    settings=_settings,
    hidden=("MODEL.FOCUS.KEEP_RATIOS", "MODEL.FOCUS.OBJECT_TOKENS"),
)
