"""DINO with ResNet-50 as detrex builds it: the model of deformable_detr/dino_r50_12ep, in Python.

Every module is named with its arguments, and any of them can be replaced::

    from detectron2.config import LazyConfig, instantiate

    cfg = LazyConfig.load("configs/lazy/dino_r50.py")
    cfg.model.encoder = LazyCall(MyEncoder)(...)
    model = instantiate(cfg.model)
"""

from detectron2.config import LazyCall
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet

from lite_focus_detr.modeling import DeformableDETR
from lite_focus_detr.modeling.attention import AttentionConfig, DeformableAttention
from lite_focus_detr.modeling.criterion import Criterion
from lite_focus_detr.modeling.decoder import Decoder, DecoderConfig, DecoderLayer
from lite_focus_detr.modeling.denoising import Denoising, DenoisingConfig
from lite_focus_detr.modeling.encoder import EncoderLayer
from lite_focus_detr.modeling.encoder.deformable import DeformableEncoder
from lite_focus_detr.modeling.heads import DetectionHeads
from lite_focus_detr.modeling.matcher import HungarianMatcher
from lite_focus_detr.modeling.neck import Neck
from lite_focus_detr.modeling.proposals import ProposalHead
from lite_focus_detr.modeling.query_selectors import MixedQuerySelector, ProposalConfig

_EMBED_DIM, _FFN_DIM, _NUM_HEADS = 256, 2048, 8
_NUM_LEVELS, _NUM_LAYERS = 4, 6
_NUM_CLASSES, _NUM_QUERIES = 80, 900
_INVERSE_SIGMOID_EPS = 1e-3

_attention = LazyCall(DeformableAttention)(
    config=LazyCall(AttentionConfig)(
        embed_dim=_EMBED_DIM, num_heads=_NUM_HEADS, num_levels=_NUM_LEVELS, num_points=4
    )
)
_encoder_layer = LazyCall(EncoderLayer)(self_attn=_attention, ffn_dim=_FFN_DIM, dropout=0.0)
_decoder_layer = LazyCall(DecoderLayer)(cross_attn=_attention, ffn_dim=_FFN_DIM, dropout=0.0)

model = LazyCall(DeformableDETR)(
    backbone=LazyCall(ResNet)(
        stem=LazyCall(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=LazyCall(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=["res3", "res4", "res5"],
        freeze_at=1,
    ),
    in_features=["res3", "res4", "res5"],
    neck=LazyCall(Neck)(
        input_shape=[
            LazyCall(ShapeSpec)(channels=512, stride=8),
            LazyCall(ShapeSpec)(channels=1024, stride=16),
            LazyCall(ShapeSpec)(channels=2048, stride=32),
        ],
        num_levels=_NUM_LEVELS,
        embed_dim=_EMBED_DIM,
        norm_groups=32,
    ),
    encoder=LazyCall(DeformableEncoder)(
        layers=[_encoder_layer] * _NUM_LAYERS, gradient_checkpointing=False
    ),
    query_selector=LazyCall(MixedQuerySelector)(
        config=LazyCall(ProposalConfig)(
            embed_dim=_EMBED_DIM,
            num_queries=_NUM_QUERIES,
            class_agnostic=False,
            proposal_boxes="all",
            proposal_loss="selected",
        )
    ),
    proposal_head=LazyCall(ProposalHead)(embed_dim=_EMBED_DIM, num_classes=_NUM_CLASSES),
    decoder=LazyCall(Decoder)(
        layers=[_decoder_layer] * _NUM_LAYERS,
        config=LazyCall(DecoderConfig)(
            box_position=True,
            position_scale=False,
            position_frame="padded",
            final_norm=True,
            box_refine=True,
            look_forward_twice=True,
            gradient_checkpointing=False,
        ),
    ),
    heads=LazyCall(DetectionHeads)(
        embed_dim=_EMBED_DIM,
        num_classes=_NUM_CLASSES,
        num_layers=_NUM_LAYERS,
        share_heads=False,
        size_bias=0.0,
        inverse_sigmoid_eps=_INVERSE_SIGMOID_EPS,
    ),
    denoising=LazyCall(Denoising)(
        config=LazyCall(DenoisingConfig)(
            num_classes=_NUM_CLASSES,
            embed_dim=_EMBED_DIM,
            contrastive=True,
            num=100,
            label_noise=0.25,
            box_noise=1.0,
            max_queries=400,
            inverse_sigmoid_eps=_INVERSE_SIGMOID_EPS,
        )
    ),
    criterion=LazyCall(Criterion)(
        matcher=LazyCall(HungarianMatcher)(class_cost=2.0, box_cost=5.0, giou_cost=2.0),
        class_weight=1.0,
        box_weight=5.0,
        giou_weight=2.0,
        giou_eps=1e-6,
        class_agnostic_proposals=False,
    ),
    position=(10000.0, -0.5),
    max_detections=300,
    coco_id_rows=False,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    vis_period=0,
)
