"""What encoder and decoder layers have in common."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TransformerLayer(nn.Module):
    """Base of the layers: the feed-forward part, and recomputation in the backward pass."""

    def __init__(self, *, embed_dim: int, ffn_dim: int, dropout: float, recompute: bool) -> None:
        """``ffn_dim`` hidden channels; ``dropout`` on every residual branch; ``recompute``: keep
        no activations between forward and backward."""
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.recompute = recompute
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def __call__(self, *args: Any) -> Any:
        """Run the layer."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False)
        return super().__call__(*args)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The residual branch of the feed-forward part, (..., C) to (..., C)."""
        # In place: the gradient of a linear layer does not need its output.
        hidden = self.dropout(self.linear1(x).relu_())
        return self.dropout(self.linear2(hidden))
