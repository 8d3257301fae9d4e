"""What encoder and decoder layers have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TransformerLayer(nn.Module):
    """Base of the layers: the feed-forward part, with residual and post-norm left to them."""

    def __init__(self, *, embed_dim: int, ffn_dim: int, dropout: float) -> None:
        """
        Args:
            embed_dim: channels C.
            ffn_dim: hidden channels of the feed-forward part.
            dropout: probability, on every residual branch and the hidden channels.
        """
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        xavier_matrices(self)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The residual branch of the feed-forward part, (..., C) to (..., C)."""
        # In place: the gradient of a linear layer does not need its output.
        hidden = self.dropout(self.linear1(x).relu_())
        return self.dropout(self.linear2(hidden))


def run_layer(gradient_checkpointing: bool, layer: Callable[..., Any], *args: Any) -> Any:
    """``layer(*args)``; with ``gradient_checkpointing`` it is run again in the backward pass."""
    if gradient_checkpointing and torch.is_grad_enabled():
        return checkpoint(layer, *args, use_reentrant=False)
    return layer(*args)


def xavier_matrices(module: nn.Module) -> None:
    """Start the matrices of a module as all upstreams do at the end; its vectors stay."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
