"""The configuration keys that the project adds to detectron2's; those of encoders are beside them.

The defaults describe the one-stage Deformable DETR of the original release; the files under
``configs/_base_/family`` turn them into the other families.
"""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_detr_config(cfg: CN) -> None:
    """Add ``MODEL.DETR``: what all detectors have in common, in place."""
    cfg.MODEL.DETR = detr = CN()
    # Rows of the class heads, the number of categories of the training set; 91: see COCO_ID_ROWS.
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
    # (Deformable DETR); token_content: content is the proposal's token, position from its box
    # (Sparse DETR); mixed: position from the proposals, content learned (DINO).
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
    # Two-stage proposals score objectness only: row 0 of the class head, trained on all tokens
    # with one class (Deformable DETR). False: all classes, trained on the selected (DINO).
    detr.CLASS_AGNOSTIC_PROPOSALS = False
    # Tokens whose boxes the proposal head computes: all, as DINO does, or only the selected, which
    # gives the same detections for 1 % less. Class-agnostic proposals train on all.
    detr.PROPOSAL_BOXES = "selected"
    # Proposals with classes are trained on the selected (DINO) or on all tokens (Sparse DETR). With
    # all, no small data set leaves them on the level that random weights have chosen.
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

    # GIOU_EPS is added to the areas that the GIoU divides by: 1e-6 in DINO and detrex, else 0.
    detr.LOSS = CN({"CLASS_WEIGHT": 2.0, "BOX_WEIGHT": 5.0, "GIOU_WEIGHT": 2.0, "GIOU_EPS": 1e-6})
    # Of key-aware attention in encoder and decoder. MASK_OUTSIDE: points outside of a map take no
    # part in the softmax. As published each takes exp(0): at the start 42 % of the points of
    # 128-pixel images, 6 to 9 % at 800x1333.
    detr.KEY_AWARE = CN({"MASK_OUTSIDE": False})
    # Weights of the costs that predictions and ground truth are matched by.
    detr.MATCHER = CN({"CLASS_COST": 2.0, "BOX_COST": 5.0, "GIOU_COST": 2.0})


def add_backbone_config(cfg: CN) -> None:
    """Add ``MODEL.SWIN`` and ``MODEL.TIMM``, in place."""
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


def add_solver_config(cfg: CN) -> None:
    """Add keys of ``SOLVER``, ``MODEL.EMA`` and ``LOGGERS``, in place."""
    solver = cfg.SOLVER
    solver.OPTIMIZER = "AdamW"
    # Learning rate of the backbone relative to BASE_LR.
    solver.BACKBONE_MULTIPLIER = 0.1
    # ... and of the layers named sampling_offsets and reference_points.
    solver.SAMPLING_MULTIPLIER = 1.0
    # > 0: passes over the data, also 1.5. It replaces MAX_ITER of files, which counts iterations,
    # and STEP_EPOCHS, where there are any, replace STEPS; on the command line those win.
    solver.EPOCHS = 0
    solver.STEP_EPOCHS = []
    # Batches of IMS_PER_BATCH images whose gradients are summed before an optimiser step.
    solver.ACCUMULATION_STEPS = 1
    # [smallest, largest] keep ratio of a training for all budgets, see model.set_budget: of three
    # iterations one has the largest, one the smallest and one a ratio between; []: as configured.
    solver.KEEP_RATIO_RANGE = []
    # With SOLVER.AMP.ENABLED: float16 (loss scaling) or bfloat16; the CPU takes bfloat16.
    solver.AMP.DTYPE = "float16"
    # > 0: of the checkpoints of SOLVER.CHECKPOINT_PERIOD and of interruptions only so many newest
    # are kept; model_best.pth and model_final.pth always are. 0 keeps all.
    solver.CHECKPOINT_KEEP = 0
    # The metric, such as bbox/AP, whose best evaluation model_best.pth is of; empty: no such file.
    solver.BEST_METRIC = ""
    # > 0: so many evaluations without a better one, by default of bbox/AP, end the training.
    solver.PATIENCE = 0
    # Exponential moving average of the weights; evaluation uses it, checkpoints contain it.
    cfg.MODEL.EMA = CN({"ENABLED": False, "DECAY": 0.9997})
    # Services that metrics are sent to as well, where they are installed: "wandb", "mlflow".
    cfg.LOGGERS = []


def add_data_config(cfg: CN) -> None:
    """Add keys of ``DATASETS`` and ``INPUT``, in place."""
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
    # Training reads another image in the place of one that is damaged or of another size than its
    # data set says, and counts them; more than 1 % of a data set still end it.
    cfg.INPUT.SKIP_UNREADABLE = False
    # Evaluation without training, and commands that detect: none, or the precision of
    # optimize_for_inference: float32, bfloat16 or int8.
    cfg.TEST.OPTIMIZE = "none"
    # Rounding of the resized long side: nearest (detectron2) or down (original DETR code).
    cfg.INPUT.RESIZE_ROUNDING = "nearest"
