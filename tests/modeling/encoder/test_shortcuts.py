"""What shortcuts predict, how they are fitted, and where encoders use them."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import nn

from lite_focus_detr.config import validate_config
from lite_focus_detr.modeling.encoder.selective import gather_queries
from lite_focus_detr.modeling.encoder.shortcuts import LinearShortcuts, fitting

SIZES = [(64, 96), (96, 128)]


class AffineLayer(nn.Module):
    """A layer that adds to the tokens of each level an affine function of the first features."""

    def __init__(self, weights, biases):
        super().__init__()
        self.weights, self.biases = weights, biases

    def forward(self, queries, value, tokens):
        lengths = [height * width for height, width in tokens.spatial_shapes]
        parts = zip(tokens.features.split(lengths, 1), self.weights, self.biases, strict=True)
        return torch.cat([x + x @ weight.T + bias for x, weight, bias in parts], 1)


def build(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for parameter in model.parameters():  # Attention starts uniform, heads start at zero.
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def tokens_of(model, padding=0.0):
    """Random tokens of a padded batch of two images."""
    torch.manual_seed(1)
    height, width = (max(x) for x in zip(*SIZES, strict=True))
    levels = [
        torch.randn(2, 32, -(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64)
    ]
    tokens = model.flatten_levels(levels, ImageList(torch.empty(2, 3, height, width), SIZES))
    features = tokens.features + padding * tokens.padding_mask[..., None]
    return tokens._replace(features=features)


@pytest.fixture
def config(tiny_config):
    def make(architecture, keep_ratio, shortcuts=True, family="dino"):
        cfg = tiny_config(family)
        cfg.MODEL.META_ARCHITECTURE = architecture
        cfg.MODEL.FOCUS.KEEP_RATIOS = [keep_ratio, keep_ratio]
        cfg.MODEL.SPARSE.KEEP_RATIO = keep_ratio
        cfg.MODEL.FOCUS.OBJECT_TOKENS, cfg.MODEL.SPARSE.AUX_HEADS = 0, False
        cfg.MODEL.FOCUS.VALUE = "updated"
        cfg.MODEL.FOCUS.SHORTCUTS = cfg.MODEL.SPARSE.SHORTCUTS = shortcuts
        return cfg

    return make


def test_nothing_is_added_at_the_start():
    shortcuts = LinearShortcuts(embed_dim=4, num_layers=2, num_levels=2)
    x = torch.randn(1, 8, 4)
    torch.testing.assert_close(shortcuts(1, x, [(2, 3), (1, 2)]), x, rtol=0, atol=0)


# What is in the padding has no influence.
@pytest.mark.parametrize("padding", [0.0, 1e3])
def test_affine_layers_are_found(config, padding):
    tokens = tokens_of(build(config("SparseDETR", 0.3)), padding)
    torch.manual_seed(2)
    layers = nn.ModuleList(
        AffineLayer(0.3 * torch.randn(4, 32, 32), torch.randn(4, 32)) for _ in range(2)
    )
    # The coarsest level has fewer tokens than channels: nothing could be found for it alone.
    levels = range(3)
    batches = [
        tokens._replace(features=torch.randn_like(tokens.features) + padding * mask)
        for mask in [tokens.padding_mask[..., None]] * 8
    ]
    shortcuts = LinearShortcuts(embed_dim=32, num_layers=2, num_levels=4)
    with fitting(layers, shortcuts, lambda batch: torch.ones_like(batch.padding_mask)):
        for batch in batches:
            for layer in layers:
                layer(None, None, batch)
    for index, layer in enumerate(layers):
        for level in levels:
            # The ridge is a thousandth of the features' mean square.
            found, expected = shortcuts.linears[4 * index + level], layer.weights[level]
            torch.testing.assert_close(found.weight, expected, rtol=0, atol=0.01)
            torch.testing.assert_close(found.bias, layer.biases[level], rtol=0, atol=0.02)
    assert not any(layer._forward_hooks for layer in layers)


def test_tokens_that_are_updated_count_little(config):
    tokens = tokens_of(build(config("SparseDETR", 0.3)))
    torch.manual_seed(2)
    updated = torch.rand(tokens.padding_mask.shape) < 0.5
    # Half of the tokens learn one constant, half another.
    added = torch.where(updated[..., None], 1.0, 2.0).expand_as(tokens.features)
    layers = nn.ModuleList([nn.Module()])
    layers[0].forward = lambda queries, value, batch: batch.features + added
    shortcuts = LinearShortcuts(embed_dim=32, num_layers=1, num_levels=4)
    with fitting(layers, shortcuts, lambda batch: ~updated):
        layers[0](None, None, tokens)
    with torch.no_grad():
        predicted = shortcuts(0, tokens.features, tokens.spatial_shapes) - tokens.features
    num_finest = tokens.spatial_shapes[0][0] * tokens.spatial_shapes[0][1]
    # 0.02 of 1 and 1 of 2: the mean is 1.98.
    assert predicted[:, :num_finest].mean() == pytest.approx(1.98, abs=0.03)


def test_the_least_squares_are_those_of_numpy():
    torch.manual_seed(0)
    x, y = torch.randn(50, 3).double(), torch.randn(50, 3).double()
    source = torch.cat((x, torch.ones(50, 1)), 1)
    shortcuts = LinearShortcuts(embed_dim=3, num_layers=1, num_levels=1)
    shortcuts.solve(0, 0, source.T @ torch.cat((source, y), 1))
    # A ridge is as many further rows, of the root of its size.
    squares = source.T @ source
    rows = (1e-3 * squares.diagonal().mean()).sqrt() * torch.eye(4).double()
    expected = torch.linalg.lstsq(torch.cat((source, rows)), torch.cat((y, torch.zeros(4, 3))))
    linear = shortcuts.linears[0]
    found = torch.cat((linear.weight, linear.bias[:, None]), 1).T
    torch.testing.assert_close(found, expected.solution.float())


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR"])
def test_tokens_that_are_not_kept_take_the_shortcut(config, architecture):
    model = build(config(architecture, 0.3))
    tokens = tokens_of(model)
    output = model.encoder(tokens, model.proposal_head)
    kept = torch.zeros_like(tokens.padding_mask)
    for image in range(2):
        kept[image, output.trace.kept[-1].of_image(image)] = True
    lengths = [height * width for height, width in tokens.spatial_shapes]
    parts = tokens.features.split(lengths, 1)
    last = model.encoder.shortcuts.linears[-4:]
    expected = torch.cat(
        [x + x @ linear.weight.T + linear.bias for x, linear in zip(parts, last, strict=True)], 1
    )
    torch.testing.assert_close(output.memory[~kept], expected[~kept])
    # The second layer attends to the shortcuts of the first.
    first, second = output.trace.kept[0], model.encoder.layers[1]
    attended = model.encoder.shortcuts(0, tokens.features, tokens.spatial_shapes)
    attended = first.scatter(attended, output.trace.features[0])
    queries = gather_queries(first, tokens)._replace(features=output.trace.features[0])
    updated = second(queries, attended, tokens)[first.within_budget]
    torch.testing.assert_close(output.trace.features[1][first.within_budget], updated)


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR"])
def test_tokens_are_skipped_that_no_layer_updates(config, architecture):
    model = build(config(architecture, 0.3))
    tokens = tokens_of(model)
    trace = model.encoder(tokens, model.proposal_head).trace
    expected = torch.ones_like(tokens.padding_mask)
    for image in range(2):
        expected[image, trace.kept[0].of_image(image)] = False
    skipped = model.encoder.skipped_tokens(tokens, model.proposal_head)
    assert torch.equal(skipped, expected)
    assert (~skipped).sum(1).tolist() == list(trace.budgets)


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR"])
def test_with_all_tokens_kept_there_are_no_shortcuts(config, architecture):
    model = build(config(architecture, 1.0))
    dense = build_model(config("DeformableDETR", 1.0)).eval()
    dense.load_state_dict(model.state_dict(), strict=False)
    images = ImageList.from_tensors([torch.rand(3, 64, 96)])
    outputs = (x.forward_outputs(images).memory for x in (model, dense))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR"])
def test_every_shortcut_gets_a_gradient(config, make_batch, architecture):
    model = build(config(architecture, 0.3)).train()
    sum(model(make_batch((3, 1))).values()).backward()
    for parameter in model.encoder.shortcuts.parameters():
        assert parameter.grad.abs().sum() > 0


def test_frozen_values_and_shortcuts_are_refused(config):
    cfg = config("FocusDETR", 0.3)
    cfg.MODEL.FOCUS.VALUE = "frozen"
    with pytest.raises(ValueError, match=r"SHORTCUTS needs MODEL\.FOCUS\.VALUE updated"):
        validate_config(cfg)
