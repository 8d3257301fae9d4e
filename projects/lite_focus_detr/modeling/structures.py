"""The data that modules hand to each other, and the letters of their shapes.

========  ========================================================================================
``B``     images of a batch
``H, W``  height and width of an image or a feature map, in pixels
``C``     channels of the transformer (``MODEL.DETR.EMBED_DIM``)
``L``     feature levels, fine to coarse; level ``l`` has ``H_l * W_l`` tokens
``S``     tokens of all levels of an image, level after level, rows first
``N``     selected tokens, or a number of anything that needs no letter of its own
``Q``     queries of the decoder; ``D`` denoising queries, which come before them
``K``     rows of a class head (``MODEL.DETR.NUM_CLASSES``)
``T``     ground-truth boxes: the largest number in the batch
``M``     attention heads
``P``     sampling points of a head on a level
========  ========================================================================================

Boxes are (cx, cy, w, h) in [0, 1] of the un-padded image, points (x, y), sizes (height, width).
Padding masks are True where there is padding, attention masks where a query must not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

#: (height, width) of each level. Python numbers: no kernel launch has to wait for them.
SpatialShapes = tuple[tuple[int, int], ...]


class FeatureTokens(NamedTuple):
    """All feature levels of a batch as one sequence: the only place that knows about padding."""

    features: Tensor  #: (B, S, C)
    position: Tensor  #: (B, S, C) sine plus level embedding, to be added to queries only
    padding_mask: Tensor  #: (B, S) bool
    centers: Tensor  #: (B, S, 2) token centres; the un-padded image is [0, 1]
    valid_ratios: Tensor  #: (B, L, 2) un-padded share (x, y) of each level's map
    spatial_shapes: SpatialShapes  #: of the padded maps
    num_valid: tuple[int, ...]  #: tokens inside each image
    image_sizes: tuple[tuple[int, int], ...] = ()  #: (height, width) in pixels, un-padded
    strides: tuple[int, ...] = ()  #: pixels per token of each level
    level_valid: tuple[tuple[int, ...], ...] = ()  #: ``num_valid`` of each image by level

    @property
    def value_mask(self) -> Tensor | None:
        """The padding mask, or None where no token is padding and values stay as they are."""
        padded = min(self.num_valid) < self.padding_mask.shape[1]
        return self.padding_mask if padded else None

    def scale_to_levels(self, reference_points: Tensor) -> Tensor:
        """Points (B, Q, 2) or boxes (B, Q, 4) of the un-padded image relative to the padded maps,
        which attention samples from: (B, Q, L, 2 or 4)."""
        ratios = self.valid_ratios.repeat(1, 1, reference_points.shape[-1] // 2)
        return reference_points[:, :, None] * ratios[:, None]


class TokenQueries(NamedTuple):
    """Tokens that an encoder layer updates, N per image."""

    features: Tensor  #: (B, N, C)
    position: Tensor  #: (B, N, C), added for the attention only
    reference_points: Tensor  #: (B, N, L, 2) relative to each level's padded map

    @classmethod
    def all_of(cls, tokens: FeatureTokens) -> TokenQueries:
        """All S tokens, each at its own centre."""
        return cls(tokens.features, tokens.position, tokens.scale_to_levels(tokens.centers))

    def part(self, start: int | None, stop: int | None) -> TokenQueries:
        """The tokens from ``start`` up to ``stop``."""
        return TokenQueries(*(x[:, start:stop] for x in self))

    def split(self, count: int) -> tuple[TokenQueries, TokenQueries]:
        """The first ``count`` tokens, and the others."""
        return self.part(0, count), self.part(count, None)


class ProjectedTokens(NamedTuple):
    """Tokens as the heads of an attention sample them, zero where padded."""

    value: Tensor  #: (B, S, M, C / M)
    key: Tensor | None = None  #: the same, if the attention compares keys of their own


class SamplingPoints(NamedTuple):
    """Where the queries of an attention sample, and with which weights; without gradient."""

    locations: Tensor  #: (B, Q, M, L, P, 2), (x, y) relative to each level's padded map
    weights: Tensor  #: (B, Q, M, L, P), summing to one over L * P


class Prediction(NamedTuple):
    """Class logits and boxes of one set of queries."""

    logits: Tensor  #: (B, Q, K) before the sigmoid
    boxes: Tensor  #: (B, Q, 4)


Sampling = Sequence[SamplingPoints]  #: of the cross-attention in each decoder layer


class Queries(NamedTuple):
    """What the decoder starts from."""

    content: Tensor  #: (B, Q, C)
    position: Tensor | None  #: (B, Q, C); None: the decoder embeds the references in each layer
    reference_points: Tensor  #: (B, Q, 2) points or (B, Q, 4) boxes
    padding_mask: Tensor | None = None  #: (B, Q) bool, True for slots that hold no query
    indices: Tensor | None = None  #: (B, Q) tokens that became queries, best score first
    proposals: Prediction | None = None  #: of all tokens if all are trained, else of the selected
    attn_mask: Tensor | None = None  #: (Q, Q) bool, True where a query must not see another


class MatchIndices(NamedTuple):
    """N pairs of a query and a ground-truth box."""

    batch: Tensor  #: (N,) int64, the image
    query: Tensor  #: (N,) int64
    target: Tensor  #: (N,) int64

    @classmethod
    def from_arrays(
        cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device
    ) -> MatchIndices:
        """Join the (query, target) index arrays of each image and copy them to ``device``."""
        parts = [np.stack((np.full(len(q), i), q, t)) for i, (q, t) in enumerate(pairs)]
        joined = np.concatenate(parts, axis=1).astype(np.int64)
        return cls(*torch.from_numpy(joined).to(device, non_blocking=True))


class Targets(NamedTuple):
    """Ground truth of a batch, padded to the largest number of boxes."""

    labels: Tensor  #: (B, T) int64, 0 where padded
    boxes: Tensor  #: (B, T, 4), 0 where padded
    counts: tuple[int, ...]  #: boxes of each image


class DenoisingQueries(NamedTuple):
    """D denoising queries per image, to be put before the Q others."""

    content: Tensor  #: (B, D, C)
    reference_points: Tensor  #: (B, D, 4) noised boxes
    attn_mask: Tensor  #: (D + Q, D + Q) bool
    matches: MatchIndices  #: the box that each positive query stands for
    num_groups: int  #: copies of each box among the matches

    def prepend_to(self, queries: Queries) -> Queries:
        """Put them before queries whose position is their reference box."""
        mask = queries.padding_mask
        if mask is not None:
            mask = nn.functional.pad(mask, (self.content.shape[1], 0))
        return queries._replace(
            content=torch.cat((self.content, queries.content), 1),
            reference_points=torch.cat((self.reference_points, queries.reference_points), 1),
            padding_mask=mask,
            attn_mask=self.attn_mask,
        )

    def split(self, output: DecoderOutput) -> tuple[list[Prediction], DecoderOutput]:
        """Predictions for these queries, and the decoder's output for the ones after them."""
        count = self.content.shape[1]
        first = [Prediction(*(x[:, :count] for x in layer)) for layer in output.predictions]
        others = [Prediction(*(x[:, count:] for x in layer)) for layer in output.predictions]
        sampling = [SamplingPoints(*(x[:, count:] for x in layer)) for layer in output.sampling]
        return first, DecoderOutput(others, sampling)


class TokenSelection(NamedTuple):
    """N selected tokens of each of B sequences."""

    indices: Tensor  #: (B, N), best first
    within_budget: Tensor | None  #: (B, N) bool, False for fillers; None: there are none

    def first(self, count: int) -> TokenSelection:
        """The ``count`` best."""
        within = None if self.within_budget is None else self.within_budget[:, :count]
        return TokenSelection(self.indices[:, :count], within)

    def followed_by(self, other: TokenSelection) -> TokenSelection:
        """These tokens and then those of another selection."""
        indices = torch.cat((self.indices, other.indices), 1)
        if self.within_budget is None and other.within_budget is None:
            return TokenSelection(indices, None)
        masks = (
            x.indices >= 0 if x.within_budget is None else x.within_budget for x in (self, other)
        )
        return TokenSelection(indices, torch.cat(tuple(masks), 1))

    def of_image(self, image: int) -> Tensor:
        """Indices (N',) of the tokens of one sequence, without fillers."""
        indices = self.indices[image]
        return indices if self.within_budget is None else indices[self.within_budget[image]]

    def gather(self, x: Tensor) -> Tensor:
        """The selected rows (B, N, C) of x (B, S, C)."""
        return x.flatten(0, 1).index_select(0, self._flat(x)).view(*self.indices.shape, x.shape[-1])

    def scatter(self, x: Tensor, rows: Tensor) -> Tensor:
        """A copy of x (B, S, C) with ``rows`` (B, N, C) for the selected, except for fillers."""
        rows = rows.to(x.dtype)
        if self.within_budget is not None:
            rows = self.keep_fillers(rows, self.gather(x))
        return x.flatten(0, 1).index_copy(0, self._flat(x), rows.flatten(0, 1)).view_as(x)

    def mark(self, x: Tensor) -> Tensor:
        """One for the selected of x (B, S), but fillers, zero for the others."""
        zeros, ones = torch.zeros_like(x), torch.ones_like(self.indices, dtype=x.dtype)
        return self.scatter(zeros[..., None], ones[..., None])[..., 0]

    def keep_fillers(self, rows: Tensor, fillers: Tensor) -> Tensor:
        """``rows`` (B, N, C), but beyond the budget those of ``fillers`` (B, N, C)."""
        if self.within_budget is None:
            return rows
        return torch.where(self.within_budget[..., None], rows, fillers)

    def _flat(self, x: Tensor) -> Tensor:
        """Indices (B * N,) into the rows of all sequences."""
        start = torch.arange(x.shape[0], device=x.device) * x.shape[1]
        return (self.indices + start[:, None]).flatten()


class SelectionTrace(NamedTuple):
    """What an encoder that updates selected tokens did, one entry per layer where it is a list."""

    foreground: Tensor  #: (B, S) logits
    budgets: tuple[int, ...]  #: tokens that each image may update
    kept: list[TokenSelection]  #: tokens that the layer updated
    objects: list[TokenSelection]  #: in the dual attention, as positions in ``kept``; or empty
    features: list[Tensor]  #: (B, N, C) of the kept tokens after the layer


class EncoderOutput(NamedTuple):
    """Result of an encoder."""

    memory: Tensor  #: (B, S, C) all tokens
    trace: SelectionTrace | None = None  #: of encoders that select tokens
    predictions: Sequence[Prediction] = ()  #: of its layers, trained like the decoder's
    proposal_indices: Tensor | None = None  #: (B, Q) tokens that became queries; for the losses


class DecoderOutput(NamedTuple):
    """Result of the decoder, one entry per layer."""

    predictions: list[Prediction]
    sampling: list[SamplingPoints]  #: of the cross-attention, if asked for


class DetectorOutputs(NamedTuple):
    """What the detector predicts."""

    pred_logits: Tensor  #: (B, Q, K) of the last decoder layer
    pred_boxes: Tensor  #: (B, Q, 4)
    aux_outputs: list[Prediction]  #: of the earlier decoder layers
    proposal_outputs: Prediction | None  #: of the encoder's output
    proposal_indices: Tensor | None  #: (B, Q) tokens that became queries
    memory: Tensor  #: (B, S, C) encoder output
    padding_mask: Tensor | None  #: (B, Q) bool, True for slots that hold no query
    tokens: FeatureTokens  #: what the encoder started from
    encoder: EncoderOutput
    denoising: DenoisingQueries | None = None  #: in training
    denoising_outputs: Sequence[Prediction] = ()  #: of all decoder layers
    sampling: Sequence[SamplingPoints] = ()  #: of the Q queries in all decoder layers, if asked for

    @property
    def layers(self) -> list[Prediction]:
        """Predictions of all decoder layers."""
        return [*self.aux_outputs, Prediction(self.pred_logits, self.pred_boxes)]
