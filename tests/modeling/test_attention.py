from typing import NamedTuple

import pytest
import torch

from lite_focus_detr.modeling.attention import (
    AttentionConfig,
    DeformableAttention,
    KeyAwareAttention,
    build_attention,
)

SIZE = {"embed_dim": 32, "num_heads": 4, "num_levels": 2, "num_points": 3}


class Tokens(NamedTuple):
    features: torch.Tensor
    spatial_shapes: tuple
    padding_mask: torch.Tensor


@pytest.fixture
def tokens():
    """Two images; the second fills three quarters of the canvas."""
    torch.manual_seed(0)
    masks = []
    for size in (8, 4):
        mask = torch.zeros(2, size, size, dtype=torch.bool)
        mask[1, :, 3 * size // 4 :] = True
        masks.append(mask.flatten(1))
    return Tokens(torch.randn(2, 80, 32), ((8, 8), (4, 4)), torch.cat(masks, 1))


def perturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module.double()


def attend(module, tokens, value=None):
    query = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1)).double()
    references = torch.rand(2, 7, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    value = tokens.features if value is None else value
    return module(query, references, value.double(), *tokens[1:])


@pytest.mark.parametrize("projected_key", [False, True])
def test_a_zero_query_projection_gives_uniform_weights(tokens, projected_key):
    module = perturb(KeyAwareAttention(AttentionConfig(projected_key=projected_key, **SIZE)))
    torch.nn.init.zeros_(module.query_proj.weight)
    torch.nn.init.zeros_(module.query_proj.bias)
    plain = DeformableAttention(AttentionConfig(**SIZE)).double()
    weights = {k: v for k, v in module.state_dict().items() if k in plain.state_dict()}
    # The plain weights start at zero, too: softmax makes them uniform.
    plain.load_state_dict({**plain.state_dict(), **weights})
    torch.testing.assert_close(attend(module, tokens), attend(plain, tokens), rtol=0, atol=1e-12)


def test_a_key_projection_equal_to_that_of_the_value_is_the_shared_key(tokens):
    shared = perturb(KeyAwareAttention(AttentionConfig(**SIZE)))
    projected = KeyAwareAttention(AttentionConfig(projected_key=True, **SIZE)).double()
    weights = shared.state_dict()
    keys = {k.replace("value_proj", "key_proj"): v for k, v in weights.items() if "value_proj" in k}
    projected.load_state_dict({**weights, **keys})
    torch.testing.assert_close(attend(projected, tokens), attend(shared, tokens))


@pytest.mark.parametrize("projected_key", [False, True])
def test_masked_weights_of_the_points_inside_sum_to_one(tokens, projected_key):
    """With the value one everywhere the result is the weight of the points among the pixels."""
    # In pixels, from the centre of the third pixel; three to the left is just outside.
    offsets = torch.tensor([[0.0, 0.0], [-1.0, 0.3], [-3.0, 0.0]], dtype=torch.float64)
    references = torch.tensor([[2.5 / 8, 2.5 / 8], [2.5 / 4, 2.5 / 4]], dtype=torch.float64)
    references, offsets = references.expand(2, 7, 2, 2), offsets.expand(2, 7, 4, 2, 3, 2)
    query = torch.randn(2, 7, 32).double()
    for mask_outside in (True, False):
        options = {"projected_key": projected_key, "mask_outside": mask_outside}
        module = perturb(KeyAwareAttention(AttentionConfig(**options, **SIZE)))
        projected = module.project(tokens.features.double(), tokens.padding_mask)
        if not projected_key:
            projected = projected._replace(key=projected.value)
        projected = projected._replace(value=torch.ones_like(projected.value))
        points = (tokens.spatial_shapes, references, offsets)
        attended = module.attend(query, projected, points)
        if mask_outside:
            torch.testing.assert_close(attended, torch.ones_like(attended))
        else:
            assert (attended < 0.99).any()
        weights = module.weights(query, projected, points).view(2, 7, 4, 2, 3)
        torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(2, 7, 4).double())
        assert (weights[..., 2] == 0).all() == mask_outside


@pytest.mark.parametrize("attention", [DeformableAttention, KeyAwareAttention])
def test_offsets_shared_by_the_levels_equal_the_same_offsets_on_each(tokens, attention):
    shared = perturb(attention(AttentionConfig(shared_offsets=True, **SIZE)))
    separate = attention(AttentionConfig(**SIZE)).double()
    weights = shared.state_dict()
    for name in ("sampling_offsets.weight", "sampling_offsets.bias"):
        per_head = weights[name].unflatten(0, (4, 1, 6))
        weights[name] = per_head.expand(-1, 2, *[-1] * (per_head.dim() - 2)).flatten(0, 2)
    separate.load_state_dict(weights)
    torch.testing.assert_close(attend(separate, tokens), attend(shared, tokens))


@pytest.mark.parametrize("attention", [DeformableAttention, KeyAwareAttention])
def test_what_lies_in_the_padding_is_never_seen(tokens, attention):
    module = perturb(attention(AttentionConfig(**SIZE)))
    changed = tokens.features.masked_fill(tokens.padding_mask[..., None], 1e3)
    assert tokens.padding_mask.any()
    assert torch.equal(attend(module, tokens, changed), attend(module, tokens))


@pytest.mark.parametrize("attention", [DeformableAttention, KeyAwareAttention])
def test_consecutive_parts_are_projected_like_the_whole(tokens, attention):
    module = perturb(attention(AttentionConfig(**SIZE)))
    features = tokens.features.double()
    whole = module.project(features, tokens.padding_mask)
    parts = module.project((features[:, :64], features[:, 64:]), tokens.padding_mask)
    torch.testing.assert_close(parts.value, whole.value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("attention", [DeformableAttention, KeyAwareAttention])
def test_sampling_is_in_full_precision_under_autocast_and_has_no_gradient(tokens, attention):
    module = perturb(attention(AttentionConfig(**SIZE))).float()
    query, references = torch.randn(2, 7, 32), torch.rand(2, 7, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        locations, weights = module.sampling(query, references, *tokens)
    assert locations.dtype == weights.dtype == torch.float32
    # Weights in bfloat16 sum to one up to a few thousandths.
    torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(2, 7, 4), rtol=0, atol=1e-6)
    assert not locations.requires_grad
    assert not weights.requires_grad


def test_encoder_and_decoder_have_the_attention_of_their_own_keys(tiny_config):
    changes = {
        "ENCODER.NUM_POINTS": 3,
        "ENCODER.SHARED_OFFSETS": True,
        "DECODER.ATTENTION": "key_aware",
        "DECODER.PROJECTED_KEY": True,
        "DECODER.NUM_POINTS": 5,
        "KEY_AWARE.MASK_OUTSIDE": True,
    }
    detr = tiny_config(**changes).MODEL.DETR
    sizes = {"embed_dim": 32, "num_heads": 4, "num_levels": 4, "mask_outside": True}
    encoder = build_attention(detr, detr.ENCODER)
    assert isinstance(encoder, DeformableAttention)
    assert encoder.config == AttentionConfig(num_points=3, shared_offsets=True, **sizes)
    decoder = build_attention(detr, detr.DECODER)
    assert isinstance(decoder, KeyAwareAttention)
    assert decoder.config == AttentionConfig(num_points=5, projected_key=True, **sizes)
