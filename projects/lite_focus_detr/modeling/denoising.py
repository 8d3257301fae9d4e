"""Denoising queries: noised ground truth that the decoder learns to restore (DN-DETR, DINO)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from .heads import Prediction, inverse_sigmoid
from .queries import Queries
from .targets import Match, Targets


class Noise(NamedTuple):
    """Random draws for N noised boxes: group by group, in each all images in order."""

    label_chance: Tensor  #: (N,) uniform in [0, 1); below the probability the label changes
    new_label: Tensor  #: (N,) int64, the label it changes to
    box_sign: Tensor  #: (N, 4) in {-1, 1}; contrastive only
    box_shift: Tensor  #: (N, 4) uniform in [0, 1)


class DenoisingQueries(NamedTuple):
    """D denoising queries per image, to be put before the Q others."""

    content: Tensor  #: (B, D, C)
    reference: Tensor  #: (B, D, 4) noised boxes, cxcywh in [0, 1]
    blocked: Tensor  #: (D + Q, D + Q) bool, True where a query must not see another
    match: Match  #: the box that each positive query stands for
    num_groups: int  #: copies of each box among the matches

    def prepend_to(self, queries: Queries) -> Queries:
        """Put them before queries whose position is their reference."""
        mask = queries.padding_mask
        if mask is not None:
            mask = nn.functional.pad(mask, (self.content.shape[1], 0))
        return queries._replace(
            content=torch.cat((self.content, queries.content), 1),
            reference=torch.cat((self.reference, queries.reference), 1),
            padding_mask=mask,
        )

    def split(self, layers: Sequence[Prediction]) -> tuple[list[Prediction], list[Prediction]]:
        """Predictions of each layer for these queries, and for the ones after them."""
        count = self.content.shape[1]
        first = [Prediction(x.logits[:, :count], x.boxes[:, :count]) for x in layers]
        return first, [Prediction(x.logits[:, count:], x.boxes[:, count:]) for x in layers]


class Denoising(nn.Module):
    """Make denoising queries from the ground truth.

    Plain denoising (DN-DETR, 4.1) moves centre and size of each box. Contrastive denoising (DINO,
    3.3) moves its corners, in positive queries by up to half the box size and in negative ones,
    which must become background, by up to twice that.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int,
        contrastive: bool,
        num: int,
        label_noise: float,
        box_noise: float,
        max_queries: int,
        eps: float,
    ) -> None:
        """``num`` groups in plain denoising, ``num // boxes of the richest image`` in contrastive;
        ``label_noise``: probability of a new label; ``box_noise``: scale of the shifts;
        ``max_queries`` of an image, boxes beyond are left out; ``eps``: clamp of the logits."""
        super().__init__()
        self.contrastive = contrastive
        # The parts of a group hold the same boxes: positives, and if contrastive negatives.
        self.parts = 2 if contrastive else 1
        self.num = num
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.max_queries = max_queries
        self.eps = eps
        # Plain denoising has one more label and marks its queries in the last channel.
        self.num_labels = num_classes + (not contrastive)
        self.label_enc = nn.Embedding(self.num_labels, embed_dim - (not contrastive))

    def sample_noise(self, count: int, device: torch.device) -> Noise:
        """Draw the noise of ``count`` boxes; replace this method to replay recorded draws."""
        return Noise(
            torch.rand(count, device=device),
            torch.randint(self.num_labels, (count,), device=device),
            torch.randint(2, (count, 4), device=device) * 2.0 - 1.0,
            torch.rand(count, 4, device=device),
        )

    def forward(self, targets: Targets, num_queries: int) -> DenoisingQueries:
        """Make the queries of a batch, to be followed by ``num_queries`` others; without any box
        there are none, D = 0."""
        slots, groups = self._layout(max(targets.counts))
        counts = [min(count, slots) for count in targets.counts]
        parts = groups * self.parts
        device = targets.boxes.device
        labels = torch.cat([x[:n] for x, n in zip(targets.labels, counts, strict=True)])
        boxes = torch.cat([x[:n] for x, n in zip(targets.boxes, counts, strict=True)])
        labels, boxes = labels.repeat(parts), boxes.repeat(parts, 1)
        noise = self.sample_noise(len(labels), device)
        changed = noise.label_chance < self.label_noise
        content = self.label_enc(torch.where(changed, noise.new_label, labels))
        if not self.contrastive:
            content = nn.functional.pad(content, (0, 1), value=1.0)
        boxes = inverse_sigmoid(self._shift_boxes(boxes, noise, parts), self.eps)
        slot_rows = _slot_rows(counts, slots, parts)
        rows, empty = (torch.from_numpy(x).to(device, non_blocking=True) for x in slot_rows)
        # Groups see themselves and the other queries, -1; those do not see the ground truth.
        size = slots * self.parts
        group = torch.arange(groups * size + num_queries, device=device) // max(size, 1)
        group[groups * size :] = -1
        # The positive queries are the first part of each group.
        start = np.arange(groups)[:, None] * size
        pairs = [((start + np.arange(n)).ravel(), np.tile(np.arange(n), groups)) for n in counts]
        return DenoisingQueries(
            content=content[rows].masked_fill(empty, 0.0),
            reference=boxes[rows].masked_fill(empty, 0.0).sigmoid(),
            blocked=(group != group[:, None]) & (group >= 0),
            match=Match.from_host(pairs, device),
            num_groups=groups,
        )

    def _layout(self, most: int) -> tuple[int, int]:
        """Slots for boxes in each part of a group, and number of groups, within the cap."""
        slots = min(most, max(1, self.max_queries // self.parts))
        groups = self.num // max(slots, 1) if self.contrastive else self.num
        return slots, max(1, min(groups, self.max_queries // max(slots * self.parts, 1)))

    def _shift_boxes(self, boxes: Tensor, noise: Noise, parts: int) -> Tensor:
        """Move boxes (N, 4) cxcywh and clip them to the image."""
        if not self.contrastive:
            reach = torch.cat((boxes[:, 2:] / 2, boxes[:, 2:]), -1)
            return (boxes + (noise.box_shift * 2 - 1) * reach * self.box_noise).clamp(0, 1)
        # Every second part of the sequence holds negatives.
        negative = torch.arange(parts, device=boxes.device) % 2
        shift = noise.box_shift + negative.repeat_interleave(len(boxes) // parts)[:, None]
        reach = (boxes[:, 2:] / 2).repeat(1, 2)
        corners = box_convert(boxes, "cxcywh", "xyxy")
        corners = corners + noise.box_sign * shift * reach * self.box_noise
        return box_convert(corners.clamp(0, 1), "xyxy", "cxcywh")


def _slot_rows(counts: list[int], slots: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Box in the flat sequence of each slot (B, D), and whether it has none (B, D, 1)."""
    first = np.cumsum([0, *counts])
    slot = np.arange(slots)
    filled = slot < np.array(counts)[:, None]  # (B, slots)
    in_part = np.where(filled, first[:-1, None] + slot, 0)
    index = in_part[:, None] + first[-1] * np.arange(parts)[:, None]  # (B, parts, slots)
    return index.reshape(len(counts), -1), np.tile(~filled, parts)[..., None]
