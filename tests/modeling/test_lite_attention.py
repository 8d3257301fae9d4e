import pytest
import torch
from detectron2.structures import ImageList

from lite_focus_detr.modeling.attention import DeformableAttention, KeyAwareAttention
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
