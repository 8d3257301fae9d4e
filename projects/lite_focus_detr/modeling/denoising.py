"""Denoising queries: noised ground truth that the decoder learns to restore (DN-DETR, DINO)."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torchvision.ops import box_convert

from .box_ops import inverse_sigmoid
from .structures import DenoisingQueries, MatchIndices, Targets


class Noise(NamedTuple):
    """Random draws for N noised boxes: group by group, in each all images in order."""

    label_chance: Tensor  #: (N,) uniform in [0, 1); below the probability the label changes
    new_label: Tensor  #: (N,) int64, the label it changes to
    box_sign: Tensor  #: (N, 4) in {-1, 1}; contrastive only
    box_shift: Tensor  #: (N, 4) uniform in [0, 1)


@dataclasses.dataclass(frozen=True)
class DenoisingConfig:
    """Kind, number and noise of the queries."""

    num_classes: int  #: K
    embed_dim: int  #: channels C of the decoder
    contrastive: bool  #: with negative queries
    num: int  #: groups in plain denoising; in contrastive ``num // T``
    label_noise: float  #: probability of a new label
    box_noise: float  #: scale of the shifts, in half box sizes
    max_queries: int  #: of an image; boxes beyond are left out
    inverse_sigmoid_eps: float  #: clamp of the boxes' logits


class Denoising(nn.Module):
    """Make denoising queries from the ground truth.

    Plain denoising (DN-DETR, 4.1) moves centre and size of each box. Contrastive denoising (DINO,
    3.3) moves its corners, in positive queries by up to half the box size and in negative ones,
    which must become background, by up to twice that.

    The queries of an image are groups of parts of slots; in contrastive denoising, with T = 3::

        group 0                              group 1
        positive          negative           positive          negative          the other queries
        box 0  1  2       box 0  1  2        box 0  1  2       box 0  1  2       0  1  2  3 ...

    A group sees itself and the other queries; these see no group.
    """

    @configurable
    def __init__(self, config: DenoisingConfig) -> None:
        """
        Args:
            config: kind, number and noise of the queries.
        """
        super().__init__()
        self.config = config
        # The parts of a group hold the same boxes: positives, and if contrastive negatives.
        self.num_parts = 2 if config.contrastive else 1
        # Plain denoising has one more label and marks its queries in the last channel.
        num_indicators = 0 if config.contrastive else 1
        self.num_labels = config.num_classes + num_indicators
        # Name of the released weights.
        self.label_enc = nn.Embedding(self.num_labels, config.embed_dim - num_indicators)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR.DENOISING``."""
        detr, denoising = cfg.MODEL.DETR, cfg.MODEL.DETR.DENOISING
        config = DenoisingConfig(
            num_classes=detr.NUM_CLASSES,
            embed_dim=detr.EMBED_DIM,
            contrastive=denoising.TYPE == "contrastive",
            num=denoising.NUM,
            label_noise=denoising.LABEL_NOISE,
            box_noise=denoising.BOX_NOISE,
            max_queries=denoising.MAX_QUERIES,
            inverse_sigmoid_eps=detr.INVERSE_SIGMOID_EPS,
        )
        return {"config": config}

    def sample_noise(self, count: int, device: torch.device) -> Noise:
        """Draw the noise of ``count`` boxes; replace this method to replay recorded draws."""
        return Noise(
            torch.rand(count, device=device),
            torch.randint(self.num_labels, (count,), device=device),
            torch.randint(2, (count, 4), device=device) * 2.0 - 1.0,
            torch.rand(count, 4, device=device),
        )

    def forward(self, targets: Targets, num_queries: int) -> DenoisingQueries:
        """Queries of a batch, before ``num_queries`` others; without any box none, D = 0."""
        num_slots, num_groups = self._layout(max(targets.counts))
        counts = [min(count, num_slots) for count in targets.counts]
        device = targets.boxes.device
        content, boxes = self._noised(targets, counts, num_groups * self.num_parts)
        arrays = _padded_indices(counts, num_slots, num_groups * self.num_parts)
        indices, empty = (torch.from_numpy(x).to(device, non_blocking=True) for x in arrays)
        # Queries of the group -1 are the others.
        group_size = num_slots * self.num_parts
        group = torch.arange(num_groups * group_size + num_queries, device=device)
        group = group // max(group_size, 1)
        group[num_groups * group_size :] = -1
        # The positive queries are the first part of each group.
        start = np.arange(num_groups)[:, None] * group_size
        boxes_of = [np.arange(count) for count in counts]
        pairs = [((start + index).ravel(), np.tile(index, num_groups)) for index in boxes_of]
        return DenoisingQueries(
            content=content[indices].masked_fill(empty, 0.0),
            reference_points=boxes[indices].masked_fill(empty, 0.0).sigmoid(),
            attn_mask=(group != group[:, None]) & (group >= 0),
            matches=MatchIndices.from_arrays(pairs, device),
            num_groups=num_groups,
        )

    def _layout(self, max_boxes: int) -> tuple[int, int]:
        """Slots for boxes in each part of a group, and number of groups, within the cap."""
        slots = min(max_boxes, max(1, self.config.max_queries // self.num_parts))
        groups = self.config.num // max(slots, 1) if self.config.contrastive else self.config.num
        return slots, max(1, min(groups, self.config.max_queries // max(slots * self.num_parts, 1)))

    def _noised(self, targets: Targets, counts: list[int], times: int) -> tuple[Tensor, Tensor]:
        """Content (N, C) and box logits (N, 4) of ``counts`` boxes of each image, all repeated."""
        labels = torch.cat([x[:n] for x, n in zip(targets.labels, counts, strict=True)])
        boxes = torch.cat([x[:n] for x, n in zip(targets.boxes, counts, strict=True)])
        labels, boxes = labels.repeat(times), boxes.repeat(times, 1)
        noise = self.sample_noise(len(labels), labels.device)
        changed = noise.label_chance < self.config.label_noise
        content = self.label_enc(torch.where(changed, noise.new_label, labels))
        if not self.config.contrastive:
            content = nn.functional.pad(content, (0, 1), value=1.0)
        boxes = self._shift_boxes(boxes, noise, times)
        return content, inverse_sigmoid(boxes, self.config.inverse_sigmoid_eps)

    def _shift_boxes(self, boxes: Tensor, noise: Noise, repeats: int) -> Tensor:
        """Move boxes (N, 4) cxcywh and clip them to the image."""
        if not self.config.contrastive:
            reach = torch.cat((boxes[:, 2:] / 2, boxes[:, 2:]), -1)
            return (boxes + (noise.box_shift * 2 - 1) * reach * self.config.box_noise).clamp(0, 1)
        # Every second repetition is negative.
        negative = torch.arange(repeats, device=boxes.device) % 2
        shift = noise.box_shift + negative.repeat_interleave(len(boxes) // repeats)[:, None]
        reach = (boxes[:, 2:] / 2).repeat(1, 2)
        corners = box_convert(boxes, "cxcywh", "xyxy")
        corners = corners + noise.box_sign * shift * reach * self.config.box_noise
        return box_convert(corners.clamp(0, 1), "xyxy", "cxcywh")


def _padded_indices(counts: list[int], slots: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the noised boxes is in each slot (B, D), and whether there is none (B, D, 1)."""
    first = np.cumsum([0, *counts])
    slot = np.arange(slots)
    filled = slot < np.array(counts)[:, None]  # (B, slots)
    in_part = np.where(filled, first[:-1, None] + slot, 0)
    index = in_part[:, None] + first[-1] * np.arange(parts)[:, None]  # (B, parts, slots)
    return index.reshape(len(counts), -1), np.tile(~filled, parts)[..., None]
