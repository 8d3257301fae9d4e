"""Dropout of the encoder layers: with probability one, only the residual path is left."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList

SIZES = [(64, 96), (64, 96)]
LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2)]


@pytest.fixture
def make_model(tiny_config):
    """A detector with one encoder layer, whose norms are not the identity."""

    def make(architecture, dropout, decoder_dropout=0.0):
        changes = {"ENCODER.DROPOUT": dropout, "DECODER.DROPOUT": decoder_dropout}
        cfg = tiny_config("dino", **{"ENCODER.NUM_LAYERS": 1}, **changes)
        cfg.MODEL.META_ARCHITECTURE = architecture
        cfg.MODEL.FOCUS.KEEP_RATIOS = [1.0]
        cfg.MODEL.FOCUS.OBJECT_TOKENS = 0
        cfg.MODEL.LITE.NUM_HIGH_LEVELS = 3
        torch.manual_seed(0)
        model = build_model(cfg)
        for parameter in model.encoder.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        return model

    return make


def make_tokens(model):
    random = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, 32, *shape, generator=random) for shape in LEVELS]
    return model.flatten_levels(levels, ImageList(torch.empty(2, 3, 64, 96), SIZES))


def normalise(x, norm):
    """Layer norm by its formula."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / deviation * norm.weight + norm.bias


@pytest.mark.parametrize("architecture", ["DeformableDETR", "LiteDETR", "FocusDETR"])
def test_attention_and_feed_forward_can_both_be_dropped(make_model, architecture):
    model = make_model(architecture, dropout=1.0).train()
    tokens = make_tokens(model)
    layer = model.encoder.layers[0]
    attended = normalise(tokens.features, layer.norm1)
    expected = normalise(attended, layer.norm2)
    if architecture == "LiteDETR":  # The finest level has a norm of its own.
        expected = torch.cat((normalise(attended[:, :96], layer.norm22), expected[:, 96:]), 1)
    memory = model.encoder(tokens, model.proposal_head).memory
    torch.testing.assert_close(memory, expected)


@pytest.mark.parametrize("architecture", ["DeformableDETR", "LiteDETR", "FocusDETR"])
def test_dropout_is_for_training_only_and_not_that_of_the_decoder(make_model, architecture):
    model = make_model(architecture, dropout=1.0)
    other = make_model(architecture, dropout=0.0, decoder_dropout=1.0).train()
    other.load_state_dict(model.state_dict())
    tokens = make_tokens(model)
    evaluated = model.eval().encoder(tokens, model.proposal_head).memory
    trained = other.encoder(tokens, other.proposal_head).memory
    torch.testing.assert_close(evaluated, trained)
    dropped = model.train().encoder(tokens, model.proposal_head).memory
    assert not torch.allclose(evaluated, dropped, atol=0.1)


@pytest.mark.parametrize(("recompute", "runs"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("architecture", ["DeformableDETR", "LiteDETR", "FocusDETR", "SparseDETR"])
def test_layers_run_again_in_the_backward_pass_if_asked_to(
    tiny_config, make_batch, architecture, recompute, runs
):
    cfg = tiny_config("dino", GRADIENT_CHECKPOINTING=recompute)
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    model = build_model(cfg).train()
    count = [0, 0]
    for index, layer in enumerate(model.encoder.layers):

        def add(*_, index=index):
            count[index] += 1

        layer.linear1.register_forward_hook(add)
    sum(model(make_batch((3, 1))).values()).backward()
    assert count == [runs, runs]
