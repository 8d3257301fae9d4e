"""The detector of all families and its registered forms, one per encoder."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .criterion import Criterion, average_num_boxes
from .decoder import Decoder
from .denoising import Denoising
from .encoder import ENCODER_REGISTRY, Encoder
from .heads import DetectionHeads
from .loaded_weights import LoadedWeights, note_loaded, require_all_loaded
from .neck import Neck
from .postprocess import COCO_IDS, best_detections, to_instances
from .proposals import ProposalHead, TokenHead
from .query_selectors import build_query_selector
from .structures import DetectorOutputs, FeatureTokens, Prediction, Targets
from .targets import prepare_targets
from .tokens import flatten_levels
from .training_picture import count_kept, draw_training

Batch = Sequence[Mapping[str, Any]]  #: images and what is known of them, from detectron2's loader


class DetectionTransformer(nn.Module):
    """Backbone, neck, encoder, query selection, decoder and heads of the DETR family.

    A registered subclass names its encoder; everything else is configuration. The heads are
    arguments of what uses them, because published weights and the state dict have them once.
    """

    encoder_name: str
    #: Autocast of the inference; None: none but that of the caller.
    inference_dtype: torch.dtype | None = None
    pixel_mean: Tensor
    pixel_std: Tensor
    loaded = LoadedWeights()

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        neck: Neck,
        encoder: Encoder,
        query_selector: nn.Module,
        proposal_head: TokenHead | None,
        decoder: Decoder,
        heads: DetectionHeads,
        denoising: Denoising | None,
        criterion: Criterion,
        position: tuple[float, float],
        max_detections: int,
        coco_id_rows: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            backbone: gives feature maps by name.
            in_features: names of the maps that are used, fine to coarse.
            neck: makes feature levels of them.
            encoder: makes the memory.
            query_selector: gives the decoder its queries.
            proposal_head: scores tokens; None if neither encoder nor query selector needs it.
            decoder: looks at the memory.
            heads: of the decoder layers.
            denoising: makes further queries in training; None: there are none.
            criterion: the losses.
            position: temperature and offset of the tokens' :func:`sine_grid_embedding`.
            max_detections: of an image.
            coco_id_rows: rows of the class heads are COCO ids, of which 80 are classes.
            pixel_mean: of each channel, in ``input_format``.
            pixel_std: of each channel.
            input_format: order of the channels of images.
            vis_period: iterations between pictures of the training for TensorBoard; 0: none.
        """
        super().__init__()
        self.backbone = backbone
        self.in_features = list(in_features)
        self.neck = neck
        self.encoder = encoder
        self.query_selector = query_selector
        self.proposal_head = proposal_head
        self.decoder = decoder
        self.heads = heads
        self.denoising = denoising
        self.criterion = criterion
        self.position = position
        self.max_detections = max_detections
        self.coco_id_rows = coco_id_rows
        self.input_format = input_format
        self.vis_period = vis_period
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.register_load_state_dict_post_hook(note_loaded)  # type: ignore[no-untyped-call]

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
        encoder = ENCODER_REGISTRY.get(cls.encoder_name)(cfg)
        heads = DetectionHeads(cfg)
        return {
            "backbone": backbone,
            "in_features": detr.IN_FEATURES,
            "neck": Neck(cfg, [shapes[name] for name in detr.IN_FEATURES]),
            "encoder": encoder,
            "query_selector": build_query_selector(cfg),
            "proposal_head": build_proposal_head(cfg, encoder, heads),
            "decoder": Decoder(cfg),
            "heads": heads,
            "denoising": None if detr.DENOISING.TYPE == "none" else Denoising(cfg),
            "criterion": Criterion.from_config(cfg),
            "position": (detr.POSITION.TEMPERATURE, detr.POSITION.OFFSET),
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "coco_id_rows": detr.COCO_ID_ROWS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def set_budget(self, keep_ratio: float | None) -> None:
        """Choose which share of the tokens an encoder that selects them updates from now on.

        Args:
            keep_ratio: in (0, 1], the mean over its layers, or over the blocks of LiteFocusDETR,
                which share it as configured; None: what is configured.

        Raises:
            ValueError: the ratio is not possible, or the encoder updates all tokens.
        """
        self.encoder.set_budget(keep_ratio)

    def forward(
        self, batched_inputs: Batch, num_boxes: Tensor | None = None
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Train or detect.

        Args:
            batched_inputs: of each image ``image`` (C, H, W) in ``INPUT.FORMAT``, optionally
                ``height`` and ``width`` of the detections, in training ``instances`` with
                ``gt_boxes`` and ``gt_classes``.
            num_boxes: normaliser of the losses; None: ``average_num_boxes`` of this batch.

        Returns:
            In training the weighted losses by name, else ``{"instances": Instances}`` per image.
        """
        if not self.training:
            return self.inference(batched_inputs)
        self.loaded = LoadedWeights()
        images = self.preprocess_image(batched_inputs)
        class_rows = COCO_IDS if self.coco_id_rows else None
        targets = prepare_targets([x["instances"] for x in batched_inputs], self.device, class_rows)
        outputs = self.forward_outputs(images, targets=targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, outputs, images)
        return self.losses(outputs, targets, num_boxes)

    def inference(self, batched_inputs: Batch) -> list[dict[str, Instances]]:
        """Detect in each image as if it were alone, scaled to its ``height`` and ``width``.

        Raises:
            RuntimeError: the weights that were loaded, and not trained since, are not of this
                detector.
        """
        self.loaded = require_all_loaded(self, self.loaded)
        results: dict[int, dict[str, Instances]] = {}
        for group in group_images(batched_inputs):
            images = self.preprocess_image([batched_inputs[index] for index in group])
            outputs = self.forward_outputs(images)
            for index, found in zip(group, self.select_detections(outputs, images), strict=True):
                (height, width), inputs = found.image_size, batched_inputs[index]
                size = inputs.get("height", height), inputs.get("width", width)
                results[index] = {"instances": detector_postprocess(found, *size)}
        return [results[index] for index in range(len(batched_inputs))]

    def preprocess_image(self, batched_inputs: Batch) -> ImageList:
        """Normalise and pad the images to one size."""
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def forward_outputs(
        self,
        images: ImageList,
        proposal_indices: Tensor | None = None,
        *,
        targets: Targets | None = None,
        return_sampling: bool = False,
    ) -> DetectorOutputs:
        """Predict, in training and in evaluation alike.

        Args:
            images: (B, 3, H, W), normalised and padded, with the sizes before padding.
            proposal_indices: (B, Q) tokens to use as proposals, where tied scores would decide.
            targets: ground truth, for denoising and the encoder's losses; None: without these.
            return_sampling: say where the decoder samples, also if no loss asks for it.
        """
        with autocast(self.device, self.inference_dtype):
            tokens = self.build_tokens(images)
            encoded = self.encoder(tokens, self.proposal_head)
            queries = self.query_selector(
                encoded.memory, tokens, self.proposal_head, proposal_indices
            )
            denoising, decoder_queries = None, queries
            if targets is not None and self.denoising is not None:
                denoising = self.denoising(targets, queries.content.shape[1])
                decoder_queries = denoising.prepend_to(queries)
            learns_from_sampling = targets is not None and self.encoder.needs_sampling
            arguments = (decoder_queries, encoded.memory, tokens, self.heads)
            decoded = self.decoder(*arguments, return_sampling or learns_from_sampling)
            denoising_outputs: list[Prediction] = []
            if denoising is not None:
                denoising_outputs, decoded = denoising.split(decoded)
            *earlier, last = decoded.predictions
            return DetectorOutputs(
                pred_logits=last.logits,
                pred_boxes=last.boxes,
                aux_outputs=earlier,
                proposal_outputs=queries.proposals,
                proposal_indices=queries.indices,
                memory=encoded.memory,
                padding_mask=queries.padding_mask,
                tokens=tokens,
                encoder=encoded,
                denoising=denoising,
                denoising_outputs=denoising_outputs,
                sampling=decoded.sampling,
            )

    def build_tokens(self, images: ImageList) -> FeatureTokens:
        """Backbone and neck."""
        features = self.backbone(images.tensor)
        return self.flatten_levels(self.neck([features[name] for name in self.in_features]), images)

    def flatten_levels(self, levels: Sequence[Tensor], images: ImageList) -> FeatureTokens:
        """The tokens of ``levels`` (B, C, H_l, W_l), with this detector's positions."""
        neck = self.neck
        return flatten_levels(levels, neck.level_embed, images, neck.strides, self.position)

    def losses(
        self, outputs: DetectorOutputs, targets: Targets, num_boxes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses by name of what :meth:`forward_outputs` predicts with ``targets``."""
        if num_boxes is None:
            num_boxes = average_num_boxes(targets.counts, self.device)
        encoded = outputs.encoder._replace(proposal_indices=outputs.proposal_indices)
        arguments = (encoded, outputs.tokens, targets, outputs.sampling)
        return self.criterion(outputs, targets, num_boxes) | self.encoder.losses(*arguments)

    def select_detections(self, outputs: DetectorOutputs, images: ImageList) -> list[Instances]:
        """The best detections of each image, in pixels of its preprocessed size."""
        options = (self.max_detections, self.coco_id_rows, outputs.padding_mask)
        return to_instances(best_detections(outputs.layers[-1], *options), images.image_sizes)

    @torch.no_grad()
    def visualize_training(
        self, batched_inputs: Batch, outputs: DetectorOutputs, images: ImageList
    ) -> None:
        """Send a picture of the first image to the event storage: ground truth, the best 20
        detections and, where the encoder selects tokens, those that it has kept."""
        if not comm.is_main_process():
            return  # No writer empties the storages of other processes.
        inputs, detections = batched_inputs[0], self.select_detections(outputs, images)[0]
        image = inputs["image"].flip(0) if self.input_format == "BGR" else inputs["image"]
        image = image.clamp(0, 255).to("cpu", torch.uint8)
        boxes = (inputs["instances"].gt_boxes, detections.pred_boxes[:20])
        title, kept, trace = "ground truth | best 20 detections", None, outputs.encoder.trace
        if trace is not None:
            title += " | kept tokens"
            padded = images.tensor.shape[-2:]
            kept = count_kept(trace.kept, outputs.tokens.spatial_shapes, (padded[0], padded[1]))
            kept = kept[: image.shape[1], : image.shape[2]]
        get_event_storage().put_image(title, draw_training(image, boxes, kept))


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Mixed precision of a dtype, or what there is around it."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def group_images(batched_inputs: Batch) -> list[list[int]]:
    """Which images are detected in together: those of one size, none is padded for another."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, inputs in enumerate(batched_inputs):
        groups.setdefault(tuple(inputs["image"].shape[-2:]), []).append(index)
    return list(groups.values())


def build_proposal_head(cfg: CfgNode, encoder: Encoder, heads: DetectionHeads) -> TokenHead | None:
    """The head that scores tokens, if the queries are made of them or the encoder needs it; with
    learned queries it shares the class head of the last decoder layer."""
    detr = cfg.MODEL.DETR
    if detr.QUERY_SELECTION != "learned":
        return ProposalHead(cfg)
    if not encoder.needs_proposal_head:
        return None
    return TokenHead(embed_dim=detr.EMBED_DIM, class_embed=heads.class_embed[-1])


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
class LiteFocusDETR(DetectionTransformer):
    """Detectors that update high levels often and the foreground of low ones seldom."""

    encoder_name = "LiteFocusEncoder"


@META_ARCH_REGISTRY.register()
class SparseDETR(DetectionTransformer):
    """Detectors that update the tokens that the decoder will look at (arXiv:2111.14330)."""

    encoder_name = "SparseEncoder"
