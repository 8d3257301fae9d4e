"""Stand-ins for the compiled extensions that published repositories import.

Deformable-DETR, DINO, Mask2Former and many others import ``MultiScaleDeformableAttention``,
Grounding DINO imports ``groundingdino._C``. Both are CUDA extensions with the same two functions.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from types import ModuleType

import torch
from torch import Tensor

from .. import ops
from .arguments import spatial_shapes

#: The extensions for which there are stand-ins.
EXTENSIONS = ("MultiScaleDeformableAttention", "groundingdino._C")


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """The forward function of the extensions.

    Args:
        value: (B, S, M, D).
        value_spatial_shapes: (L, 2), the (H, W) of the levels.
        level_start_index: (L,), not used: the levels follow one another.
        sampling_locations: (B, Q, M, L, P, 2).
        attention_weights: (B, Q, M, L, P).
        im2col_step: images that the extensions compute at once; not used.

    Returns:
        (B, Q, M * D).
    """
    shapes = spatial_shapes(value_spatial_shapes)
    return ops.multi_scale_deformable_attention(
        value, shapes, sampling_locations, attention_weights
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    im2col_step: int,
) -> list[Tensor]:
    """The backward function of the extensions.

    Args:
        value: see :func:`ms_deform_attn_forward`, as the arguments that follow.
        value_spatial_shapes: (L, 2).
        level_start_index: not used.
        sampling_locations: (B, Q, M, L, P, 2).
        attention_weights: (B, Q, M, L, P).
        grad_output: (B, Q, M * D).
        im2col_step: not used.

    Returns:
        The gradients of value, locations and weights.
    """
    given = (value, sampling_locations, attention_weights)
    shapes = spatial_shapes(value_spatial_shapes)
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        output = ops.multi_scale_deformable_attention(leaves[0], shapes, leaves[1], leaves[2])
    return list(torch.autograd.grad(output, leaves, grad_output))


def install_shims() -> list[str]:
    """Make the extensions importable that are not installed, with the operators in them.

    Code that imports them runs without a CUDA build then, on every device. An extension that is
    installed stays what it is. The stand-ins live in ``sys.modules`` of this process.

    Returns:
        The names that the stand-ins have taken.
    """
    taken = [name for name in EXTENSIONS if name not in sys.modules and not _installed(name)]
    for name in taken:
        sys.modules[name] = _stand_in(name)
    return taken


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name, __doc__)
    module.ms_deform_attn_forward = ms_deform_attn_forward  # type: ignore[attr-defined]
    module.ms_deform_attn_backward = ms_deform_attn_backward  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    return module


def _installed(name: str) -> bool:
    """Whether a module can be found, without importing the package that it is in."""
    package, _, _ = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name) is not None
    if package in sys.modules:
        places = getattr(sys.modules[package], "__path__", None)
    else:
        parent = importlib.util.find_spec(package)
        places = None if parent is None else parent.submodule_search_locations
    return bool(places) and importlib.machinery.PathFinder.find_spec(name, places) is not None
