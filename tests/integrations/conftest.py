"""Small models of the families in transformers, with random weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

SMALL = {
    "d_model": 32,
    "num_queries": 10,
    "encoder_layers": 1,
    "encoder_ffn_dim": 24,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 24,
    "decoder_attention_heads": 4,
}
#: What the real-time detectors have on top.
REAL_TIME = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [24, 32, 40],
    "decoder_in_channels": [32, 32, 32],
    "num_denoising": 0,
    "num_labels": 5,
}
#: What groups the queries in training.
GROUPED = {
    "d_model": 32,
    "num_queries": 10,
    "group_detr": 2,
    "decoder_layers": 2,
    "decoder_ffn_dim": 24,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
}
MASKS = {"hidden_dim": 32, "num_attention_heads": 4, "encoder_feedforward_dim": 24}
MASKS |= {"dim_feedforward": 24, "encoder_layers": 2, "decoder_layers": 2, "num_queries": 10}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"intermediate_size": 16, "vocab_size": 50}


def resnet(**settings):
    return transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 40],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        **settings,
    )


def hgnet(stages=("stage2", "stage3", "stage4")):
    return transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        hidden_sizes=[16, 24, 32, 40],
        stage_in_channels=[8, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 40],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        depths=[1, 1, 1, 1],
        out_features=list(stages),
    )


def swin(stages):
    return transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4, out_features=stages
    )


LAST_THREE = ["stage2", "stage3", "stage4"]
ALL_FOUR = ["stage1", "stage2", "stage3", "stage4"]


def deformable_detr(**settings):
    config = transformers.DeformableDetrConfig(
        backbone_config=resnet(out_features=LAST_THREE), **{**SMALL, **settings}
    )
    return transformers.DeformableDetrForObjectDetection(config)


def grounding_dino(kind="GroundingDino"):
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=swin(LAST_THREE),
        text_config=transformers.BertConfig(**TEXT),
        max_text_len=8,
        **SMALL,
    )
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


def mask2former():
    config = transformers.Mask2FormerConfig(
        backbone_config=resnet(out_features=ALL_FOUR),
        feature_size=32,
        mask_feature_size=32,
        **MASKS,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def oneformer():
    config = transformers.OneFormerConfig(
        backbone_config=resnet(out_features=ALL_FOUR),
        conv_dim=32,
        mask_dim=32,
        text_encoder_width=32,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=50,
        text_encoder_context_length=8,
        task_seq_len=8,
        query_dec_layers=1,
        **MASKS,
    )
    return transformers.OneFormerForUniversalSegmentation(config)


def real_time(kind, backbone=None, task="ForObjectDetection", **settings):
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone or hgnet(), **{**SMALL, **REAL_TIME, **settings}
    )
    return getattr(transformers, f"{kind}{task}")(config)


def omdet_turbo():
    text = transformers.CLIPTextConfig(
        **TEXT, max_position_embeddings=8, bos_token_id=1, eos_token_id=2
    )
    config = transformers.OmDetTurboConfig(
        backbone_config=resnet(out_features=LAST_THREE),
        text_config=text,
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=32,
        class_embed_dim=32,
        text_projection_out_dim=32,
        task_encoder_hidden_dim=16,
        encoder_hidden_dim=24,
        vision_features_channels=[24, 24, 24],
        encoder_in_channels=[24, 32, 40],
        encoder_attention_heads=4,
        encoder_dim_feedforward=24,
        decoder_hidden_dim=24,
        decoder_num_heads=4,
        decoder_num_layers=2,
        decoder_dim_feedforward=24,
        num_queries=10,
    )
    return transformers.OmDetTurboForObjectDetection(config)


def lw_detr():
    backbone = transformers.LwDetrViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        pretrain_image_size=64,
        num_windows=4,
        window_block_indices=[0],
        out_indices=[1, 2],
    )
    config = transformers.LwDetrConfig(
        backbone_config=backbone, projector_scale_factors=[2.0, 0.5], **GROUPED
    )
    return transformers.LwDetrForObjectDetection(config)


def rf_detr():
    backbone = transformers.models.rf_detr.RfDetrDinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_windows=2,
        out_indices=[1, 2],
    )
    config = transformers.RfDetrConfig(backbone_config=backbone, decoder_n_points=2, **GROUPED)
    return transformers.RfDetrForObjectDetection(config)


FAMILIES = {
    "DeformableDetr": deformable_detr,
    "DeformableDetr, two-stage": lambda: deformable_detr(
        two_stage=True, with_box_refine=True, two_stage_num_proposals=10
    ),
    "GroundingDino": grounding_dino,
    "MMGroundingDino": lambda: grounding_dino("MMGroundingDino"),
    "Mask2Former": mask2former,
    "OneFormer": oneformer,
    "OmDetTurbo": omdet_turbo,
    "LwDetr": lw_detr,
    "RfDetr": rf_detr,
    "RTDetr": lambda: real_time("RTDetr"),
    "RTDetrV2": lambda: real_time("RTDetrV2", decoder_offset_scale=0.3),
    "DFine": lambda: real_time("DFine"),
    "DFine, unequal points": lambda: real_time("DFine", decoder_n_points=[3, 6, 2]),
    "Deimv2": lambda: real_time("Deimv2", decoder_n_points=[3, 6, 3]),
    "PPDocLayoutV2": lambda: real_time("PPDocLayoutV2", task="Model"),
    "PPDocLayoutV3": lambda: real_time(
        "PPDocLayoutV3", hgnet(ALL_FOUR), x4_feat_dim=16, mask_feature_channels=[8, 8]
    ),
    "PPDocLayoutV4": lambda: real_time("PPDocLayoutV4"),
}

#: Releases of transformers for older Pythons lack the newest families.
FAMILIES = {
    name: make
    for name, make in FAMILIES.items()
    if hasattr(transformers, f"{name.partition(',')[0]}Config")
}


def inputs_of(model):
    """Two images, the second one padded where a model knows of padding, and what they need."""
    name = type(model).__name__
    random = torch.Generator().manual_seed(1)
    square = name.startswith(("LwDetr", "RfDetr"))
    given = {"pixel_values": torch.randn(2, 3, 64, 64 if square else 96, generator=random)}

    def words(*size):
        return torch.randint(5, 50, size, generator=random)

    if name.startswith("Deformable"):
        given["pixel_mask"] = torch.ones(2, 64, 96, dtype=torch.long)
        given["pixel_mask"][1, 40:] = 0
        given["pixel_mask"][1, :, 70:] = 0
    elif "Grounding" in name:
        given["input_ids"] = words(2, 6)
    elif name.startswith("OneFormer"):
        given["task_inputs"] = words(2, 8)
    elif name.startswith("OmDet"):
        given |= {
            "classes_input_ids": words(4, 6),
            "classes_attention_mask": torch.ones(4, 6, dtype=torch.long),
            "tasks_input_ids": words(2, 6),
            "tasks_attention_mask": torch.ones(2, 6, dtype=torch.long),
            "classes_structure": torch.tensor([2, 2]),
        }
    return given


@pytest.fixture(params=FAMILIES)
def family(request):
    """The name of a family, each in turn."""
    return request.param


@pytest.fixture
def make_model():
    """Make a small model of a family in evaluation, all of its weights random."""

    def make(name):
        torch.manual_seed(0)
        model = FAMILIES[name]().eval()
        # Fresh offsets and weights of attention do not depend on the queries.
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        return model, inputs_of(model)

    return make


@pytest.fixture
def forbid_grid_sample(monkeypatch):
    """Make the sampling of the published modules fail from the call on."""

    def fail(*_, **__):
        raise AssertionError("the attention was not replaced")

    return lambda: monkeypatch.setattr(F, "grid_sample", fail)


def sample_with_grid_sample(value, spatial_shapes, sampling_locations, attention_weights):
    """The sampling of the published modules; the name is none of theirs."""
    batch, _, heads, channels = value.shape
    output = 0
    start = 0
    for level, (height, width) in enumerate(spatial_shapes.tolist()):
        tokens = value[:, start : start + height * width]
        start += height * width
        maps = tokens.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = 2 * sampling_locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples = F.grid_sample(maps, grid, align_corners=False)  # (B * M, D, Q, P)
        weights = attention_weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        output = output + (samples * weights[:, None]).sum(-1)
    return output.view(batch, heads * channels, -1).transpose(1, 2)


class PlainAttention(nn.Module):
    """What all published modules have in common."""

    def __init__(self, levels=3, channels=16, heads=4, points=2, **attributes):
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        for name, value in attributes.items():
            setattr(self, name, value)

    def locate(self, query, reference_points, spatial_shapes):
        batch, queries, _ = query.shape
        size = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).view(*size, 2)
        weights = self.attention_weights(query).view(*size[:3], -1).softmax(-1).view(size)
        if reference_points.shape[-1] == 2:
            offsets = offsets / spatial_shapes.flip(1)[:, None]
        else:
            offsets = offsets / self.num_points * reference_points[:, :, None, :, None, 2:] * 0.5
        return reference_points[:, :, None, :, None, :2] + offsets, weights

    def sample(self, query, value, padding, reference_points, spatial_shapes):
        value = self.value_proj(value)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        value = value.view(*value.shape[:2], self.num_heads, -1)
        locations, weights = self.locate(query, reference_points, spatial_shapes)
        sampled = sample_with_grid_sample(value, spatial_shapes, locations, weights)
        return self.output_proj(sampled)


class MmcvStyle(PlainAttention):
    """The structure of MultiScaleDeformableAttention of mmcv and of detrex."""

    def __init__(self, batch_first=False, dropout=0.1):
        super().__init__(batch_first=batch_first, dropout=nn.Dropout(dropout))

    def forward(
        self,
        query,
        key=None,
        value=None,
        identity=None,
        query_pos=None,
        key_padding_mask=None,
        reference_points=None,
        spatial_shapes=None,
        level_start_index=None,
        **kwargs,
    ):
        value = query if value is None else value
        identity = query if identity is None else identity
        if query_pos is not None:
            query = query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        output = self.sample(query, value, key_padding_mask, reference_points, spatial_shapes)
        if not self.batch_first:
            output = output.transpose(0, 1)
        return self.dropout(output) + identity


class GroundingStyle(PlainAttention):
    """The structure of the attention in the repository of Grounding DINO."""

    def __init__(self):
        super().__init__(batch_first=False)

    def forward(
        self,
        query,
        key=None,
        value=None,
        query_pos=None,
        key_padding_mask=None,
        reference_points=None,
        spatial_shapes=None,
        level_start_index=None,
        **kwargs,
    ):
        value = query if value is None else value
        if query_pos is not None:
            query = query + query_pos
        query, value = query.transpose(0, 1), value.transpose(0, 1)
        output = self.sample(query, value, key_padding_mask, reference_points, spatial_shapes)
        return output.transpose(0, 1)


class OriginalStyle(PlainAttention):
    """The structure of MSDeformAttn in the repositories of Deformable DETR, DINO, Mask2Former."""

    def forward(
        self,
        query,
        reference_points,
        input_flatten,
        input_spatial_shapes,
        input_level_start_index,
        input_padding_mask=None,
    ):
        padding, shapes = input_padding_mask, input_spatial_shapes
        return self.sample(query, input_flatten, padding, reference_points, shapes)


class OtherNames(PlainAttention):
    """A module whose arguments have names of its own; only its sampling has the usual ones."""

    def forward(self, x, memory, anchors, sizes, temperature=1.0):
        value = self.value_proj(memory) / temperature
        value = value.view(*value.shape[:2], self.num_heads, -1)
        locations, weights = self.locate(x, anchors, sizes)
        return self.output_proj(sample_with_grid_sample(value, sizes, locations, weights))


STYLES = (MmcvStyle, lambda: MmcvStyle(batch_first=True), GroundingStyle, OriginalStyle, OtherNames)
SHAPES = ((6, 5), (3, 4), (2, 1))


class AttentionCall:
    """A module with random weights, and the arguments of a call."""

    def __init__(self, module, masked=True, coordinates=2, queries=5):
        torch.manual_seed(0)
        self.module = module
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        shapes = torch.tensor(SHAPES)
        starts = torch.tensor([0, 30, 42])
        query, position = torch.randn(2, 2, queries, 16).unbind(0)
        value, mask = torch.randn(2, 44, 16), torch.rand(2, 44) < 0.4
        reference = 0.1 + 0.8 * torch.rand(2, queries, 3, coordinates)
        mask = mask if masked else None
        if isinstance(module, OtherNames):
            self.given = {"x": query, "memory": value, "anchors": reference, "sizes": shapes}
            return
        if isinstance(module, OriginalStyle):
            self.given = {
                "query": query,
                "reference_points": reference,
                "input_flatten": value,
                "input_spatial_shapes": shapes,
                "input_level_start_index": starts,
                "input_padding_mask": mask,
            }
            return
        if not module.batch_first:
            query, position, value = (x.transpose(0, 1) for x in (query, position, value))
        self.given = {
            "query": query,
            "value": value,
            "query_pos": position,
            "key_padding_mask": mask,
            "reference_points": reference,
            "spatial_shapes": shapes,
            "level_start_index": starts,
        }

    def __call__(self, **changes):
        return self.module(**{**self.given, **changes})


@pytest.fixture
def attention_call():
    """Make a module of a style of publication and the arguments of a call."""
    return AttentionCall


@pytest.fixture(params=STYLES, ids=("mmcv", "mmcv, batch first", "grounding", "original", "other"))
def style(request):
    """A style of publication, each in turn."""
    return request.param


@pytest.fixture
def styles():
    """The styles of publication by name."""
    return {
        "mmcv": MmcvStyle,
        "grounding": GroundingStyle,
        "original": OriginalStyle,
        "other": OtherNames,
    }
