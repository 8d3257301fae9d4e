"""The interleaved encoder equals the published one; its layouts share inputs and weights."""

import ast

import pytest
import torch
from tests.parity.conftest import golden_files

from lite_focus_detr.modeling.encoder import LiteEncoder
from lite_focus_detr.modeling.structures import FeatureTokens

FILES = golden_files("encoder_*")


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
@pytest.mark.parametrize("name", FILES)
def test_memory_equals_that_of_upstream(golden, tiny_config, name, dtype, tolerance):
    arrays = golden(name)
    # "readme_a3b1" is what the options that the published README gives for H2L2 really are.
    options = ast.literal_eval(str(arrays.pop("options")))
    data = {key: torch.from_numpy(value) for key, value in arrays.items()}
    attention = "key_aware" if options["key_aware"] else "deformable"
    cfg = tiny_config("dino", **{"ENCODER.NUM_LAYERS": 6, "ENCODER.ATTENTION": attention})
    cfg.MODEL.LITE.NUM_BLOCKS = options["num_expansion"]
    cfg.MODEL.LITE.NUM_HIGH_LEVELS = options["enc_scale"]
    cfg.MODEL.LITE.LOW_FFN_DIM = 32
    encoder = LiteEncoder(cfg)
    prefix = "w.transformer.encoder."
    weights = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
    # The published plain mode has unused projections.
    encoder.load_state_dict({key: weights[key] for key in encoder.state_dict()})
    with torch.no_grad():
        memory = encoder.to(dtype)(make_tokens(data, dtype), None).memory
    expected = data["memory_f64" if dtype == torch.float64 else "memory_f32"]
    torch.testing.assert_close(memory, expected.to(dtype), rtol=0, atol=tolerance)
