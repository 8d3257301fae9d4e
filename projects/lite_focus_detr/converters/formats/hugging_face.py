"""Deformable DETR of Hugging Face's transformers: ``DeformableDetrForObjectDetection``.

Its files, ``model.safetensors`` or ``pytorch_model.bin``, have the names of transformers 4, which
version 5 writes as well; the models of version 5 have some others in memory. Both are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..checkpoint_format import CheckpointFormat, Options, Rules, has_keys, rename_by
from ..renamed_weights import RenamedWeights
from .resnet import TORCHVISION_RULES

# The ResNet of transformers itself; timm's, the default, has torchvision's names.
_RESNET_RULES: Rules = (
    (r"^embedder\.embedder\.convolution\.", "backbone.stem.conv1."),
    (r"^embedder\.embedder\.normalization\.", "backbone.stem.conv1.norm."),
    *((rf"^encoder\.stages\.{n}\.layers\.", f"backbone.res{n + 2}.") for n in range(4)),
    *((rf"^(backbone\.res.+)\.layer\.{n}\.", rf"\1.conv{n + 1}.") for n in range(3)),
    (r"^(backbone\.res.+)\.convolution\.", r"\1."),
    (r"^(backbone\.res.+)\.normalization\.", r"\1.norm."),
)

_RULES: Rules = (
    (r"^model\.backbone\.(conv_encoder\.)?model\.(_backbone\.)?", "backbone."),
    (r"^backbone\.(?=conv1|bn1|layer\d|embedder|encoder\.stages)", ""),
    *TORCHVISION_RULES,
    *_RESNET_RULES,
    (r"^model\.input_proj\.", "neck.input_proj."),
    (r"^model\.level_embed$", "neck.level_embed"),
    (r"^model\.query_position_embeddings\.", "query_selector.query_embed."),
    (r"^model\.(reference_points|pos_trans)", r"query_selector.\1"),
    (r"^model\.enc_output", "proposal_head.enc_output"),
    (r"^(model\.decoder\.)?(class|bbox)_embed\.", r"heads.\2_embed."),
    (r"^model\.(encoder|decoder)\.", r"\1."),
    (r"^((?:en|de)coder\.layers\.\d+)\.(?:mlp\.)?fc([12])\.", r"\1.linear\2."),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"^(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.self_attn\.o_proj\.", r"\1.self_attn.out_proj."),
    (r"^(decoder\.layers\.\d+)\.encoder_attn\.", r"\1.cross_attn."),
    # Named after the original's history: the self-attention came second.
    (r"^(decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norm1."),
    (r"^(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
)


def _join_projections(weights: RenamedWeights) -> None:
    """Queries, keys and values have a layer each there, and one together in PyTorch."""
    for kind in ("weight", "bias"):
        for name in [name for name in weights.tensors if name.endswith(f".q_proj.{kind}")]:
            parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
            if all(part in weights.tensors for part in parts):
                weights.join(parts, name.replace(f".q_proj.{kind}", f".in_proj_{kind}"))


def _settings(keys: Collection[str], options: Options) -> Mapping[str, object]:
    two_stage = "model.pos_trans.weight" in keys
    settings: dict[str, object] = {
        "MODEL.DETR.POSITION.TEMPERATURE": 10000.0,
        "MODEL.DETR.POSITION.OFFSET": -0.5,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-5,
        "MODEL.DETR.QUERY_SELECTION": "two_stage" if two_stage else "learned",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": two_stage,
    }
    refine = two_stage or "model.decoder.bbox_embed.0.layers.0.weight" in keys
    # Files without aliases may have the box heads of a refining decoder under either name.
    if refine or "bbox_embed.1.layers.0.weight" not in keys:
        settings["MODEL.DETR.BOX_REFINE"] = refine
    return settings


HUGGING_FACE = CheckpointFormat(
    name="hugging_face",
    recognises=has_keys("model.level_embed", "model.input_proj.0.0.weight"),
    rename=rename_by(_RULES),
    complete=_join_projections,
    settings=_settings,
    hidden=("MODEL.DETR.BOX_REFINE",),
)
