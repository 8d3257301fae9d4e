"""The configuration keys that the project adds to detectron2's, and the check of their mixture."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from typing import Any

from detectron2.config import CfgNode as CN

#: Keys with a few possible values.
CHOICES = {
    "MODEL.DETR.QUERY_SELECTION": ("learned", "two_stage", "token", "mixed"),
    "MODEL.DETR.REFERENCE": ("point", "box"),
    "MODEL.DETR.PROPOSAL_BOXES": ("selected", "all"),
    "MODEL.DETR.PROPOSAL_LOSS": ("selected", "all"),
    "MODEL.DETR.ENCODER.ATTENTION": ("deformable", "key_aware"),
    "MODEL.DETR.DECODER.ATTENTION": ("deformable", "key_aware"),
    "MODEL.DETR.DECODER.POSITION_FRAME": ("padded", "image"),
    "MODEL.DETR.DENOISING.TYPE": ("none", "plain", "contrastive"),
    "MODEL.LITE.LOW_UPDATE": ("joint", "after"),
    "MODEL.FOCUS.MODULATION": ("none", "top_down", "bottom_up"),
    "MODEL.FOCUS.DISTANCE": ("max_side", "half_size"),
    "MODEL.FOCUS.VALUE": ("frozen", "updated"),
    "MODEL.FOCUS.OBJECT_SCORE": ("logit", "probability"),
    "MODEL.SPARSE.OBJECT_SCORE": ("logit", "probability"),
    "SOLVER.AMP.DTYPE": ("float16", "bfloat16"),
    "INPUT.RESIZE_ROUNDING": ("nearest", "down"),
}

#: Keys with a smallest value.
LEAST = {
    "MODEL.DETR.NUM_CLASSES": 1,
    "MODEL.DETR.NUM_QUERIES": 1,
    "MODEL.DETR.ENCODER.NUM_LAYERS": 1,
    "MODEL.DETR.DECODER.NUM_LAYERS": 1,
    "MODEL.DETR.DENOISING.MAX_QUERIES": 1,
    "MODEL.LITE.LOW_FFN_DIM": 1,
    "MODEL.FOCUS.OBJECT_TOKENS": 0,
    "MODEL.FOCUS.LOSS_WEIGHT": 0,
    "MODEL.SPARSE.OBJECT_TOKENS": 0,
    "MODEL.SPARSE.LOSS_WEIGHT": 0,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.ACCUMULATION_STEPS": 1,
}


def add_lite_focus_detr_config(cfg: CN) -> None:
    """Add the project's keys with their defaults to a detectron2 configuration, in place.

    The defaults describe the one-stage Deformable DETR of the original release; the files under
    ``configs/_base_/family`` turn them into the other families.
    """
    _add_detr(cfg)
    _add_lite(cfg)
    _add_focus(cfg)
    _add_sparse(cfg)
    _add_backbones(cfg)
    _add_training(cfg)
    _add_data(cfg)


def _add_detr(cfg: CN) -> None:
    cfg.MODEL.DETR = detr = CN()
    # Rows of the class heads. Must equal the number of categories of the training set;
    # 91 keeps the COCO-id rows of the original repositories.
    detr.NUM_CLASSES = 80
    # Backbone outputs that become feature levels, fine to coarse.
    detr.IN_FEATURES = ["res3", "res4", "res5"]
    # Levels of the encoder; those beyond IN_FEATURES are 3x3 stride-2 convolutions of the last.
    detr.NUM_LEVELS = 4
    detr.EMBED_DIM = 256
    detr.NUM_HEADS = 8
    # Groups of the GroupNorm after each projection of the neck.
    detr.NORM_GROUPS = 32
    # Object queries of the decoder (two-stage and mixed: the top-scored encoder tokens).
    detr.NUM_QUERIES = 300
    # learned: embeddings; two_stage: content and position from the best proposals' boxes
    # (Deformable DETR); token: content is the proposal's token, position from its box (Sparse
    # DETR); mixed: position from the proposals, content learned (DINO).
    detr.QUERY_SELECTION = "learned"
    # Learned queries only. point: a linear layer of the query position gives (x, y), and the
    # position embedding is fixed; box: learned anchors (x, y, w, h) give both (DAB, DN).
    detr.REFERENCE = "point"
    # Each decoder layer refines the reference boxes of the next.
    detr.BOX_REFINE = False
    # The box loss of a layer also reaches the layer before (DINO, section 3.5).
    detr.LOOK_FORWARD_TWICE = False
    # One class head and one box head for all decoder layers.
    detr.SHARE_HEADS = True
    # The class rows are COCO category ids (91, the original repositories): detections are mapped
    # to the 80 contiguous classes of detectron2's COCO data sets, and ground truth back.
    detr.COCO_ID_ROWS = False
    # Clamp of the inverse sigmoid: 1e-5 in the original Deformable DETR, 1e-3 in DINO and detrex.
    detr.INVERSE_SIGMOID_EPS = 1e-5
    # Two-stage proposals score objectness only, by row 0 of the class head (Deformable DETR).
    detr.CLASS_AGNOSTIC_PROPOSALS = False
    # Tokens whose boxes the proposal head computes: all, as DINO does, or only the selected, which
    # gives the same detections for 1 % less. Class-agnostic proposals train on all.
    detr.PROPOSAL_BOXES = "selected"
    # Proposals with classes are trained on the selected (DINO) or on all tokens (Sparse DETR).
    detr.PROPOSAL_LOSS = "selected"
    # Recompute encoder and decoder layers in the backward pass instead of keeping activations.
    detr.GRADIENT_CHECKPOINTING = False
    _add_detr_parts(detr)
    _add_detr_training(detr)


def _add_detr_parts(detr: CN) -> None:
    # Sine position of the tokens. DINO: (20, 0); Deformable DETR and detrex: (10000, -0.5).
    detr.POSITION = CN({"TEMPERATURE": 10000.0, "OFFSET": -0.5})

    detr.ENCODER = encoder = CN()
    encoder.NUM_LAYERS = 6
    encoder.FFN_DIM = 1024
    encoder.NUM_POINTS = 4
    encoder.DROPOUT = 0.1
    # deformable: weights from the query alone; key_aware: from query and sampled keys (Lite DETR).
    encoder.ATTENTION = "deformable"
    # key_aware only: the keys have a projection of their own; False: they are the values.
    encoder.PROJECTED_KEY = False
    # The points of a query have the same offsets on all levels.
    encoder.SHARED_OFFSETS = False
    detr.DECODER = decoder = CN()
    decoder.NUM_LAYERS = 6
    decoder.FFN_DIM = 1024
    decoder.NUM_POINTS = 4
    decoder.DROPOUT = 0.1
    # These three as in the encoder.
    decoder.ATTENTION = "deformable"
    decoder.PROJECTED_KEY = False
    decoder.SHARED_OFFSETS = False
    # LayerNorm on every layer's output before the heads; refinement uses the un-normed one (DINO).
    decoder.FINAL_NORM = False
    # Scale the position part of the query by an MLP of its content from layer 2 on (DAB, DN).
    decoder.POSITION_SCALE = False
    # Queries whose position is their box embed it relative to the padded batch, as all published
    # code does in training and evaluation, or to the image: then no result depends on the batch.
    decoder.POSITION_FRAME = "padded"
    # Of key-aware attention, points outside of their map have no part in the softmax. As published
    # each takes exp(0) of it. At the start of a training 42 % (4 heads) to 48 % (8 heads) of the
    # points lie there in images of 128 pixels, 6 to 9 % at 800x1333.
    detr.KEY_AWARE = CN({"MASK_OUTSIDE": False})


def _add_detr_training(detr: CN) -> None:
    detr.DENOISING = denoising = CN()
    # none | plain (DN-DETR) | contrastive (DINO).
    denoising.TYPE = "none"
    # plain: number of groups. contrastive: boxes to denoise, NUM // max boxes per image groups.
    denoising.NUM = 5
    # Probability that a label is replaced by a random one.
    denoising.LABEL_NOISE = 0.2
    # Amplitude of the corner or centre shift, in half box sizes.
    denoising.BOX_NOISE = 0.4
    # Upper bound of denoising queries per image; boxes beyond it are not denoised.
    denoising.MAX_QUERIES = 400
    detr.LOSS = CN({"CLASS_WEIGHT": 2.0, "BOX_WEIGHT": 5.0, "GIOU_WEIGHT": 2.0})
    detr.MATCHER = CN({"CLASS_COST": 2.0, "BOX_COST": 5.0, "GIOU_COST": 2.0})


def _add_lite(cfg: CN) -> None:
    # The interleaved encoder of LiteDETR. Blocks of ENCODER.NUM_LAYERS / NUM_BLOCKS layers, all of
    # which update the high levels; the last one also the low levels: "(A+1)xB" in the paper, where
    # A is the number of layers of a block and B that of the blocks.
    cfg.MODEL.LITE = lite = CN()
    lite.NUM_BLOCKS = 3
    # The coarsest levels, which are cheap: H3L1 has 3 of 4.
    lite.NUM_HIGH_LEVELS = 3
    # Hidden channels of the low levels' feed-forward; the high levels have ENCODER.FFN_DIM.
    lite.LOW_FFN_DIM = 256
    # The low levels sample the high levels as they were before the block's last layer (joint, the
    # released models) or as that layer left them (after, the paper). The weights are the same.
    lite.LOW_UPDATE = "joint"


def _add_focus(cfg: CN) -> None:
    # The encoder of FocusDETR, with the defaults of the released models.
    cfg.MODEL.FOCUS = focus = CN()
    # Share of an image's tokens that each encoder layer updates, not rising: 0.3 of Table 7.
    focus.KEEP_RATIOS = [0.5, 0.4, 0.3, 0.3, 0.2, 0.1]
    # Scores of a level scale the features from which the next is scored: top_down (release and
    # paper), bottom_up or none (Table 5).
    focus.MODULATION = "top_down"
    # (low, high] in pixels: the sizes of the boxes whose tokens are foreground, for each level. As
    # released and in Table 8, row 1; row 2 has [[-1, 128], [128, 256], [256, 512], [512, 999999]],
    # the best, row 3, [[-1, 64], [64, 256], [128, 512], [256, 999999]].
    focus.SCALE_RANGES = [[-1, 64], [64, 128], [128, 256], [256, 999999]]
    # Size of a box: max_side is the token's distance to the farthest side (release); half_size is
    # half of the longer side (paper, eq. 1).
    focus.DISTANCE = "max_side"
    # Weight of the foreground loss, as released; 0: the scores stay untrained (Table 4, row 1).
    focus.LOSS_WEIGHT = 1.5
    # Tokens that the layers attend to: frozen, the features of the neck in every layer (release),
    # or updated by the layers before (paper, algorithm 1). Weights fit one of them only.
    focus.VALUE = "frozen"
    # Tokens of the self-attention before each deformable attention, 300 in release and paper; 0:
    # no dual attention.
    focus.OBJECT_TOKENS = 300
    # They have the highest product of class and foreground score, before (logit, release) or after
    # (probability, paper eq. 3) the sigmoid. Two negative logits have a high product.
    focus.OBJECT_SCORE = "logit"


def _add_sparse(cfg: CN) -> None:
    # The encoder of SparseDETR, with the defaults of the released model.
    cfg.MODEL.SPARSE = sparse = CN()
    # Share of an image's tokens that every encoder layer updates.
    sparse.KEEP_RATIO = 0.3
    # Train every encoder layer but the last with class and box heads of its own.
    sparse.AUX_HEADS = True
    # Weight of the loss of the scoring network.
    sparse.LOSS_WEIGHT = 1.0
    # The dual attention of Focus-DETR (its Table 11: 300), see MODEL.FOCUS; 0: none.
    sparse.OBJECT_TOKENS, sparse.OBJECT_SCORE = 0, "logit"


def _add_backbones(cfg: CN) -> None:
    # detectron2's SwinTransformer (MODEL.BACKBONE.NAME build_swin_backbone).
    cfg.MODEL.SWIN = swin = CN()
    swin.EMBED_DIM = 96
    swin.DEPTHS = [2, 2, 6, 2]
    swin.NUM_HEADS = [3, 6, 12, 24]
    swin.WINDOW_SIZE = 7
    swin.DROP_PATH_RATE = 0.1
    swin.PRETRAIN_IMAGE_SIZE = 224
    # Stages before this one are frozen, as in detectron2; -1 trains everything.
    swin.FREEZE_AT = -1
    # Recompute the blocks in the backward pass instead of keeping activations.
    swin.GRADIENT_CHECKPOINTING = False

    # Any timm model with features_only (MODEL.BACKBONE.NAME build_timm_backbone).
    cfg.MODEL.TIMM = CN({"NAME": "resnet18", "PRETRAINED": False})


def _add_training(cfg: CN) -> None:
    solver = cfg.SOLVER
    solver.OPTIMIZER = "AdamW"
    # Learning rate of the backbone relative to BASE_LR.
    solver.BACKBONE_MULTIPLIER = 0.1
    # ... and of the layers named sampling_offsets and reference_points.
    solver.SAMPLING_MULTIPLIER = 1.0
    # > 0: length of the training in passes over the data; MAX_ITER and STEPS are then derived
    # from it, STEP_EPOCHS, the size of the data set and the batch.
    solver.EPOCHS = 0
    solver.STEP_EPOCHS = []
    # Batches of IMS_PER_BATCH images whose gradients are summed before an optimiser step.
    solver.ACCUMULATION_STEPS = 1
    # With SOLVER.AMP.ENABLED: float16 (loss scaling) or bfloat16; the CPU takes bfloat16.
    solver.AMP.DTYPE = "float16"
    # Exponential moving average of the weights; evaluation uses it, checkpoints contain it.
    cfg.MODEL.EMA = CN({"ENABLED": False, "DECAY": 0.9997})


def _add_data(cfg: CN) -> None:
    # Data sets of one's own in COCO format, registered by train_net.py: [[name, json, images], ...]
    cfg.DATASETS.COCO = []
    # The generated data sets shapes_train and shapes_val: drawn under ROOT when first used.
    cfg.DATASETS.SHAPES = shapes = CN()
    shapes.ROOT = "datasets/shapes"
    shapes.NUM_TRAIN = 1000
    shapes.NUM_VAL = 100
    shapes.IMAGE_SIZE = 128
    shapes.SEED = 0
    # DETR augmentation: half of the images are resized to one of these short sides, cropped to
    # INPUT.CROP.SIZE (absolute_range) and then resized as usual; needs INPUT.CROP.ENABLED.
    cfg.INPUT.CROP.RESIZE = [400, 500, 600]
    # Rounding of the resized long side: nearest (detectron2) or down (original DETR code).
    cfg.INPUT.RESIZE_ROUNDING = "nearest"


def validate_config(cfg: CN) -> None:
    """Refuse combinations of keys that cannot be built or trained.

    Raises:
        ValueError: names the keys, their values and the remedy.
    """
    for key, allowed in CHOICES.items():
        value = _value(cfg, key)
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}; it must be one of {', '.join(allowed)}")
    _validate_sizes(cfg)
    _validate_family(cfg)
    _validate_lite(cfg)
    _validate_focus(cfg)
    _validate_sparse(cfg)


def _value(cfg: CN, key: str) -> Any:
    return reduce(getitem, key.split("."), cfg)


def _validate_sizes(cfg: CN) -> None:
    detr = cfg.MODEL.DETR
    for key, least in LEAST.items():
        value = _value(cfg, key)
        if value < least:
            raise ValueError(f"{key} is {value}; it must be at least {least}")
    divisors = {"MODEL.DETR.NUM_HEADS": detr.NUM_HEADS, "MODEL.DETR.NORM_GROUPS": detr.NORM_GROUPS}
    for key, value in {**divisors, "the sine position's": 4}.items():
        if detr.EMBED_DIM % value:
            raise ValueError(
                f"MODEL.DETR.EMBED_DIM {detr.EMBED_DIM} must be divisible by {key} {value}"
            )
    if len(detr.IN_FEATURES) > detr.NUM_LEVELS:
        raise ValueError(
            f"MODEL.DETR.NUM_LEVELS {detr.NUM_LEVELS} is less than the "
            f"{len(detr.IN_FEATURES)} entries of MODEL.DETR.IN_FEATURES"
        )


def has_box_queries(cfg: CN) -> bool:
    """Whether the position of a query is its reference box (DINO, DN), so that it can be noised."""
    detr = cfg.MODEL.DETR
    learned_boxes = detr.QUERY_SELECTION == "learned" and detr.REFERENCE == "box"
    return learned_boxes or detr.QUERY_SELECTION == "mixed"


def _validate_family(cfg: CN) -> None:
    detr = cfg.MODEL.DETR
    if detr.LOOK_FORWARD_TWICE and not detr.BOX_REFINE:
        raise ValueError(
            "MODEL.DETR.LOOK_FORWARD_TWICE needs MODEL.DETR.BOX_REFINE: without refinement there "
            "is no earlier layer to look at"
        )
    if detr.CLASS_AGNOSTIC_PROPOSALS and detr.QUERY_SELECTION == "learned":
        raise ValueError(
            "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS needs MODEL.DETR.QUERY_SELECTION two_stage or "
            "mixed: learned queries have no proposals"
        )
    if detr.COCO_ID_ROWS and detr.NUM_CLASSES != 91:
        raise ValueError(
            f"MODEL.DETR.COCO_ID_ROWS needs MODEL.DETR.NUM_CLASSES 91, not {detr.NUM_CLASSES}"
        )
    if has_box_queries(cfg):
        return
    for key, without in (("DENOISING.TYPE", "none"), ("DECODER.POSITION_SCALE", False)):
        value = _value(detr, key)
        if value != without:
            raise ValueError(
                f"MODEL.DETR.{key} {value} needs queries whose position is a box: "
                "MODEL.DETR.QUERY_SELECTION mixed, or learned with MODEL.DETR.REFERENCE box"
            )


def _validate_lite(cfg: CN) -> None:
    detr, lite = cfg.MODEL.DETR, cfg.MODEL.LITE
    for name, part in (("ENCODER", detr.ENCODER), ("DECODER", detr.DECODER)):
        if part.PROJECTED_KEY and part.ATTENTION != "key_aware":
            raise ValueError(
                f"MODEL.DETR.{name}.PROJECTED_KEY needs MODEL.DETR.{name}.ATTENTION key_aware: "
                f"{part.ATTENTION} attention has no keys"
            )
    if cfg.MODEL.META_ARCHITECTURE != "LiteDETR":
        return
    layers = detr.ENCODER.NUM_LAYERS
    if lite.NUM_BLOCKS < 1 or layers % lite.NUM_BLOCKS:
        raise ValueError(
            f"MODEL.DETR.ENCODER.NUM_LAYERS {layers} cannot be divided into MODEL.LITE.NUM_BLOCKS "
            f"{lite.NUM_BLOCKS} equal blocks; it must be a multiple of it"
        )
    if not 1 <= lite.NUM_HIGH_LEVELS <= detr.NUM_LEVELS:
        raise ValueError(
            f"MODEL.LITE.NUM_HIGH_LEVELS is {lite.NUM_HIGH_LEVELS}; it must be between 1 and "
            f"MODEL.DETR.NUM_LEVELS {detr.NUM_LEVELS}"
        )


def _validate_focus(cfg: CN) -> None:
    detr, focus = cfg.MODEL.DETR, cfg.MODEL.FOCUS
    if cfg.MODEL.META_ARCHITECTURE != "FocusDETR":
        return
    ratios, ranges = list(focus.KEEP_RATIOS), focus.SCALE_RANGES
    for key, entries, parts, count in (
        ("KEEP_RATIOS", ratios, "MODEL.DETR.ENCODER.NUM_LAYERS", detr.ENCODER.NUM_LAYERS),
        ("SCALE_RANGES", ranges, "MODEL.DETR.NUM_LEVELS", detr.NUM_LEVELS),
    ):
        if len(entries) != count:
            raise ValueError(
                f"MODEL.FOCUS.{key} has {len(entries)} entries, {parts} is {count}; give one each"
            )
    if ratios != sorted(ratios, reverse=True) or not 0 < ratios[-1] <= ratios[0] <= 1:
        raise ValueError(
            f"MODEL.FOCUS.KEEP_RATIOS {ratios} must lie in (0, 1] and not rise from layer to layer"
        )
    if any(len(limits) != 2 or limits[0] >= limits[1] for limits in ranges):
        raise ValueError(
            f"MODEL.FOCUS.SCALE_RANGES {ranges} must hold a [low, high] with low < high per level"
        )


def _validate_sparse(cfg: CN) -> None:
    sparse = cfg.MODEL.SPARSE
    if not 0 < sparse.KEEP_RATIO <= 1:
        raise ValueError(f"MODEL.SPARSE.KEEP_RATIO is {sparse.KEEP_RATIO}; it must lie in (0, 1]")
    attention = cfg.MODEL.DETR.DECODER.ATTENTION
    if cfg.MODEL.META_ARCHITECTURE == "SparseDETR" and attention != "deformable":
        raise ValueError(
            f"SparseDETR learns from MODEL.DETR.DECODER.ATTENTION deformable, not {attention}"
        )
