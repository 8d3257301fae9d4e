"""The detector of all families and its registered forms, one per encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from . import build
from .attention_map import record_sampling
from .criterion import Criterion, average_num_boxes
from .decoder import Decoder
from .denoising import Denoising
from .encoder import Encoder, EncoderOutput, build_encoder
from .heads import DetectionHeads, Prediction, ProposalHead
from .postprocess import COCO_IDS, select_detections
from .queries import Queries
from .targets import prepare_targets
from .tokens import FeatureTokens, TokenBuilder


class DetectorOutputs(NamedTuple):
    """What the detector predicts for B images and Q queries."""

    pred_logits: Tensor  #: (B, Q, K) of the last decoder layer
    pred_boxes: Tensor  #: (B, Q, 4) cxcywh in [0, 1] of the un-padded image
    aux_outputs: list[Prediction]  #: of the earlier decoder layers
    proposal_outputs: Prediction | None  #: of the encoder: all tokens if class-agnostic
    proposal_indices: Tensor | None  #: (B, Q) tokens that became queries
    memory: Tensor  #: (B, S, C) encoder output
    padding_mask: Tensor | None  #: (B, Q) bool, True for slots that hold no query


class DetectionTransformer(nn.Module):
    """Backbone, tokens, encoder, queries, decoder and heads of the DETR family.

    A registered subclass names its encoder; everything else is configuration.
    """

    encoder_name: str
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        tokens: TokenBuilder,
        encoder: Encoder,
        queries: nn.Module,
        proposal_head: ProposalHead | None,
        decoder: Decoder,
        heads: DetectionHeads,
        denoising: Denoising | None,
        criterion: Criterion,
        max_detections: int,
        coco_id_rows: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """Modules in the order of the data flow; ``in_features``: maps used, fine to coarse."""
        super().__init__()
        self.backbone = backbone
        self.in_features = list(in_features)
        self.tokens = tokens
        self.encoder = encoder
        self.queries = queries
        self.proposal_head = proposal_head
        self.decoder = decoder
        self.heads = heads
        self.denoising = denoising
        self.criterion = criterion
        self.max_detections = max_detections
        self.coco_id_rows = coco_id_rows
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a configuration."""
        detr = cfg.MODEL.DETR
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        if not set(detr.IN_FEATURES) <= set(shapes):
            raise ValueError(
                f"MODEL.DETR.IN_FEATURES is {detr.IN_FEATURES}, but the backbone gives "
                f"{list(shapes)}; for a ResNet set MODEL.RESNETS.OUT_FEATURES as well"
            )
        encoder = build_encoder(cls.encoder_name, cfg)
        heads = build.build_heads(cfg)
        return {
            "backbone": backbone,
            "in_features": detr.IN_FEATURES,
            "tokens": build.build_tokens(cfg, [shapes[name] for name in detr.IN_FEATURES]),
            "encoder": encoder,
            "queries": build.build_queries(cfg),
            "proposal_head": build.build_proposal_head(cfg, encoder, heads),
            "decoder": build.build_decoder(cfg),
            "heads": heads,
            "denoising": build.build_denoising(cfg),
            "criterion": build.build_criterion(cfg),
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "coco_id_rows": detr.COCO_ID_ROWS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: Sequence[Mapping[str, Any]], num_boxes: Tensor | None = None
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """In training the weighted losses by name, else ``{"instances": Instances}`` per image.

        Inputs, per image: ``image`` (C, H, W) in ``INPUT.FORMAT``; optionally ``height`` and
        ``width`` of the detections; in training ``instances`` with ``gt_boxes`` and ``gt_classes``.
        ``num_boxes`` normalises the losses; by default ``average_num_boxes`` of this batch.
        """
        images = self.preprocess_image(batched_inputs)
        if self.training:
            return self._losses(images, [x["instances"] for x in batched_inputs], num_boxes)
        tokens = self.build_tokens(images)._replace(batch_invariant=True)
        outputs = self._predict(tokens)
        last, mask = Prediction(outputs.pred_logits, outputs.pred_boxes), outputs.padding_mask
        detections = select_detections(
            last, images.image_sizes, self.max_detections, self.coco_id_rows, mask
        )
        results = []
        for found, inputs in zip(detections, batched_inputs, strict=True):
            height, width = found.image_size
            size = inputs.get("height", height), inputs.get("width", width)
            results.append({"instances": detector_postprocess(found, *size)})
        return results

    def preprocess_image(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalise and pad the images to one size."""
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def forward_outputs(
        self, images: ImageList, proposal_indices: Tensor | None = None
    ) -> DetectorOutputs:
        """Predict for images (B, 3, H, W), normalised and padded, with the sizes before padding.

        ``proposal_indices`` (B, Q): tokens to use as proposals instead of the best-scored ones, so
        that results can be compared when scores are tied.
        """
        return self._predict(self.build_tokens(images), proposal_indices)

    def _predict(
        self, tokens: FeatureTokens, proposal_indices: Tensor | None = None
    ) -> DetectorOutputs:
        encoded, queries = self._encode(tokens, proposal_indices)
        *earlier, last = self.decoder(queries, encoded.memory, tokens, self.heads)
        return DetectorOutputs(
            pred_logits=last.logits,
            pred_boxes=last.boxes,
            aux_outputs=earlier,
            proposal_outputs=queries.proposals,
            proposal_indices=queries.indices,
            memory=encoded.memory,
            padding_mask=queries.padding_mask,
        )

    def build_tokens(self, images: ImageList) -> FeatureTokens:
        """Backbone and neck."""
        features = self.backbone(images.tensor)
        levels = self.tokens.project([features[name] for name in self.in_features])
        return self.tokens(levels, images)

    def _encode(
        self, tokens: FeatureTokens, proposal_indices: Tensor | None = None
    ) -> tuple[EncoderOutput, Queries]:
        encoded = self.encoder(tokens, self.proposal_head)
        return encoded, self.queries(encoded.memory, tokens, self.proposal_head, proposal_indices)

    def _losses(
        self, images: ImageList, instances: Sequence[Instances], num_boxes: Tensor | None
    ) -> dict[str, Tensor]:
        targets = prepare_targets(instances, self.device, COCO_IDS if self.coco_id_rows else None)
        if num_boxes is None:
            num_boxes = average_num_boxes(targets.counts, self.device)
        tokens = self.build_tokens(images)
        encoded, queries = self._encode(tokens)
        noised = None
        if self.denoising is not None:
            noised = self.denoising(targets, queries.content.shape[1])
            queries = noised.prepend_to(queries)
        watched = self.decoder.layers if self.encoder.needs_sampling else ()
        with record_sampling(layer.get_submodule("cross_attn") for layer in watched) as sampling:
            blocked = noised.blocked if noised else None
            layers = self.decoder(queries, encoded.memory, tokens, self.heads, blocked)
        losses = {}
        if noised is not None:
            first, layers = noised.split(layers)
            sampling = [x.skip(noised.content.shape[1]) for x in sampling]
            losses.update(self.criterion.denoising(first, noised, targets, num_boxes))
        losses.update(
            self.criterion(layers, queries.proposals, targets, num_boxes, encoded.predictions)
        )
        losses.update(self.encoder.losses(encoded, tokens, targets, sampling))
        return losses


@META_ARCH_REGISTRY.register()
class DeformableDETR(DetectionTransformer):
    """Detectors with the dense deformable encoder."""

    encoder_name = "DeformableEncoder"


@META_ARCH_REGISTRY.register()
class LiteDETR(DetectionTransformer):
    """Detectors with the interleaved encoder of Lite DETR (arXiv:2303.07335)."""

    encoder_name = "LiteEncoder"


@META_ARCH_REGISTRY.register()
class FocusDETR(DetectionTransformer):
    """Detectors that update foreground tokens found with supervision (arXiv:2307.12612)."""

    encoder_name = "FocusEncoder"


@META_ARCH_REGISTRY.register()
class SparseDETR(DetectionTransformer):
    """Detectors that update the tokens that the decoder will look at (arXiv:2111.14330)."""

    encoder_name = "SparseEncoder"
