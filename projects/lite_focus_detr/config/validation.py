"""The check of a configuration: values, and combinations that cannot be built or trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils.registry import Registry

from ..modeling.encoder import ENCODER_REGISTRY
from ..modeling.query_selectors import has_box_queries
from .suggestions import did_you_mean
from .unused_keys import require_unused_keys_unchanged

#: Keys with a few possible values; encoders check their own.
CHOICES = {
    "MODEL.DETR.QUERY_SELECTION": ("learned", "two_stage", "token_content", "mixed"),
    "MODEL.DETR.REFERENCE": ("point", "box"),
    "MODEL.DETR.PROPOSAL_BOXES": ("selected", "all"),
    "MODEL.DETR.PROPOSAL_LOSS": ("selected", "all"),
    "MODEL.DETR.ENCODER.ATTENTION": ("deformable", "key_aware"),
    "MODEL.DETR.DECODER.ATTENTION": ("deformable", "key_aware"),
    "MODEL.DETR.DECODER.POSITION_FRAME": ("padded", "image"),
    "MODEL.DETR.DENOISING.TYPE": ("none", "plain", "contrastive"),
    "SOLVER.AMP.DTYPE": ("float16", "bfloat16"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "TEST.OPTIMIZE": ("none", "float32", "bfloat16", "int8"),
    "INPUT.RESIZE_ROUNDING": ("nearest", "down"),
}

#: Keys with a smallest value.
MINIMUM_VALUES = {
    "MODEL.DETR.NUM_CLASSES": 1,
    "MODEL.DETR.NUM_QUERIES": 1,
    "MODEL.DETR.ENCODER.NUM_LAYERS": 1,
    "MODEL.DETR.DECODER.NUM_LAYERS": 1,
    "MODEL.DETR.DENOISING.MAX_QUERIES": 1,
    "MODEL.DETR.LOSS.GIOU_EPS": 0,
    "SOLVER.BASE_LR": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.ACCUMULATION_STEPS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.CHECKPOINT_KEEP": 0,
    "SOLVER.PATIENCE": 0,
    "TEST.EVAL_PERIOD": 0,
}


def validate_config(cfg: CfgNode) -> None:
    """Refuse combinations of keys that cannot be built or trained.

    Raises:
        ValueError: names the keys, their values and the remedy.
    """
    _require_values(cfg, CHOICES, MINIMUM_VALUES)
    _validate_sizes(cfg)
    _validate_images(cfg)
    _validate_clipping(cfg)
    _validate_family(cfg)
    _validate_attention(cfg)
    _validate_keep_ratio_range(cfg.SOLVER.KEEP_RATIO_RANGE)
    require_registered(cfg)
    require_unused_keys_unchanged(cfg)
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    encoder_name = getattr(architecture, "encoder_name", None)
    if encoder_name is not None:
        _require_known("encoder_name of MODEL.META_ARCHITECTURE", encoder_name, ENCODER_REGISTRY)
        encoder = ENCODER_REGISTRY.get(encoder_name)
        _require_values(cfg, encoder.choices, encoder.minimum_values)
        _require_lengths(cfg, encoder.list_lengths)
        encoder.validate_config(cfg)


def _require_values(
    cfg: CfgNode, choices: Mapping[str, Sequence[str]], minimum_values: Mapping[str, float]
) -> None:
    """Refuse keys, given by full name, whose value is none of the ``choices`` or is too small."""
    for key, allowed in choices.items():
        value = reduce(getitem, key.split("."), cfg)
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}; it must be one of {', '.join(allowed)}")
    for key, least in minimum_values.items():
        value = reduce(getitem, key.split("."), cfg)
        if value < least:
            raise ValueError(f"{key} is {value}; it must be at least {least}")


def _require_lengths(cfg: CfgNode, list_lengths: Mapping[str, str]) -> None:
    """Refuse lists that have not as many entries as another key says, both by full name."""
    for key, count_key in list_lengths.items():
        entries, count = (reduce(getitem, name.split("."), cfg) for name in (key, count_key))
        if len(entries) != count:
            found = f"{key} has {len(entries)} entries"
            raise ValueError(f"{found}, {count_key} is {count}; give one each")


def _validate_sizes(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    divisors = {"MODEL.DETR.NUM_HEADS": detr.NUM_HEADS, "MODEL.DETR.NORM_GROUPS": detr.NORM_GROUPS}
    for key, value in {**divisors, "the sine position's": 4}.items():
        if detr.EMBED_DIM % value:
            raise ValueError(
                f"MODEL.DETR.EMBED_DIM {detr.EMBED_DIM} must be divisible by {key} {value}"
            )
    if len(detr.IN_FEATURES) > detr.NUM_LEVELS:
        raise ValueError(
            f"MODEL.DETR.NUM_LEVELS {detr.NUM_LEVELS} is less than the "
            f"{len(detr.IN_FEATURES)} entries of MODEL.DETR.IN_FEATURES"
        )


def _validate_images(cfg: CfgNode) -> None:
    for key, values in (("PIXEL_MEAN", cfg.MODEL.PIXEL_MEAN), ("PIXEL_STD", cfg.MODEL.PIXEL_STD)):
        if len(values) != 3:
            raise ValueError(
                f"MODEL.{key} has {len(values)} values, {list(values)}; an image has 3 channels"
            )
    if not all(0 < value < math.inf for value in cfg.MODEL.PIXEL_STD):
        raise ValueError(f"MODEL.PIXEL_STD is {list(cfg.MODEL.PIXEL_STD)}; all must be positive")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"INPUT.MIN_SIZE_TRAIN is {sizes}; give one or more sizes in pixels")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}; INPUT.MIN_SIZE_TRAIN_SAMPLING range needs the "
            "smallest and the largest size"
        )


def _validate_clipping(cfg: CfgNode) -> None:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and not clip.CLIP_VALUE > 0:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}; it must be positive, a "
            "negative one would turn the gradient around. SOLVER.CLIP_GRADIENTS.ENABLED False "
            "does not clip"
        )


def _validate_family(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    if detr.LOOK_FORWARD_TWICE and not detr.BOX_REFINE:
        raise ValueError(
            "MODEL.DETR.LOOK_FORWARD_TWICE needs MODEL.DETR.BOX_REFINE: without refinement there "
            "is no earlier layer to look at"
        )
    if detr.CLASS_AGNOSTIC_PROPOSALS and detr.QUERY_SELECTION == "learned":
        raise ValueError(
            "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS needs MODEL.DETR.QUERY_SELECTION two_stage or "
            "mixed: learned queries have no proposals"
        )
    if detr.COCO_ID_ROWS and detr.NUM_CLASSES != 91:
        raise ValueError(
            f"MODEL.DETR.COCO_ID_ROWS needs MODEL.DETR.NUM_CLASSES 91, not {detr.NUM_CLASSES}"
        )
    if has_box_queries(cfg):
        return
    for key, without in (("DENOISING.TYPE", "none"), ("DECODER.POSITION_SCALE", False)):
        value = reduce(getitem, key.split("."), detr)
        if value != without:
            raise ValueError(
                f"MODEL.DETR.{key} {value} needs queries whose position is a box: "
                "MODEL.DETR.QUERY_SELECTION mixed, or learned with MODEL.DETR.REFERENCE box"
            )


def _validate_keep_ratio_range(limits: object) -> None:
    if isinstance(limits, (list, tuple)):
        numbers = [x for x in limits if isinstance(x, (int, float))]
        if not limits or (len(numbers) == len(limits) == 2 and 0 < numbers[0] < numbers[1] <= 1):
            return
    raise ValueError(
        f"SOLVER.KEEP_RATIO_RANGE is {limits!r}; it must be [smallest, largest] in (0, 1], or []"
    )


def _validate_attention(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    for name, part in (("ENCODER", detr.ENCODER), ("DECODER", detr.DECODER)):
        if part.PROJECTED_KEY and part.ATTENTION != "key_aware":
            raise ValueError(
                f"MODEL.DETR.{name}.PROJECTED_KEY needs MODEL.DETR.{name}.ATTENTION key_aware: "
                f"{part.ATTENTION} attention has no keys"
            )


def require_registered(cfg: CfgNode) -> None:
    """Check that the names of the configuration are registered.

    Raises:
        ValueError: names the key and similar names.
    """
    _require_known("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)
    _require_known("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)


def _require_known(key: str, name: str, registry: Registry) -> None:
    known = [entry for entry, _ in registry]
    if name not in known:
        raise ValueError(f"{key} is {name!r}, which is not registered{did_you_mean(name, known)}")
