"""The encoder of Focus-DETR: foreground tokens found with supervision, objects attended twice."""

import logging
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from ..structures import EncoderOutput, FeatureTokens, Sampling, Targets
from .base import ENCODER_REGISTRY
from .foreground import ForegroundRule, assign_foreground, foreground_loss, foreground_recall
from .selective import SelectiveEncoder, SelectiveParts, build_selective_parts

logger = logging.getLogger(__name__)

# Reading a number from a GPU waits for it, so the recall is not logged in every iteration.
LOG_PERIOD = 20
# A level without a single foreground token in so many batches of a process is worth a warning.
LEVEL_CHECK_ITERATIONS = 100


@ENCODER_REGISTRY.register()
class FocusEncoder(SelectiveEncoder):
    """Cascade of foreground tokens with dual attention (Focus-DETR, 3.2 and 3.3)."""

    choices: ClassVar = {
        "MODEL.FOCUS.MODULATION": ("none", "top_down", "bottom_up"),
        "MODEL.FOCUS.DISTANCE": ("max_side", "half_size"),
        "MODEL.FOCUS.VALUE": ("frozen", "updated"),
        "MODEL.FOCUS.OBJECT_SCORE": ("logit", "probability"),
    }
    minimum_values: ClassVar = {
        "MODEL.FOCUS.OBJECT_TOKENS": 0,
        "MODEL.FOCUS.SCALE_RANGES_AT": 0,
        "MODEL.FOCUS.LOSS_WEIGHT": 0,
    }
    list_lengths: ClassVar = {
        "MODEL.FOCUS.KEEP_RATIOS": "MODEL.DETR.ENCODER.NUM_LAYERS",
        "MODEL.FOCUS.SCALE_RANGES": "MODEL.DETR.NUM_LEVELS",
    }

    @configurable
    def __init__(self, *, parts: SelectiveParts, rule: ForegroundRule, loss_weight: float) -> None:
        """
        Args:
            parts: of the selection.
            rule: says which tokens must be found.
            loss_weight: of the foreground loss, at least 0.
        """
        super().__init__(parts)
        self.rule = rule
        self.loss_weight = loss_weight
        self.levels_found = torch.tensor(False)  # (L,) from the first iteration on
        self.checked_iterations = 0

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add ``MODEL.FOCUS`` with the defaults of the released models."""
        cfg.MODEL.FOCUS = focus = CfgNode()
        # Share of an image's tokens that each encoder layer updates, not rising: 0.3 of Table 7.
        focus.KEEP_RATIOS = [0.5, 0.4, 0.3, 0.3, 0.2, 0.1]
        # Scores of a level scale the features of the next: top_down (release and paper), bottom_up
        # or none (Table 5).
        focus.MODULATION = "top_down"
        # (low, high] in pixels: the sizes of the boxes whose tokens are foreground, for each level.
        # As released and in Table 8, row 1; row 2 has [[-1, 128], [128, 256], [256, 512], [512,
        # 999999]], the best, row 3, [[-1, 64], [64, 256], [128, 512], [256, 999999]].
        focus.SCALE_RANGES = [[-1, 64], [64, 128], [128, 256], [256, 999999]]
        # Short side of the images that SCALE_RANGES are for: with 800 they shrink with smaller
        # images. 0: pixels of any image, as published.
        focus.SCALE_RANGES_AT = 0
        # Size of a box: max_side is the token's distance to the farthest side (release); half_size
        # is half of the longer side (paper, eq. 1).
        focus.DISTANCE = "max_side"
        # Weight of the foreground loss, as released; 0: the scores stay untrained (Table 4, row 1).
        focus.LOSS_WEIGHT = 1.5
        # Tokens that the layers attend to: frozen, the features of the neck in every layer
        # (release), or updated (paper, algorithm 1). Weights fit one of them only.
        focus.VALUE = "frozen"
        # Tokens of the dual attention before each deformable attention, as published; 0: none.
        focus.OBJECT_TOKENS = 300
        # They have the highest product of class and foreground score, before (logit, release) or
        # after (probability, paper eq. 3) the sigmoid. Two negative logits have a high product.
        focus.OBJECT_SCORE = "logit"

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """See :meth:`Encoder.validate_config`."""
        ratios, ranges = list(cfg.MODEL.FOCUS.KEEP_RATIOS), cfg.MODEL.FOCUS.SCALE_RANGES
        if ratios != sorted(ratios, reverse=True) or not 0 < ratios[-1] <= ratios[0] <= 1:
            rule = "must lie in (0, 1] and not rise from layer to layer"
            raise ValueError(f"MODEL.FOCUS.KEEP_RATIOS {ratios} {rule}")
        if any(len(limits) != 2 or limits[0] >= limits[1] for limits in ranges):
            rule = "must hold a [low, high] with low < high per level"
            raise ValueError(f"MODEL.FOCUS.SCALE_RANGES {ranges} {rule}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.FOCUS`` and ``MODEL.DETR.ENCODER``."""
        focus = cfg.MODEL.FOCUS
        rule = ForegroundRule(
            scale_ranges=[tuple(limits) for limits in focus.SCALE_RANGES],
            scale_ranges_at=focus.SCALE_RANGES_AT,
            distance=focus.DISTANCE,
        )
        ratios, modulation = focus.KEEP_RATIOS, focus.MODULATION
        parts = build_selective_parts(cfg, focus, ratios, value=focus.VALUE, modulation=modulation)
        return {"parts": parts, "rule": rule, "loss_weight": focus.LOSS_WEIGHT}

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Targets, sampling: Sampling
    ) -> dict[str, Tensor]:
        """``loss_foreground``: focal loss of the scores; see :class:`Encoder`."""
        trace = output.trace
        assert trace is not None
        foreground = assign_foreground(tokens, targets, self.rule)
        self.check_levels(foreground, tokens)
        if has_event_storage() and get_event_storage().iter % LOG_PERIOD == 0:
            for layer in {0, len(trace.kept) - 1}:
                recall = foreground_recall(trace.kept[layer], foreground)
                get_event_storage().put_scalar(f"focus/foreground_recall_layer{layer}", recall)
        loss = foreground_loss(trace.foreground, foreground)
        return {"loss_foreground": self.loss_weight * loss}

    def check_levels(self, foreground: Tensor, tokens: FeatureTokens) -> None:
        """Warn once if a level has had no foreground, (B, S) bool, since the training began."""
        self.checked_iterations += 1
        if self.checked_iterations > LEVEL_CHECK_ITERATIONS:
            return
        lengths = [height * width for height, width in tokens.spatial_shapes]
        found = torch.stack([level.any() for level in torch.split(foreground, lengths, 1)])
        self.levels_found = self.levels_found | found
        if self.checked_iterations == LEVEL_CHECK_ITERATIONS and not self.levels_found.all():
            empty = (~self.levels_found).nonzero()[:, 0].tolist()
            names = (", ".join(map(str, x)) for x in (empty, [tokens.strides[x] for x in empty]))
            logger.warning(
                "Levels %s (strides %s) had no foreground token in the first %d batches: all of "
                "their tokens are trained as background. MODEL.FOCUS.SCALE_RANGES are pixels of "
                "images of the usual size; for smaller ones set MODEL.FOCUS.SCALE_RANGES_AT 800",
                *names,
                LEVEL_CHECK_ITERATIONS,
            )
