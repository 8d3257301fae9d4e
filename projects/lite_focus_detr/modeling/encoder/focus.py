"""The encoder of Focus-DETR: foreground tokens found with supervision, objects attended twice."""

from typing import Any, ClassVar

from detectron2.config import CfgNode, configurable

from .base import ENCODER_REGISTRY
from .dual_attention import ObjectRule
from .foreground import ForegroundRule, ForegroundSupervised
from .layer import EncoderLayer
from .selective import SelectiveEncoder, SelectiveParts, build_selective_parts
from .token_selection import require_keep_ratios


@ENCODER_REGISTRY.register()
class FocusEncoder(ForegroundSupervised, SelectiveEncoder):
    """Cascade of foreground tokens with dual attention (Focus-DETR, 3.2 and 3.3)."""

    choices: ClassVar = {
        **ForegroundSupervised.choices,
        "MODEL.FOCUS.VALUE": ("frozen", "updated"),
    }
    minimum_values: ClassVar = {
        **ForegroundSupervised.minimum_values,
        "MODEL.FOCUS.OBJECT_TOKENS": 0,
    }
    list_lengths: ClassVar = {
        **ForegroundSupervised.list_lengths,
        "MODEL.FOCUS.KEEP_RATIOS": "MODEL.DETR.ENCODER.NUM_LAYERS",
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
        self.watched_layers = (0, len(parts.layers) - 1)

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
        # Tokens that no layer updates are given a linear prediction, from what is around them, of
        # what the layers would have made of them; sparsify fits it to a dense encoder. With VALUE
        # updated.
        focus.SHORTCUTS = False

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """See :meth:`Encoder.validate_config`."""
        require_keep_ratios("MODEL.FOCUS.KEEP_RATIOS", cfg.MODEL.FOCUS.KEEP_RATIOS)
        ForegroundSupervised.validate_config(cfg)
        if cfg.MODEL.FOCUS.SHORTCUTS and cfg.MODEL.FOCUS.VALUE != "updated":
            raise ValueError("MODEL.FOCUS.SHORTCUTS needs MODEL.FOCUS.VALUE updated, not frozen")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.FOCUS`` and ``MODEL.DETR.ENCODER``."""
        focus = cfg.MODEL.FOCUS
        layers = [EncoderLayer(cfg) for _ in focus.KEEP_RATIOS]
        objects = ObjectRule(count=focus.OBJECT_TOKENS, score=focus.OBJECT_SCORE)
        options = {"value": focus.VALUE, "modulation": focus.MODULATION}
        options["shortcuts"] = focus.SHORTCUTS
        parts = build_selective_parts(cfg, layers, focus.KEEP_RATIOS, objects, **options)
        rule = ForegroundRule.from_config(cfg)
        return {"parts": parts, "rule": rule, "loss_weight": focus.LOSS_WEIGHT}
