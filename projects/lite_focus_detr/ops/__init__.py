"""Multi-scale and key-aware deformable attention.

Each operator runs a native kernel where one is available for the device and the dtype, else the
PyTorch formulation in :mod:`lite_focus_detr.ops.reference`, which is their specification; the
arguments are described there. ``LITE_FOCUS_DETR_OPS=reference`` in the environment forces it. Under
autocast values, keys and queries are taken in its dtype, locations and references are not.
"""

from . import reference
from .attention_map import attention_map
from .functional import (
    fused_deformable_attention,
    fused_key_aware_deformable_attention,
    key_aware_deformable_attention,
    multi_scale_deformable_attention,
)
from .native import backend, unavailable_reason

__all__ = [
    "attention_map",
    "backend",
    "fused_deformable_attention",
    "fused_key_aware_deformable_attention",
    "key_aware_deformable_attention",
    "multi_scale_deformable_attention",
    "reference",
    "unavailable_reason",
]
