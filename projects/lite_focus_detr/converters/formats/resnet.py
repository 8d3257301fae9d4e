"""ResNet backbones: torchvision, detectron2 and its Caffe2 (MSRA) files."""

from __future__ import annotations

from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names

from ..checkpoint_format import CheckpointFormat, Rules, all_match, rename_by

# From names below a torchvision ResNet to names of the model, for use in other formats too.
TORCHVISION_RULES: Rules = (
    (r"^conv1\.", "backbone.stem.conv1."),
    (r"^bn1\.", "backbone.stem.conv1.norm."),
    (r"^layer1\.", "backbone.res2."),
    (r"^layer2\.", "backbone.res3."),
    (r"^layer3\.", "backbone.res4."),
    (r"^layer4\.", "backbone.res5."),
    (r"^(backbone\.res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\.res\d\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\.res\d\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
)

TORCHVISION_RESNET = CheckpointFormat(
    name="torchvision_resnet",
    recognises=all_match(r"(backbone\.)?(conv1|bn1|layer[1-4]\.\d+|fc)\."),
    rename=rename_by(((r"^backbone\.", ""), *TORCHVISION_RULES)),
    settings=lambda keys, options: {"MODEL.RESNETS.STRIDE_IN_1X1": False, "INPUT.FORMAT": "RGB"},
    backbone_only=True,
)

DETECTRON2_RESNET = CheckpointFormat(
    name="detectron2_resnet",
    recognises=all_match(r"(backbone\.)?(stem|res[2-5]\.\d+|linear|fc)\."),
    rename=rename_by(((r"^(?!backbone\.)", "backbone."),)),
    backbone_only=True,
)


def _rename_caffe2(key: str) -> str:
    (name,) = convert_basic_c2_names([key])
    return f"backbone.{name}"


CAFFE2_RESNET = CheckpointFormat(
    name="caffe2_resnet",
    recognises=all_match(r"(conv1_|res_conv1_bn_|res[2-5]_\d+_branch|fc1000_)"),
    rename=_rename_caffe2,
    settings=lambda keys, options: {"MODEL.RESNETS.STRIDE_IN_1X1": True, "INPUT.FORMAT": "BGR"},
    backbone_only=True,
)
