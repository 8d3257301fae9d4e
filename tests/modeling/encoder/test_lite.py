import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList

from lite_focus_detr import ops, validate_config
from lite_focus_detr.modeling.attention import KeyAwareAttention

STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture
def lite_config(tiny_config):
    """A small detector with the interleaved encoder and key-aware attention."""

    def make(family="dino", blocks=1, high_levels=3, low_update="joint", **changes):
        attention = {"ENCODER.ATTENTION": "key_aware", "DECODER.ATTENTION": "key_aware"}
        cfg = tiny_config(family, **{**attention, **changes})
        cfg.MODEL.META_ARCHITECTURE = "LiteDETR"
        cfg.MODEL.LITE.NUM_BLOCKS = blocks
        cfg.MODEL.LITE.NUM_HIGH_LEVELS = high_levels
        cfg.MODEL.LITE.LOW_UPDATE = low_update
        return cfg

    return make


def perturb(module):
    """Move every parameter off its initial value, so that none of them hides."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    return module


def make_tokens(model, sizes=((64, 96), (48, 80))):
    random = torch.Generator().manual_seed(1)
    dtype = model.neck.level_embed.dtype
    levels = [
        torch.randn(2, 32, -(-64 // stride), -(-96 // stride), generator=random).to(dtype)
        for stride in STRIDES[: len(model.neck.input_proj)]
    ]
    return model.flatten_levels(levels, ImageList(torch.empty(2, 3, 64, 96), list(sizes)))


@pytest.mark.parametrize("attention", ["deformable", "key_aware"])
def test_all_levels_high_and_one_layer_per_block_equal_the_dense_encoder(lite_config, attention):
    changes = {"ENCODER.ATTENTION": attention, "DECODER.ATTENTION": attention}
    cfg = lite_config(blocks=2, high_levels=4, **changes)
    lite = perturb(build_model(cfg))
    cfg.MODEL.META_ARCHITECTURE = "DeformableDETR"
    dense = build_model(cfg)
    dense.load_state_dict(lite.state_dict())
    tokens = make_tokens(lite)
    with torch.no_grad():
        assert torch.equal(lite.encoder(tokens, None).memory, dense.encoder(tokens, None).memory)


def test_high_only_layers_leave_the_low_rows_bit_identical(lite_config):
    model = perturb(build_model(lite_config(**{"ENCODER.NUM_LAYERS": 3})))
    tokens = make_tokens(model)
    seen = []
    update = model.encoder.update
    model.encoder.update = lambda *arguments: seen.append(update(*arguments)) or seen[-1]
    with torch.no_grad():
        memory = model.encoder(tokens, None).memory
    num_low = 8 * 12
    for low, high in seen[:2]:
        # The same memory, not only the same values: nothing was copied.
        assert low.data_ptr() == tokens.features.data_ptr()
        assert not torch.equal(high, tokens.features[:, num_low:])
    assert not torch.equal(memory[:, :num_low], tokens.features[:, :num_low])


@pytest.mark.parametrize("low_update", ["joint", "after"])
def test_tokens_are_joined_once_after_all_layers(lite_config, low_update, monkeypatch):
    # Plain attention: the reference operator of the other one joins logits.
    changes = {"ENCODER.NUM_LAYERS": 4, "ENCODER.ATTENTION": "deformable"}
    model = build_model(lite_config(blocks=2, low_update=low_update, **changes))
    tokens = make_tokens(model)
    joined, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts, dim=0: joined.append(1) or cat(parts, dim))
    with torch.no_grad():
        model.encoder(tokens, None)
    assert len(joined) == 1


@pytest.mark.parametrize("high_levels", [1, 2, 3])
def test_the_low_levels_see_the_last_update_of_the_high_ones_only_afterwards(
    lite_config, high_levels
):
    num_low = sum(h * w for h, w in ((8, 12), (4, 6), (2, 3))[: 4 - high_levels])
    moved = {}
    for low_update in ("joint", "after"):
        model = perturb(build_model(lite_config(low_update=low_update, high_levels=high_levels)))
        tokens = make_tokens(model)
        with torch.no_grad():
            before = model.encoder(tokens, None).memory
            model.encoder.layers[-1].norm2.bias += 1.0
            after = model.encoder(tokens, None).memory
        torch.testing.assert_close(after[:, num_low:], before[:, num_low:] + 1.0)
        moved[low_update] = not torch.equal(after[:, :num_low], before[:, :num_low])
    assert moved == {"joint": False, "after": True}


def test_both_orders_of_the_last_layer_have_the_same_weights(lite_config):
    shapes = [
        {k: v.shape for k, v in build_model(lite_config(low_update=x)).state_dict().items()}
        for x in ("joint", "after")
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("blocks", "full"), [(1, {5}), (2, {2, 5}), (3, {1, 3, 5}), (6, {0, 1, 2, 3, 4, 5})]
)
def test_the_last_layer_of_each_block_updates_the_low_levels(lite_config, blocks, full):
    model = build_model(lite_config(blocks=blocks, **{"ENCODER.NUM_LAYERS": 6}))
    names = model.encoder.state_dict()
    assert {i for i in range(6) if f"layers.{i}.linear12.weight" in names} == full


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize(
    ("family", "levels", "high_levels"),
    [
        ("deformable", 4, 3),
        ("deformable_two_stage", 4, 2),
        ("dn_deformable", 4, 1),
        ("dino", 5, 3),
        ("dino", 3, 3),
    ],
)
def test_every_parameter_gets_a_gradient_with_any_number_of_levels(
    lite_config, make_batch, family, levels, high_levels, counts
):
    model = build_model(lite_config(family, high_levels=high_levels, NUM_LEVELS=levels)).train()
    sum(model(make_batch(counts)).values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_gradient_checkpointing_changes_no_gradient(lite_config):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build_model(lite_config(GRADIENT_CHECKPOINTING=recompute)).double()
        model.encoder(make_tokens(model), None).memory.square().sum().backward()
        gradients.append([p.grad for p in model.encoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"blocks": 4}, ("NUM_LAYERS 6", "MODEL.LITE.NUM_BLOCKS 4")),
        ({"blocks": 0}, ("NUM_LAYERS 6", "MODEL.LITE.NUM_BLOCKS 0")),
        ({"high_levels": 0}, ("MODEL.LITE.NUM_HIGH_LEVELS is 0", "MODEL.DETR.NUM_LEVELS 4")),
        ({"high_levels": 5}, ("MODEL.LITE.NUM_HIGH_LEVELS is 5", "MODEL.DETR.NUM_LEVELS 4")),
        ({"low_update": "late"}, ("MODEL.LITE.LOW_UPDATE is 'late'", "joint, after")),
        (
            {"ENCODER.PROJECTED_KEY": True, "ENCODER.ATTENTION": "deformable"},
            ("MODEL.DETR.ENCODER.PROJECTED_KEY", "MODEL.DETR.ENCODER.ATTENTION key_aware"),
        ),
    ],
)
def test_impossible_schedules_are_refused_with_the_keys_named(lite_config, change, keys):
    cfg = lite_config(**{"ENCODER.NUM_LAYERS": 6, **change})
    with pytest.raises(ValueError, match="MODEL") as refusal:
        validate_config(cfg)
    for key in keys:
        assert key in str(refusal.value)


def test_the_keys_of_the_attention_reach_encoder_and_decoder(lite_config):
    changes = {"ENCODER.PROJECTED_KEY": True, "DECODER.SHARED_OFFSETS": True}
    names = build_model(lite_config(**changes)).state_dict()
    per_level = 4 * 4 * 4 * 2  # Heads, levels, points and coordinates.
    assert "encoder.layers.0.self_attn.key_proj.weight" in names
    assert len(names["encoder.layers.0.self_attn.sampling_offsets.weight"]) == per_level
    assert "decoder.layers.0.cross_attn.key_proj.weight" not in names
    assert len(names["decoder.layers.0.cross_attn.sampling_offsets.weight"]) == per_level // 4
    assert not any("attention_weights" in name for name in names)


@pytest.mark.parametrize("masked", [False, True])
def test_the_mask_of_points_outside_is_that_of_encoder_and_decoder(lite_config, masked):
    model = build_model(lite_config(**{"KEY_AWARE.MASK_OUTSIDE": masked}))
    attentions = [x for x in model.modules() if isinstance(x, KeyAwareAttention)]
    assert len(attentions) == len(model.encoder.layers) + len(model.decoder.layers)
    assert {x.config.mask_outside for x in attentions} == {masked}


def test_autocast_keeps_references_in_full_precision(lite_config, make_batch, monkeypatch):
    dtypes = set()
    original = ops.fused_key_aware_deformable_attention

    def spy(query, key, value, spatial_shapes, reference_points, *rest, **options):
        dtypes.add((query.dtype, value.dtype, reference_points.dtype))
        return original(query, key, value, spatial_shapes, reference_points, *rest, **options)

    monkeypatch.setattr(ops, "fused_key_aware_deformable_attention", spy)
    model = build_model(lite_config()).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(make_batch((3, 1)))
    assert dtypes == {(torch.bfloat16, torch.bfloat16, torch.float32)}
    sum(losses.values()).backward()


def test_hidden_units_and_outputs_of_the_small_feed_forward_are_dropped_apart(lite_config):
    model = build_model(lite_config(**{"ENCODER.NUM_LAYERS": 1, "ENCODER.DROPOUT": 0.5}))
    (layer,) = model.encoder.layers
    # Low tokens are their own norm and attend to nothing; their 16 hidden units are all one.
    for name in ("norm1", "norm22"):
        setattr(layer, name, torch.nn.Identity())
    for parameter, value in (
        (layer.self_attn.output_proj.weight, 0.0),
        (layer.linear12.weight, 0.0),
        (layer.linear12.bias, 1.0),
        (layer.linear22.weight, 1.0),
        (layer.linear22.bias, 0.0),
    ):
        torch.nn.init.constant_(parameter, value)
    tokens = make_tokens(model, [(64, 96)] * 2)
    torch.manual_seed(0)
    with torch.no_grad():
        branch = (model.train().encoder(tokens, None).memory - tokens.features)[:, : 8 * 12]
        assert (branch.round().eq(0)).float().mean().item() == pytest.approx(0.5, abs=0.05)
        # Both dropouts double what they keep: 4 times the number of units that stay, 8 +- 2.
        kept = branch[branch.round() != 0]
        torch.testing.assert_close(kept / 4, (kept / 4).round(), rtol=0, atol=1e-5)
        assert kept.mean().item() == pytest.approx(32, abs=2)
        assert kept.std().item() == pytest.approx(8, abs=1.5)
        branch = (model.eval().encoder(tokens, None).memory - tokens.features)[:, : 8 * 12]
    torch.testing.assert_close(branch, torch.full_like(branch, 16.0))
