"""Where an attention looks: the transpose of its sampling."""

import torch
from torch import Tensor

from .functional import multi_scale_deformable_attention
from .reference import SpatialShapes


def attention_map(locations: Tensor, weights: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
    """Attention (B, S, M) that each token gets from all queries (Sparse DETR, 3.2).

    The weights of the samples, spread bilinearly over the tokens around them: that is the gradient
    of the attention with respect to its values. As published, the location (0, 0) is the centre of
    the first token, not its corner.

    Args:
        locations: (B, Q, M, L, P, 2) of the samples, (x, y) relative to their level's map.
        weights: (B, Q, M, L, P) of the samples.
        spatial_shapes: (height, width) of each level.
    """
    halves = torch.tensor([(0.5 / width, 0.5 / height) for height, width in spatial_shapes])
    locations = locations + halves.to(locations, non_blocking=True)[:, None]
    batch, _, heads = weights.shape[:3]
    num_tokens = sum(height * width for height, width in spatial_shapes)
    with torch.enable_grad():
        value = weights.new_zeros(batch, num_tokens, heads, 1, requires_grad=True)
        attended = multi_scale_deformable_attention(value, spatial_shapes, locations, weights)
        (attention,) = torch.autograd.grad(attended.sum(), value)
    return attention[..., 0]
