"""From a model of this package to files of Hugging Face's ``DeformableDetrForObjectDetection``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from .checkpoint_format import Rules, rename_by

#: What transformers has no option for, and the value that its model has.
_FIXED: Mapping[str, object] = {
    "MODEL.META_ARCHITECTURE": "DeformableDETR",
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.DETR.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.DETR.NORM_GROUPS": 32,
    "MODEL.DETR.REFERENCE": "point",
    "MODEL.DETR.POSITION.TEMPERATURE": 10000.0,
    "MODEL.DETR.POSITION.OFFSET": -0.5,
    "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-5,
    "MODEL.DETR.ENCODER.ATTENTION": "deformable",
    "MODEL.DETR.ENCODER.SHARED_OFFSETS": False,
    "MODEL.DETR.DECODER.ATTENTION": "deformable",
    "MODEL.DETR.DECODER.SHARED_OFFSETS": False,
    "MODEL.DETR.DECODER.FINAL_NORM": False,
    "MODEL.DETR.DECODER.POSITION_SCALE": False,
}

_BACKBONE = "model.backbone.conv_encoder.model"
_RULES: Rules = (
    (r"^backbone\.stem\.conv1\.norm\.", f"{_BACKBONE}.bn1."),
    (r"^backbone\.stem\.", f"{_BACKBONE}."),
    *((rf"^backbone\.res{n + 1}\.", f"{_BACKBONE}.layer{n}.") for n in range(1, 5)),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"^neck\.", "model."),
    (r"^query_selector\.query_embed\.", "model.query_position_embeddings."),
    (r"^query_selector\.", "model."),
    (r"^proposal_head\.", "model."),
    (r"^(encoder|decoder)\.", r"model.\1."),
    (r"\.linear(\d)\.", r".fc\1."),
    (r"^(model\.encoder\..+)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"^(model\.encoder\..+)\.norm2\.", r"\1.final_layer_norm."),
    (r"^(model\.decoder\..+)\.norm1\.", r"\1.encoder_attn_layer_norm."),
    (r"^(model\.decoder\..+)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"^(model\.decoder\..+)\.norm3\.", r"\1.final_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
)


def to_hugging_face(
    state_dict: Mapping[str, Tensor], cfg: CfgNode
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration of the same detector in transformers.

    Args:
        state_dict: of a model, complete; not changed.
        cfg: its configuration.

    Returns:
        Contiguous tensors that share no memory, under the names that ``save_pretrained`` writes,
        and the contents of ``config.json``.

    Raises:
        ValueError: transformers has no such detector; the message names the keys.
    """
    _require_equivalent(cfg)
    detr = cfg.MODEL.DETR
    two_stage, refine = detr.QUERY_SELECTION == "two_stage", detr.BOX_REFINE
    prefixes = {
        "class_embed": "model.decoder." if two_stage else "",
        "bbox_embed": "model.decoder." if refine else "",
    }
    rename = rename_by(
        tuple(
            rule
            for kind, prefix in prefixes.items()
            for rule in (
                (rf"^heads\.{kind}\.", f"{prefix}{kind}."),
                # The head of the encoder output comes after those of the decoder layers.
                (rf"^proposal_head\.{kind}\.", f"{prefix}{kind}.{detr.DECODER.NUM_LAYERS}."),
            )
        )
        + _RULES
    )
    weights: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        layer, joined, kind = rename(name).partition(".in_proj_")
        if joined:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{layer}.{part}_proj.{kind}"] = rows.clone()
        else:
            weights[layer] = tensor.clone()
    return weights, _config(cfg)


def _require_equivalent(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    two_stage = detr.QUERY_SELECTION == "two_stage"
    required = {
        **_FIXED,
        "MODEL.DETR.QUERY_SELECTION": "two_stage" if two_stage else "learned",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": two_stage,
        "MODEL.DETR.BOX_REFINE": two_stage or detr.BOX_REFINE,
        "MODEL.DETR.SHARE_HEADS": not detr.BOX_REFINE,
    }
    differing = []
    for key, value in required.items():
        configured = functools.reduce(getattr, key.split("."), cfg)
        if configured != value:
            differing.append(f"{key} {configured} (there {value})")
    if differing:
        raise ValueError(
            f"DeformableDetr of transformers cannot compute this detector: {', '.join(differing)}"
        )


def _config(cfg: CfgNode) -> dict[str, Any]:
    detr = cfg.MODEL.DETR
    names = dict(enumerate(_class_names(cfg)))
    sizes = {
        f"{part}_{name}": value
        for part, node in (("encoder", detr.ENCODER), ("decoder", detr.DECODER))
        for name, value in (
            ("layers", node.NUM_LAYERS),
            ("ffn_dim", node.FFN_DIM),
            ("n_points", node.NUM_POINTS),
            ("attention_heads", detr.NUM_HEADS),
        )
    }
    return {
        "architectures": ["DeformableDetrForObjectDetection"],
        "model_type": "deformable_detr",
        "backbone": f"resnet{cfg.MODEL.RESNETS.DEPTH}",
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "d_model": detr.EMBED_DIM,
        "num_feature_levels": detr.NUM_LEVELS,
        "num_queries": detr.NUM_QUERIES,
        "two_stage_num_proposals": detr.NUM_QUERIES,
        "two_stage": detr.QUERY_SELECTION == "two_stage",
        "with_box_refine": detr.BOX_REFINE,
        "dropout": detr.DECODER.DROPOUT,
        "attention_dropout": detr.DECODER.DROPOUT,
        "id2label": {str(row): name for row, name in names.items()},
        "label2id": {name: row for row, name in names.items()},
        **sizes,
    }


def _class_names(cfg: CfgNode) -> list[str]:
    """Of the data set, if it has as many; else as transformers calls unknown ones."""
    for dataset in cfg.DATASETS.TEST:
        names = MetadataCatalog.get(dataset).get("thing_classes", [])
        if len(names) == cfg.MODEL.DETR.NUM_CLASSES:
            return list(names)
    return [f"LABEL_{row}" for row in range(cfg.MODEL.DETR.NUM_CLASSES)]
