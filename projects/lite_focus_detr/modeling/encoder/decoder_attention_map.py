"""Where the decoder looks: the DAM of Sparse DETR."""

import torch
from torch import Tensor

from ... import ops
from ..structures import Sampling, SpatialShapes


def decoder_attention_map(sampling: Sampling, spatial_shapes: SpatialShapes) -> Tensor:
    """Attention (B, S, M) that each token gets from all queries in all layers (Sparse DETR, 3.2).

    The weights of the samples, spread bilinearly over the tokens around them: that is the gradient
    of the attention with respect to its values. As published, the location (0, 0) is the centre of
    the first token, not its corner.
    """
    locations = torch.cat([x.locations for x in sampling], dim=1)
    weights = torch.cat([x.weights for x in sampling], dim=1)
    halves = torch.tensor([(0.5 / width, 0.5 / height) for height, width in spatial_shapes])
    locations = locations + halves.to(locations, non_blocking=True)[:, None]
    batch, _, heads = weights.shape[:3]
    num_tokens = sum(height * width for height, width in spatial_shapes)
    with torch.enable_grad():
        value = weights.new_zeros(batch, num_tokens, heads, 1, requires_grad=True)
        attended = ops.multi_scale_deformable_attention(value, spatial_shapes, locations, weights)
        (attention,) = torch.autograd.grad(attended.sum(), value)
    return attention[..., 0]
