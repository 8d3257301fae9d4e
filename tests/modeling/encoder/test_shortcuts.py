"""What shortcuts predict, how they are fitted, and where encoders use them."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import nn

from lite_focus_detr.config import validate_config
from lite_focus_detr.modeling.encoder import shortcuts as shortcuts_module
from lite_focus_detr.modeling.encoder.selective import gather_queries
from lite_focus_detr.modeling.encoder.shortcuts import LinearShortcuts, fitting

SIZES = [(64, 96), (96, 128)]


def random_shortcuts():
    """Of two layers and four levels, with 32 channels."""
    torch.manual_seed(2)
    shortcuts = LinearShortcuts(embed_dim=32, num_layers=2, num_levels=4)
    for linear in shortcuts.linears:
        nn.init.normal_(linear.weight)
        nn.init.normal_(linear.bias)
    return shortcuts


class KnownLayer(nn.Module):
    """A layer that makes of all tokens what a shortcut says, and something else of padded ones."""

    def __init__(self, index, shortcuts, padding):
        super().__init__()
        self.index, self.shortcuts, self.padding = index, shortcuts, padding

    def forward(self, queries, value, tokens):
        around = self.shortcuts.look_around(tokens)
        output = self.shortcuts(self.index, tokens.features, around)
        return output + self.padding * tokens.padding_mask[..., None]


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


def naive_shortcut(shortcuts, layer, features, image, tokens):
    """What becomes of the tokens of one image, token by token, from the definition."""
    starts, expected = [0], features[image].clone()
    for height, width in tokens.spatial_shapes:
        starts.append(starts[-1] + height * width)
    valid = ~tokens.padding_mask[image]
    for level, (height, width) in enumerate(tokens.spatial_shapes):
        weight = shortcuts.neighbors[level].weight
        linear = shortcuts.linears[layer * len(tokens.spatial_shapes) + level]
        for y, x in itertools.product(range(height), range(width)):
            hidden = torch.zeros(weight.shape[0])
            for v, u in itertools.product(range(3), range(3)):
                row, column = y + v - 1, x + u - 1
                if 0 <= row < height and 0 <= column < width:
                    index = starts[level] + row * width + column
                    hidden += weight[:, :, v, u] @ (features[image, index] * valid[index])
            if level + 1 < len(tokens.spatial_shapes):
                index = starts[level + 1] + y // 2 * tokens.spatial_shapes[level + 1][1] + x // 2
                above = features[image, index] * valid[index]
                hidden += shortcuts.coarser[level].weight[:, :, 0, 0] @ above
            index = starts[level] + y * width + x
            expected[index] += linear.weight @ hidden + linear.bias
    return expected


def test_nothing_is_added_at_the_start(config):
    tokens = tokens_of(build(config("SparseDETR", 0.3)))
    shortcuts = LinearShortcuts(embed_dim=32, num_layers=2, num_levels=4)
    found = shortcuts(1, tokens.features, shortcuts.look_around(tokens))
    torch.testing.assert_close(found, tokens.features, rtol=0, atol=0)


@torch.no_grad()
def test_a_shortcut_knows_the_neighbours_and_the_coarser_level(config):
    tokens, shortcuts = tokens_of(build(config("SparseDETR", 0.3)), padding=7.0), random_shortcuts()
    found = shortcuts(1, tokens.features, shortcuts.look_around(tokens))
    for image in range(2):
        expected = naive_shortcut(shortcuts, 1, tokens.features, image, tokens)
        torch.testing.assert_close(found[image], expected, rtol=1e-4, atol=1e-4)


# Sizes, of which the first leave parts of tokens over; levels that are twice or more apart.
@pytest.mark.parametrize(
    ("strides", "sizes"),
    [
        ((8, 16, 32, 64), [(72, 104), (120, 168)]),
        ((8, 32, 64, 128), [(128, 256), (256, 384)]),
        ((4, 12, 24, 48), [(48, 96), (96, 144)]),
    ],
)
@torch.no_grad()
def test_images_of_a_batch_do_not_change_each_other(config, strides, sizes):
    model, shortcuts = build(config("SparseDETR", 0.3)), random_shortcuts()
    model.neck.strides = strides
    torch.manual_seed(1)

    def random_maps(count, height, width):
        return [torch.randn(count, 32, -(-height // x), -(-width // x)) for x in strides]

    maps, padded = random_maps(1, *sizes[0]), random_maps(2, *sizes[1])
    for large, small in zip(padded, maps, strict=True):
        large[:1, :, : small.shape[-2], : small.shape[-1]] = small
    alone = model.flatten_levels(maps, ImageList(torch.empty(1, 3, *sizes[0]), sizes[:1]))
    both = model.flatten_levels(padded, ImageList(torch.empty(2, 3, *sizes[1]), sizes))
    found = [shortcuts(1, x.features, shortcuts.look_around(x))[0] for x in (alone, both)]
    torch.testing.assert_close(found[1][~both.padding_mask[0]], found[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_levels_that_are_cut_off_repeat_their_last_token(config):
    model, shortcuts = build(config("SparseDETR", 0.3)), random_shortcuts()
    # Half of 9 x 13 is 4 x 6, of which the last row and column are taken three times.
    maps = [torch.randn(1, 32, *size) for size in ((9, 13), (4, 6), (2, 3), (1, 1))]
    tokens = model.flatten_levels(maps, ImageList(torch.empty(1, 3, 72, 104), [(72, 104)]))
    hidden = shortcuts.look_around(tokens)[0] - shortcuts.neighbors[0](maps[0]).flatten(2).mT
    above = shortcuts.coarser[0](maps[1])
    for y, x in ((0, 0), (5, 8), (8, 12), (8, 0)):
        expected = above[0, :, min(y // 2, 3), min(x // 2, 5)]
        torch.testing.assert_close(hidden[0, y * 13 + x], expected)


# What is in the padding has no influence, and neither has how many tokens are drawn.
@pytest.mark.parametrize(("padding", "num_drawn"), [(0.0, 1000), (1e3, 1000), (0.0, 50)])
@torch.no_grad()
def test_layers_that_shortcuts_can_be_are_found(config, monkeypatch, padding, num_drawn):
    monkeypatch.setattr(shortcuts_module, "FITTED_TOKENS", num_drawn)
    tokens, known = tokens_of(build(config("SparseDETR", 0.3)), padding), random_shortcuts()
    layers = nn.ModuleList(KnownLayer(index, known, padding) for index in range(2))
    mask = tokens.padding_mask[..., None]

    def batch():
        return tokens._replace(features=torch.randn_like(tokens.features) + padding * mask)

    shortcuts = LinearShortcuts(embed_dim=32, num_layers=2, num_levels=4)
    with fitting(layers, shortcuts, lambda batch: torch.ones_like(batch.padding_mask)):
        for _ in range(60):
            inputs = batch()
            for layer in layers:
                layer(None, None, inputs)
    inputs = batch()
    lengths = [height * width for height, width in tokens.spatial_shapes]
    masks = (~tokens.padding_mask).split(lengths, 1)
    for index, layer in enumerate(layers):
        expected = layer(None, None, inputs)
        found = shortcuts(index, inputs.features, shortcuts.look_around(inputs))
        errors = (found - expected).split(lengths, 1)
        added = (expected - inputs.features).split(lengths, 1)
        for error, change, valid in zip(errors, added, masks, strict=True):
            # The ridge is a thousandth of the features' mean square.
            assert error[valid].square().mean() < 1e-3 * change[valid].square().mean()
    assert not any(layer._forward_hooks for layer in layers)


def test_tokens_of_the_whole_level_are_drawn(config, monkeypatch):
    monkeypatch.setattr(shortcuts_module, "FITTED_TOKENS", 50)
    tokens = tokens_of(build(config("SparseDETR", 0.3)))
    tokens = tokens._replace(padding_mask=torch.zeros_like(tokens.padding_mask))
    height, width = tokens.spatial_shapes[0]
    # The upper half of the finest level learns one constant, the lower another.
    added = torch.ones_like(tokens.features)
    added[:, height * width // 2 : height * width] = 3.0
    layers = nn.ModuleList([nn.Module()])
    layers[0].forward = lambda queries, value, batch: batch.features + added
    shortcuts = LinearShortcuts(embed_dim=32, num_layers=1, num_levels=4)
    with fitting(layers, shortcuts, lambda batch: torch.ones_like(batch.padding_mask)):
        for _ in range(40):
            batch = tokens._replace(features=torch.randn_like(tokens.features))
            layers[0](None, None, batch)
    with torch.no_grad():
        predicted = shortcuts(0, batch.features, shortcuts.look_around(batch)) - batch.features
    assert predicted[:, : height * width].mean() == pytest.approx(2, abs=0.1)


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
        for _ in range(20):
            batch = tokens._replace(features=torch.randn_like(tokens.features))
            layers[0](None, None, batch)
    with torch.no_grad():
        around = shortcuts.look_around(batch)
        predicted = shortcuts(0, batch.features, around) - batch.features
    num_finest = tokens.spatial_shapes[0][0] * tokens.spatial_shapes[0][1]
    # 0.02 of 1 and 1 of 2: the mean is 1.98.
    valid = ~tokens.padding_mask[:, :num_finest]
    assert predicted[:, :num_finest][valid].mean() == pytest.approx(1.98, abs=0.03)


def test_the_least_squares_of_reduced_rank_are_those_of_numpy():
    torch.manual_seed(0)
    shortcuts = LinearShortcuts(embed_dim=4, num_layers=3, num_levels=1)
    source = torch.cat((torch.randn(200, 9 * 4), torch.ones(200, 1)), 1).double()
    target = torch.randn(200, 3 * 4).double()
    shortcuts.solve(0, source.T @ source, source.T @ target)
    # A ridge is as many further rows, of the root of its size.
    ridge = 1e-3 * (source**2).sum(0).mean()
    rows = np.concatenate((source, np.sqrt(ridge) * np.eye(37)))
    full = np.linalg.lstsq(rows, np.concatenate((target, np.zeros((37, 12)))), rcond=None)[0]
    fitted = source.numpy() @ full
    # The best of rank 2 around the mean: what the first two singular vectors hold.
    _, _, directions = np.linalg.svd(fitted - fitted.mean(0), full_matrices=False)
    narrow = (fitted - fitted.mean(0)) @ directions[:2].T @ directions[:2]
    hidden = source[:, :-1].float() @ shortcuts.neighbors[0].weight.flatten(1).T
    found = torch.cat([linear(hidden) for linear in shortcuts.linears], 1).detach()
    torch.testing.assert_close(found, torch.tensor(narrow + target.numpy().mean(0)).float())


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR"])
def test_tokens_that_are_not_kept_take_the_shortcut(config, architecture):
    model = build(config(architecture, 0.3))
    tokens = tokens_of(model)
    output = model.encoder(tokens, model.proposal_head)
    kept = torch.zeros_like(tokens.padding_mask)
    for image in range(2):
        kept[image, output.trace.kept[-1].of_image(image)] = True
    shortcuts = model.encoder.shortcuts
    around = shortcuts.look_around(tokens)
    expected = shortcuts(1, tokens.features, around)
    torch.testing.assert_close(output.memory[~kept], expected[~kept])
    # The second layer attends to the shortcuts of the first.
    first, second = output.trace.kept[0], model.encoder.layers[1]
    attended = shortcuts(0, tokens.features, around)
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
    model = build(config(architecture, 0.05)).train()
    sum(model(make_batch((3, 1))).values()).backward()
    for parameter in model.encoder.shortcuts.parameters():
        assert parameter.grad.abs().sum() > 0


def test_frozen_values_and_shortcuts_are_refused(config):
    cfg = config("FocusDETR", 0.3)
    cfg.MODEL.FOCUS.VALUE = "frozen"
    with pytest.raises(ValueError, match=r"SHORTCUTS needs MODEL\.FOCUS\.VALUE updated"):
        validate_config(cfg)
