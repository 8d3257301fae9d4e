"""MMDetection 3.x (https://github.com/open-mmlab/mmdetection): Deformable DETR and DINO, 4 levels.

Its classes are the 80 of COCO in the order of their ids, as in detectron2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from detectron2.config import CfgNode

from ..checkpoint_format import CheckpointFormat, Options, Rules, has_keys, rename_by
from ..renamed_weights import RenamedWeights
from .detrex import POSITIONS
from .resnet import TORCHVISION_RULES

_RULES: Rules = (
    (r"^backbone\.(?=conv1|bn1|layer\d)", ""),
    *TORCHVISION_RULES,
    (r"^neck\.convs\.(\d)\.conv\.", r"neck.input_proj.\1.0."),
    (r"^neck\.convs\.(\d)\.gn\.", r"neck.input_proj.\1.1."),
    # The one extra level comes after the three of the backbone.
    (r"^neck\.extra_convs\.0\.conv\.", "neck.input_proj.3.0."),
    (r"^neck\.extra_convs\.0\.gn\.", "neck.input_proj.3.1."),
    (r"^level_embed$", "neck.level_embed"),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffn\.layers\.0\.0\.", r"\1.linear1."),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffn\.layers\.1\.", r"\1.linear2."),
    (r"^(encoder\.layers\.\d+)\.norms\.0\.", r"\1.norm1."),
    (r"^(encoder\.layers\.\d+)\.norms\.1\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.self_attn\.attn\.", r"\1.self_attn."),
    # Numbered by their order; ours by the history of the original.
    (r"^(decoder\.layers\.\d+)\.norms\.0\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.norms\.1\.", r"\1.norm1."),
    (r"^(decoder\.layers\.\d+)\.norms\.2\.", r"\1.norm3."),
    (r"^bbox_head\.cls_branches\.", "heads.class_embed."),
    # Layers in a sequence with activations between them.
    *(
        (rf"^bbox_head\.reg_branches\.(\d+)\.{2 * n}\.", rf"heads.bbox_embed.\1.layers.{n}.")
        for n in range(3)
    ),
    (r"^memory_trans_fc\.", "proposal_head.enc_output."),
    (r"^memory_trans_norm\.", "proposal_head.enc_output_norm."),
    (r"^pos_trans_fc\.", "query_selector.pos_trans."),
    (r"^pos_trans_norm\.", "query_selector.pos_trans_norm."),
    (r"^reference_points_fc\.", "query_selector.reference_points."),
    (r"^dn_query_generator\.label_embedding\.", "denoising.label_enc."),
)


def _complete(weights: RenamedWeights) -> None:
    for name in [name for name in weights.tensors if name.endswith(".num_batches_tracked")]:
        weights.drop(name, "number of batches of the training, which the statistics do not need")
    for norm in weights.names("neck.input_proj."):
        bias = norm.replace(".1.weight", ".0.bias")
        # A convolution with a norm behind it has no bias there.
        if norm.endswith(".1.weight") and bias not in weights.tensors:
            weights.add_zeros(bias, like=norm)


def _deformable_settings(keys: Collection[str], options: Options) -> Mapping[str, object]:
    two_stage = "pos_trans_fc.weight" in keys
    settings: dict[str, object] = {
        "MODEL.DETR.POSITION.TEMPERATURE": 10000.0,
        "MODEL.DETR.POSITION.OFFSET": -0.5,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-5,
        "MODEL.DETR.QUERY_SELECTION": "two_stage" if two_stage else "learned",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": two_stage,
    }
    # With and without refinement every layer has heads in the file, equal ones without.
    return {**settings, "MODEL.DETR.BOX_REFINE": True} if two_stage else settings


def _dino_notes(keys: Collection[str], options: Options, cfg: CfgNode) -> list[str]:
    return [
        "MMDetection clamps at 1e-3 when a layer refines the boxes of the next and at 1e-5 when it "
        "predicts; here both have MODEL.DETR.INVERSE_SIGMOID_EPS: boxes closer than 0.001 to the "
        "border of the image, or smaller, may differ."
    ]


MMDET_DEFORMABLE_DETR = CheckpointFormat(
    name="mmdet_deformable_detr",
    recognises=has_keys("level_embed", "neck.convs.0.conv.weight", "bbox_head.cls_branches.0.bias"),
    rename=rename_by((*_RULES, (r"^query_embedding\.", "query_selector.query_embed."))),
    complete=_complete,
    settings=_deformable_settings,
    hidden=("MODEL.DETR.BOX_REFINE",),
)

MMDET_DINO = CheckpointFormat(
    name="mmdet_dino",
    recognises=has_keys(
        "level_embed", "neck.convs.0.conv.weight", "decoder.ref_point_head.layers.0.weight"
    ),
    rename=rename_by((*_RULES, (r"^query_embedding\.", "query_selector.tgt_embed."))),
    complete=_complete,
    settings=lambda keys, options: {
        # Its improved recipe of 12 epochs has the first, the others the second.
        "MODEL.DETR.POSITION": POSITIONS,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-3,
        "MODEL.DETR.QUERY_SELECTION": "mixed",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": False,
        "MODEL.DETR.BOX_REFINE": True,
    },
    notes=_dino_notes,
)
