import pytest
import torch
from detectron2.structures import ImageList

from lite_focus_detr.modeling.attention import (
    DeformableAttention,
    KeyAwareAttention,
    SamplePoints,
)
from lite_focus_detr.modeling.tokens import FeatureTokens, TokenBuilder

SIZE = {"embed_dim": 32, "num_heads": 4, "num_levels": 2, "num_points": 3}


@pytest.fixture
def tokens() -> FeatureTokens:
    """Two images; the second fills three quarters of the canvas."""
    torch.manual_seed(0)
    builder = TokenBuilder(
        in_channels=[1, 1], num_levels=2, embed_dim=32, norm_groups=4, temperature=20.0, offset=0.0
    )
    images = ImageList(torch.empty(2, 3, 64, 64), [(64, 64), (64, 48)])
    return builder([torch.randn(2, 32, 8, 8), torch.randn(2, 32, 4, 4)], images)


def perturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module.double()


def attend(module, tokens, value=None):
    query = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1)).double()
    references = torch.rand(2, 7, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    value = tokens.features if value is None else value
    return module(query, references, value.double(), tokens)


@pytest.mark.parametrize("projected_key", [False, True])
def test_a_zero_query_projection_gives_uniform_weights(tokens, projected_key):
    module = perturb(KeyAwareAttention(projected_key=projected_key, **SIZE))
    torch.nn.init.zeros_(module.query_proj.weight)
    torch.nn.init.zeros_(module.query_proj.bias)
    plain = DeformableAttention(**SIZE).double()
    weights = {k: v for k, v in module.state_dict().items() if k in plain.state_dict()}
    # The plain weights start at zero, too: softmax makes them uniform.
    plain.load_state_dict({**plain.state_dict(), **weights})
    torch.testing.assert_close(attend(module, tokens), attend(plain, tokens), rtol=0, atol=1e-12)


def test_a_key_projection_equal_to_that_of_the_value_is_the_shared_key(tokens):
    shared = perturb(KeyAwareAttention(**SIZE))
    projected = KeyAwareAttention(projected_key=True, **SIZE).double()
    weights = shared.state_dict()
    keys = {k.replace("value_proj", "key_proj"): v for k, v in weights.items() if "value_proj" in k}
    projected.load_state_dict({**weights, **keys})
    torch.testing.assert_close(attend(projected, tokens), attend(shared, tokens))


@pytest.mark.parametrize("projected_key", [False, True])
def test_masked_weights_of_the_points_inside_sum_to_one(tokens, projected_key):
    """With the value one everywhere the result is the weight of the points among the pixels."""
    options = {"projected_key": projected_key, "mask_outside": True}
    module = perturb(KeyAwareAttention(**options, **SIZE))
    query = torch.randn(2, 7, 32).double()
    projected = module.project((tokens.features.double(),), tokens)
    if not projected_key:
        projected = projected._replace(key=projected.value)
    projected = projected._replace(value=torch.ones_like(projected.value))
    # In pixels, from the centre of the third pixel; three to the left is just outside.
    offsets = torch.tensor([[0.0, 0.0], [-1.0, 0.3], [-3.0, 0.0]], dtype=torch.float64)
    references = torch.tensor([[2.5 / 8, 2.5 / 8], [2.5 / 4, 2.5 / 4]], dtype=torch.float64)
    points = SamplePoints(
        tokens.spatial_shapes, references.expand(2, 7, 2, 2), offsets.expand(2, 7, 4, 2, 3, 2)
    )
    attended = module.sample(query, projected, points)
    torch.testing.assert_close(attended, torch.ones_like(attended))
    module.mask_outside = False
    assert (module.sample(query, projected, points) < 0.99).any()


@pytest.mark.parametrize("attention", [DeformableAttention, KeyAwareAttention])
def test_offsets_shared_by_the_levels_equal_the_same_offsets_on_each(tokens, attention):
    shared = perturb(attention(shared_offsets=True, **SIZE))
    separate = attention(**SIZE).double()
    weights = shared.state_dict()
    for name in ("sampling_offsets.weight", "sampling_offsets.bias"):
        per_head = weights[name].unflatten(0, (4, 1, 6))
        weights[name] = per_head.expand(-1, 2, *[-1] * (per_head.dim() - 2)).flatten(0, 2)
    separate.load_state_dict(weights)
    torch.testing.assert_close(attend(separate, tokens), attend(shared, tokens))


@pytest.mark.parametrize("attention", [DeformableAttention, KeyAwareAttention])
def test_what_lies_in_the_padding_is_never_seen(tokens, attention):
    module = perturb(attention(**SIZE))
    changed = tokens.features.masked_fill(tokens.padding_mask[..., None], 1e3)
    assert tokens.padding_mask.any()
    assert torch.equal(attend(module, tokens, changed), attend(module, tokens))


@pytest.mark.parametrize("attention", [DeformableAttention, KeyAwareAttention])
def test_consecutive_parts_are_projected_like_the_whole(tokens, attention):
    module = perturb(attention(**SIZE))
    features = tokens.features.double()
    whole = module.project((features,), tokens)
    parts = module.project((features[:, :64], features[:, 64:]), tokens)
    torch.testing.assert_close(parts.value, whole.value, rtol=0, atol=1e-14)
