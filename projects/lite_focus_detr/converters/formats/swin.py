"""Swin backbones: the original release and torchvision."""

from __future__ import annotations

from ..checkpoint_format import CheckpointFormat, Rules, all_match, rename_by

SWIN = CheckpointFormat(
    name="swin",
    recognises=all_match(r"(backbone\.)?(patch_embed|layers\.\d|norm\d?|head)\."),
    rename=rename_by(((r"^(?!backbone\.)", "backbone."),)),
    backbone_only=True,
)

# features holds patch embedding, stage, merging, stage, merging, ... in one list.
_TORCHVISION_RULES: Rules = (
    (r"^features\.0\.0\.", "backbone.patch_embed.proj."),
    (r"^features\.0\.2\.", "backbone.patch_embed.norm."),
    *((rf"^features\.{2 * i + 1}\.", f"backbone.layers.{i}.blocks.") for i in range(4)),
    *((rf"^features\.{2 * i + 2}\.", f"backbone.layers.{i}.downsample.") for i in range(3)),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)

TORCHVISION_SWIN = CheckpointFormat(
    name="torchvision_swin",
    recognises=all_match(r"(features\.[0-7]\.\d|features\.[246]\.(reduction|norm)|norm|head)\."),
    rename=rename_by(_TORCHVISION_RULES),
    backbone_only=True,
)
