"""Backbones that detectron2 ships without registering them, and all of timm."""

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, SwinTransformer
from torch import Tensor, nn
from torch.nn import functional

#: What timm's models raise for images that they do not take.
_ERRORS = (RuntimeError, AttributeError, AssertionError)


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """detectron2's Swin Transformer with the sizes of ``MODEL.SWIN``; maps ``p0`` … ``p3``."""
    swin, names = cfg.MODEL.SWIN, cfg.MODEL.DETR.IN_FEATURES
    backbone = SwinTransformer(
        pretrain_img_size=swin.PRETRAIN_IMAGE_SIZE,
        in_chans=input_shape.channels,
        embed_dim=swin.EMBED_DIM,
        depths=swin.DEPTHS,
        num_heads=swin.NUM_HEADS,
        window_size=swin.WINDOW_SIZE,
        drop_path_rate=swin.DROP_PATH_RATE,
        out_indices=_positions(names, ["p0", "p1", "p2", "p3"]),
        frozen_stages=swin.FREEZE_AT,
        use_checkpoint=swin.GRADIENT_CHECKPOINTING,
    )
    # detectron2 misspells the attribute that its property `size_divisibility` reads. As published
    # images are padded for each other only.
    backbone._size_divisibility = 0
    return backbone


class TimmBackbone(Backbone):
    """Any timm model with feature maps of images of any size; ``res3`` is its map of stride 8."""

    def __init__(
        self, *, name: str, pretrained: bool, in_channels: int, out_features: Sequence[str]
    ) -> None:
        """
        Args:
            name: of a timm model; a ValueError says if it cannot give these maps.
            pretrained: download timm's weights.
            in_channels: of the images.
            out_features: maps that are needed.
        """
        import timm  # slow to import, and few need it
        from timm.layers import Format

        super().__init__()
        options = {"features_only": True, "in_chans": in_channels}
        if "swin" in name and "cr" not in name:
            options["strict_img_size"] = False
        try:
            model = timm.create_model(name, **options).eval()
            # Some models take images of one size only.
            model(torch.zeros(1, in_channels, 160, 96))
            strides = [int(stride) for stride in model.feature_info.reduction()]
            #: Sides of what the model takes are multiples of this: some need whole patches, or
            #: maps that halve without a rest.
            self.divisor = _find_divisor(model, in_channels, strides)
        except _ERRORS as error:
            raise ValueError(
                f"MODEL.TIMM.NAME {name!r} gives no feature maps of images of any size: {error}"
            ) from error
        # Stride 2 ** n is res{n}, as in detectron2's ResNets.
        indices = _positions(out_features, [f"res{stride.bit_length() - 1}" for stride in strides])
        self.model = timm.create_model(name, pretrained=pretrained, out_indices=indices, **options)
        info = self.model.feature_info
        self.channels_last = getattr(self.model, "output_fmt", Format.NCHW) == Format.NHWC
        self._out_features = list(out_features)
        self._out_feature_strides = dict(zip(out_features, info.reduction(), strict=True))
        self._out_feature_channels = dict(zip(out_features, info.channels(), strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, H, W) by name."""
        if self.divisor > 1:
            height, width = x.shape[2:]
            x = functional.pad(x, (0, -width % self.divisor, 0, -height % self.divisor))
        maps = self.model(x)
        if self.channels_last:
            maps = [level.permute(0, 3, 1, 2) for level in maps]
        return dict(zip(self._out_features, maps, strict=True))


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The model ``MODEL.TIMM.NAME`` of timm with the maps ``MODEL.DETR.IN_FEATURES``."""
    return TimmBackbone(
        name=cfg.MODEL.TIMM.NAME,
        pretrained=cfg.MODEL.TIMM.PRETRAINED,
        in_channels=input_shape.channels,
        out_features=cfg.MODEL.DETR.IN_FEATURES,
    )


def _find_divisor(model: nn.Module, in_channels: int, strides: Sequence[int]) -> int:
    """Of what the sides of all images must be multiples; the model's error if none is found."""
    for divisor in (1, strides[0]):
        with suppress(*_ERRORS):
            _run_on_odd_multiples(model, in_channels, divisor)
            return divisor
    _run_on_odd_multiples(model, in_channels, strides[-1])
    return strides[-1]


def _run_on_odd_multiples(model: nn.Module, in_channels: int, divisor: int) -> None:
    height, width = (divisor * (math.ceil(side / divisor) | 1) for side in (161, 97))
    model(torch.zeros(1, in_channels, height, width))


def _positions(names: Sequence[str], known: list[str]) -> list[int]:
    if not set(names) <= set(known):
        raise ValueError(
            f"MODEL.DETR.IN_FEATURES is {list(names)}; this backbone has {', '.join(known)}"
        )
    return [known.index(name) for name in names]
