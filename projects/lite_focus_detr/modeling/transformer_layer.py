"""What encoder and decoder layers have in common."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TransformerLayer(nn.Module):
    """Base of the layers: the feed-forward part, with residual and post-norm left to them."""

    #: Names of the linear layers of each feed-forward part.
    feed_forward_layers: ClassVar[Sequence[tuple[str, str]]] = (("linear1", "linear2"),)

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
        # In place: the gradient of a linear layer does not need its output.
        self.activation: nn.Module = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        xavier_matrices(self)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The residual branch of the feed-forward part, (..., C) to (..., C)."""
        return self.two_layers(x, self.linear1, self.linear2)

    def two_layers(self, x: Tensor, first: nn.Module, second: nn.Module | None) -> Tensor:
        """``second`` of the activated ``first`` of (..., C), with dropout after each; without a
        ``second`` the ``first`` is all of that, for inference."""
        # As a matrix: of three dimensions a linear layer returns a view, and what is done to a
        # view in place copies its gradient.
        hidden = first(x.flatten(0, -2))
        if second is not None:
            hidden = self.dropout(second(self.dropout(self.activation(hidden))))
        return hidden.view(x.shape)


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
