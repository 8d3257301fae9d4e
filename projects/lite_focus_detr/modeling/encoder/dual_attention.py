"""The self-attention of Focus-DETR among the tokens that look most like objects."""

from torch import Tensor, nn

from ..structures import TokenQueries, TokenSelection
from ..transformer_layer import xavier_matrices


class DualAttention(nn.Module):
    """Self-attention of object tokens, before the deformable attention (Focus-DETR, 3.3)."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float) -> None:
        """
        Args:
            embed_dim: channels C.
            num_heads: heads M.
            dropout: probability, of the attention's weights and of the residual branch.
        """
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim)
        xavier_matrices(self.self_attn)

    def forward(self, queries: TokenQueries, objects: TokenSelection) -> Tensor:
        """Features (B, N, C) of the queries after the ``objects`` among them have met."""
        content = objects.gather(queries.features)
        query = content + objects.gather(queries.position)
        fillers = None if objects.within_budget is None else ~objects.within_budget
        attended = self.self_attn(query, query, content, fillers, need_weights=False)[0]
        return objects.scatter(queries.features, self.norm(content + self.dropout(attended)))
