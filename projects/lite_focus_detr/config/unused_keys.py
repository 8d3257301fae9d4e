"""Keys of detectron2 that do nothing in the detectors of this package."""

from __future__ import annotations

import functools
from functools import reduce
from operator import getitem
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

_PACKAGE = __name__.partition(".")[0]
_OTHER_DETECTORS = "other detectors have it, those of the DETR family do not"

#: Key, or the beginning of keys that end with a dot, -> why it does nothing. First match counts.
UNUSED = {
    "MODEL.ROI_HEADS.NUM_CLASSES": "set MODEL.DETR.NUM_CLASSES",
    "MODEL.RETINANET.NUM_CLASSES": "set MODEL.DETR.NUM_CLASSES",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "detections of every score are evaluated, and commands "
    "that draw have --confidence-threshold",
    "MODEL.MASK_ON": "there are no masks",
    "MODEL.KEYPOINT_ON": "there are no keypoints",
    "MODEL.LOAD_PROPOSALS": "proposals are the detector's own",
    "MODEL.PROPOSAL_GENERATOR.": _OTHER_DETECTORS,
    "MODEL.ANCHOR_GENERATOR.": _OTHER_DETECTORS,
    "MODEL.RPN.": _OTHER_DETECTORS,
    "MODEL.ROI_HEADS.": _OTHER_DETECTORS,
    "MODEL.ROI_BOX_HEAD.": _OTHER_DETECTORS,
    "MODEL.ROI_BOX_CASCADE_HEAD.": _OTHER_DETECTORS,
    "MODEL.ROI_MASK_HEAD.": "there are no masks",
    "MODEL.ROI_KEYPOINT_HEAD.": "there are no keypoints",
    "MODEL.SEM_SEG_HEAD.": "there are no masks",
    "MODEL.PANOPTIC_FPN.": "there are no masks",
    "MODEL.RETINANET.": _OTHER_DETECTORS,
    "INPUT.MASK_FORMAT": "there are no masks",
    "DATASETS.PROPOSAL_FILES_TRAIN": "proposals are the detector's own",
    "DATASETS.PROPOSAL_FILES_TEST": "proposals are the detector's own",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "proposals are the detector's own",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "proposals are the detector's own",
    "SOLVER.MOMENTUM": "AdamW has none",
    "SOLVER.NESTEROV": "AdamW has no momentum of this kind",
    "TEST.AUG.": "images are evaluated once, without augmentation",
    "TEST.KEYPOINT_OKS_SIGMAS": "there are no keypoints",
}


def require_unused_keys_unchanged(cfg: CfgNode) -> None:
    """Refuse values of keys that would change nothing; other people's detectors may use them.

    Args:
        cfg: complete configuration, with a registered ``MODEL.META_ARCHITECTURE``.

    Raises:
        ValueError: names the key, its value and why it does nothing.
    """
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if architecture.__module__.partition(".")[0] != _PACKAGE:
        return
    for key, (default, reason) in _unused_leaves().items():
        value = reduce(getitem, key.split("."), cfg)
        if _as_tuples(value) != _as_tuples(default):
            raise ValueError(
                f"{key} is {value!r}, but it does nothing here: {reason}; leave it out, or at "
                f"{default!r}"
            )


@functools.cache
def _unused_leaves() -> dict[str, tuple[Any, str]]:
    """Default and reason of each unused key."""
    return {
        key: (value, reason)
        for key, value in _leaves(get_cfg(), "").items()
        if (reason := _reason(key)) is not None
    }


def _reason(key: str) -> str | None:
    matches = (
        reason
        for start, reason in UNUSED.items()
        if key == start or (start.endswith(".") and key.startswith(start))
    )
    return next(matches, None)


def _as_tuples(value: Any) -> Any:
    """A saved configuration has lists where detectron2 has tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


def _leaves(node: CfgNode, prefix: str) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
