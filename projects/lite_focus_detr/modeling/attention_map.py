"""Where the decoder looks: the samples of its cross-attention, and their map over the tokens."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from .attention import DeformableAttention


class Sampling(NamedTuple):
    """Samples of an attention of Q queries, M heads, L levels and P points, without gradient."""

    locations: Tensor  #: (B, Q, M, L, P, 2), (x, y) relative to each level's padded map
    weights: Tensor  #: (B, Q, M, L, P)

    def skip(self, count: int) -> "Sampling":
        """Without the first ``count`` queries."""
        return Sampling(self.locations[:, count:], self.weights[:, count:])


@contextmanager
def record_sampling(attentions: Iterable[nn.Module]) -> Iterator[list[Sampling]]:
    """Collect the sampling of every call of the deformable ``attentions`` inside, in order."""
    recorded: list[Sampling] = []

    @torch.no_grad()
    def record(attention: DeformableAttention, arguments: tuple[Any, ...]) -> None:
        query, references, _, tokens = arguments
        points = attention.points(query, references, tokens)
        locations = ops.reference.sampling_locations(*points)
        logits = attention.attention_weights(query).unflatten(-1, (attention.num_heads, -1))
        weights = logits.to(locations.dtype).softmax(-1).view(locations.shape[:-1])
        recorded.append(Sampling(locations, weights))

    hooks = [attention.register_forward_pre_hook(record) for attention in attentions]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def attention_map(
    sampling: Sequence[Sampling], spatial_shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    """Attention (B, S, M) that each token gets from all queries, in all of the samplings.

    The DAM of Sparse DETR (3.2): the weights of the samples, spread bilinearly over the tokens
    around them. That is the gradient of the attention with respect to its values. As there, the
    location (0, 0) is the centre of the first token, not its corner.
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
