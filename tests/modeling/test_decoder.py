"""The decoder layer by layer."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList

LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2)]


@pytest.fixture
def make_model(tiny_config):
    """A detector with one decoder layer and no parameter at its initial value."""

    def make(dropout, encoder_dropout=0.0):
        changes = {"DECODER.DROPOUT": dropout, "ENCODER.DROPOUT": encoder_dropout}
        torch.manual_seed(0)
        model = build_model(tiny_config("deformable", **{"DECODER.NUM_LAYERS": 1}, **changes))
        for parameter in (*model.decoder.parameters(), *model.heads.parameters()):
            parameter.data += 0.2 * torch.randn_like(parameter)
        return model

    return make


def predict(model):
    """Logits of the decoder for a random memory, and the queries it started from."""
    random = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, 32, *shape, generator=random) for shape in LEVELS]
    sizes = [(64, 96), (64, 96)]
    tokens = model.flatten_levels(levels, ImageList(torch.empty(2, 3, 64, 96), sizes))
    queries = model.query_selector(tokens.features, tokens, None, None)
    (prediction,) = model.decoder(queries, tokens.features, tokens, model.heads).predictions
    return prediction.logits, queries


def normalise(x, norm):
    """Layer norm by its formula."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / deviation * norm.weight + norm.bias


def test_all_three_branches_can_be_dropped(make_model):
    model = make_model(dropout=1.0).train()
    logits, queries = predict(model)
    (layer,) = model.decoder.layers
    hidden = queries.content
    for norm in (layer.norm2, layer.norm1, layer.norm3):  # The order of the published layers.
        hidden = normalise(hidden, norm)
    head = model.heads.class_embed[0]
    torch.testing.assert_close(logits, hidden @ head.weight.T + head.bias)


def test_the_weights_of_the_self_attention_can_be_dropped(make_model):
    (layer,) = make_model(dropout=1.0).train().decoder.layers
    x = torch.randn(2, 5, 32)
    # Without weights nothing is left but the bias of the output.
    bias = layer.self_attn.out_proj.bias.expand(2, 5, 32)
    torch.testing.assert_close(layer.self_attn(x, x, x)[0], bias)


def test_dropout_is_for_training_only_and_not_that_of_the_encoder(make_model):
    model = make_model(dropout=1.0).eval()
    other = make_model(dropout=0.0, encoder_dropout=1.0).train()
    torch.testing.assert_close(predict(model)[0], predict(other)[0])
    assert not torch.allclose(predict(model)[0], predict(model.train())[0], atol=0.1)


@pytest.mark.parametrize(("recompute", "runs"), [(False, 1), (True, 2)])
def test_layers_run_again_in_the_backward_pass_if_asked_to(
    tiny_config, make_batch, recompute, runs
):
    model = build_model(tiny_config("dino", GRADIENT_CHECKPOINTING=recompute)).train()
    count = [0, 0]
    for index, layer in enumerate(model.decoder.layers):

        def add(*_, index=index):
            count[index] += 1

        layer.linear1.register_forward_hook(add)
    sum(model(make_batch((3, 1))).values()).backward()
    assert count == [runs, runs]


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("twice", [True, False])
def test_a_box_is_learned_by_its_own_layer_and_twice_by_the_one_before(
    tiny_config, final_norm, twice
):
    changes = {"DECODER.NUM_LAYERS": 3, "SHARE_HEADS": False, "LOOK_FORWARD_TWICE": twice}
    model = build_model(tiny_config("dino", **{"DECODER.FINAL_NORM": final_norm}, **changes))
    outputs = model.forward_outputs(ImageList(torch.randn(1, 3, 64, 96), [(64, 96)]))
    biases = [head.layers[-1].bias for head in model.heads.bbox_embed]
    gradients = torch.autograd.grad(outputs.pred_boxes.sum(), biases, allow_unused=True)
    learns = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
    assert learns == [False, twice, True]


def test_its_feed_forward_parts_have_their_own_size(tiny_config):
    model = build_model(tiny_config(**{"DECODER.FFN_DIM": 48}))
    assert {layer.linear1.out_features for layer in model.decoder.layers} == {48}
    assert {layer.linear1.out_features for layer in model.encoder.layers} == {64}
