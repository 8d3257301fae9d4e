"""The interleaved encoder equals the published one; its layouts share inputs and weights."""

import pytest
import torch

from lite_focus_detr.modeling.encoder import build_encoder
from lite_focus_detr.modeling.structures import FeatureTokens

# NUM_BLOCKS, NUM_HIGH_LEVELS, ATTENTION.
LAYOUTS = {
    "h2l2_2p1x3": (3, 2, "key_aware"),
    "h3l1_2p1x3": (3, 3, "key_aware"),
    "h3l1_2p1x3_nokda": (3, 3, "deformable"),
    "h3l1_6p1x1": (1, 3, "key_aware"),
    # What the options that the published README gives for H2L2 really are: one high level.
    "readme_a3b1_H1L3": (3, 1, "key_aware"),
}


class RecordedTokens(FeatureTokens):
    """Tokens with the published reference points, which are rounded to single precision."""

    def scale_to_levels(self, reference):
        return reference


def make_tokens(data, dtype):
    def join(name):
        return torch.cat([data[f"{name}_level{level}"].flatten(2) for level in range(4)], 2).mT

    shapes = tuple(map(tuple, data["spatial_shapes"].tolist()))
    masks = torch.cat([data[f"mask_level{level}"].flatten(1) for level in range(4)], 1)
    embed = data["w.transformer.level_embed"]
    levels = [embed[i].expand(height * width, -1) for i, (height, width) in enumerate(shapes)]
    return RecordedTokens(
        features=join("src").to(dtype),
        position=join("pos").to(dtype) + torch.cat(levels).to(dtype),
        padding_mask=masks,
        centers=data["reference_points"].to(dtype),
        valid_ratios=data["valid_ratios"].to(dtype),
        spatial_shapes=shapes,
        num_valid=tuple((~masks).sum(1).tolist()),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_equals_that_of_upstream(golden, tiny_config, layout, dtype, tolerance):
    data = {key: torch.from_numpy(value) for key, value in golden("lite_encoder").items()}
    blocks, high_levels, attention = LAYOUTS[layout]
    cfg = tiny_config("dino", **{"ENCODER.NUM_LAYERS": 6, "ENCODER.ATTENTION": attention})
    cfg.MODEL.LITE.NUM_BLOCKS = blocks
    cfg.MODEL.LITE.NUM_HIGH_LEVELS = high_levels
    cfg.MODEL.LITE.LOW_FFN_DIM = 32
    encoder = build_encoder("LiteEncoder", cfg)
    prefix = "w.transformer.encoder."
    weights = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
    encoder.load_state_dict({key: weights[key] for key in encoder.state_dict()})
    with torch.no_grad():
        memory = encoder.to(dtype)(make_tokens(data, dtype), None).memory
    expected = data[f"memory_{layout}"].to(dtype)
    torch.testing.assert_close(memory, expected, rtol=0, atol=tolerance)
