"""The dense encoder is its layers, one after the other."""

import pytest
import torch
from detectron2.structures import ImageList

from lite_focus_detr.modeling.attention import AttentionConfig, DeformableAttention
from lite_focus_detr.modeling.encoder import DeformableEncoder, EncoderLayer, TokenQueries
from lite_focus_detr.modeling.tokens import flatten_levels


@pytest.fixture
def tokens():
    """Two images, the second with padding."""
    torch.manual_seed(0)
    return flatten_levels(
        [torch.randn(2, 16, 8, 12), torch.randn(2, 16, 4, 6)],
        torch.randn(2, 16),
        ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (40, 64)]),
        strides=(8, 16),
        position=(20.0, 0.0),
    )


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_every_layer_updates_all_tokens_from_those_of_the_layer_before(
    tokens, gradient_checkpointing
):
    config = AttentionConfig(embed_dim=16, num_heads=2, num_levels=2, num_points=3)
    layers = [
        EncoderLayer(self_attn=DeformableAttention(config), ffn_dim=24, dropout=0.0)
        for _ in range(3)
    ]
    encoder = DeformableEncoder(layers=layers, gradient_checkpointing=gradient_checkpointing)
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    memory = tokens.features
    # Each token looks around its own centre, on every level relative to the padded map.
    references = tokens.centers[:, :, None] * tokens.valid_ratios[:, None]
    for layer in layers:
        memory = layer(TokenQueries(memory, tokens.position, references), memory, tokens)
    output = encoder(tokens, None)
    torch.testing.assert_close(output.memory, memory)
    assert output.trace is None
    assert output.predictions == ()
