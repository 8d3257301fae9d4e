import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from tests.conftest import FAMILIES

from lite_focus_detr.config import load_config

STRIDES = (8, 16, 32, 64)
SIZES = [(64, 96), (96, 128)]
#: Parameters that Lite DETR does not have, on a host without proposals.
ADDED = ("encoder.scorer.", "encoder.dual_attention.", "proposal_head.enc_output")


@pytest.fixture
def config(tiny_config):
    def make(
        architecture="LiteFocusDETR",
        family="dino",
        *,
        ratios=(0.3,),
        high_levels=2,
        low_update="joint",
        attention="key_aware",
        objects=0,
        score="probability",
        **changes,
    ):
        attentions = {"ENCODER.ATTENTION": attention, "DECODER.ATTENTION": attention}
        cfg = tiny_config(family, **{**attentions, **changes})
        cfg.MODEL.META_ARCHITECTURE = architecture
        cfg.MODEL.LITE.NUM_BLOCKS = len(ratios)
        cfg.MODEL.LITE.NUM_HIGH_LEVELS = high_levels
        cfg.MODEL.LITE.LOW_UPDATE = low_update
        cfg.MODEL.LITE_FOCUS.KEEP_RATIOS = list(ratios)
        cfg.MODEL.LITE_FOCUS.OBJECT_TOKENS = objects
        cfg.MODEL.FOCUS.OBJECT_SCORE = score
        return cfg

    return make


def build(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).double().eval()
    for parameter in model.parameters():  # Attention starts uniform, heads start at zero.
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def tokens_of(model, sizes=SIZES):
    torch.manual_seed(1)
    height, width = (max(x) for x in zip(*sizes, strict=True))
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    levels = [torch.randn(len(sizes), 32, *shape).double() for shape in shapes]
    return model.flatten_levels(levels, ImageList(torch.empty(len(sizes), 3, height, width), sizes))


def encode(model, tokens):
    with torch.no_grad():
        return model.encoder(tokens, model.proposal_head)


def load(model, state_dict):
    """Load what another encoder shares, which must be all that the two do not add."""
    result = model.load_state_dict(state_dict, strict=False)
    assert not [name for name in result.missing_keys if not name.startswith(ADDED)]
    assert not [name for name in result.unexpected_keys if not name.startswith(ADDED)]


def num_low(tokens, high_levels=2):
    return sum(height * width for height, width in tokens.spatial_shapes[:-high_levels])


@pytest.mark.parametrize("family", FAMILIES)
def test_keep_ratio_one_equals_lite_detr(config, family):
    hybrid = build(config(family=family, ratios=(1.0, 1.0)))
    lite = build(config("LiteDETR", family, ratios=(1.0, 1.0)))
    load(hybrid, lite.state_dict())
    tokens = tokens_of(hybrid)
    ours, expected = (encode(x, tokens).memory[~tokens.padding_mask] for x in (hybrid, lite))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("low_update", ["joint", "after"])
@pytest.mark.parametrize("attention", ["deformable", "key_aware"])
@pytest.mark.parametrize("high_levels", [1, 2, 3])
def test_a_block_updates_the_kept_low_tokens_as_lite_detr_does(
    config, high_levels, attention, low_update
):
    options = {"high_levels": high_levels, "attention": attention, "low_update": low_update}
    hybrid = build(config(**options))
    lite = build(config("LiteDETR", **options))
    load(hybrid, lite.state_dict())
    tokens = tokens_of(hybrid)
    output, expected = encode(hybrid, tokens), encode(lite, tokens).memory
    selection, low = output.trace.kept[-1], num_low(tokens, high_levels)
    for image, usable in enumerate(selection.within_budget):
        kept = torch.zeros(tokens.features.shape[1], dtype=torch.bool)
        kept[selection.indices[image, usable]] = True
        assert not (kept & tokens.padding_mask[image]).any()
        assert torch.equal(kept[low:], ~tokens.padding_mask[image, low:])
        assert kept[:low].sum() == int(0.3 * (~tokens.padding_mask[image, :low]).sum()) + 1
        torch.testing.assert_close(
            output.memory[image, kept], expected[image, kept], rtol=0, atol=1e-12
        )
        assert torch.equal(
            output.memory[image, :low][~kept[:low]], tokens.features[image, :low][~kept[:low]]
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_all_levels_high_and_plain_attention_equal_the_dense_encoder(config, family):
    hybrid = build(config(family=family, high_levels=4, attention="deformable"))
    dense = build(config("DeformableDETR", family, attention="deformable"))
    load(hybrid, dense.state_dict())
    tokens = tokens_of(hybrid)
    ours, expected = (encode(x, tokens).memory for x in (hybrid, dense))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_the_layers_between_update_the_high_levels_only(config):
    model = build(config(ratios=(0.4, 0.2), objects=5, **{"ENCODER.NUM_LAYERS": 4}))
    tokens = tokens_of(model)
    trace, low = encode(model, tokens).trace, num_low(tokens)
    high = torch.arange(low, tokens.features.shape[1])
    updates_low = [bool((selection.indices < low).any()) for selection in trace.kept]
    assert updates_low == [False, True, False, True]
    for selection in trace.kept:
        assert torch.equal(selection.indices[0, -len(high) :], high)
    assert [x.indices.shape[1] for x in trace.objects] == [0, 5, 0, 5]


def test_each_block_keeps_the_best_low_tokens_of_each_image(config):
    ratios = (0.5, 0.2)
    model = build(config(ratios=ratios))
    tokens = tokens_of(model)
    trace, low = encode(model, tokens).trace, num_low(tokens)
    for ratio, selection in zip(ratios, trace.kept, strict=True):
        for image in range(2):
            inside = ~tokens.padding_mask[image, :low]
            scores = trace.foreground[image, :low].masked_fill(~inside, float("-inf"))
            expected = scores.argsort(descending=True)[: int(ratio * inside.sum()) + 1]
            kept = selection.indices[image, selection.within_budget[image]]
            assert torch.equal(kept[kept < low], expected)


def test_an_image_keeps_as_many_tokens_in_a_batch_as_alone(config):
    model = build(config(ratios=(0.5, 0.1)))
    sizes = [(64, 64), (128, 192)]  # Of whole tokens on all levels.
    batch, alone = (encode(model, tokens_of(model, x)).trace for x in (sizes, sizes[:1]))
    for together, single in zip(batch.kept, alone.kept, strict=True):
        assert single.within_budget is None
        assert together.within_budget[0].sum() == single.indices.shape[1]
    assert batch.budgets[0] == alone.budgets[0] == alone.kept[0].indices.shape[1]


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_object_tokens_are_the_best_of_the_high_levels_and_the_kept_low_tokens(config, score):
    model = build(config(objects=12, score=score, **{"ENCODER.NUM_LAYERS": 1}))
    tokens = tokens_of(model)
    trace = encode(model, tokens).trace
    (kept,), (objects,) = trace.kept, trace.objects
    logits = model.proposal_head.predict_logits(tokens.features).amax(-1)
    foreground = trace.foreground
    if score == "probability":
        logits, foreground = logits.sigmoid(), foreground.sigmoid()
    product = logits * foreground
    for image in range(2):
        candidates = kept.indices[image, kept.within_budget[image]]
        expected = candidates[product[image, candidates].topk(12).indices]
        chosen = kept.indices[image, objects.indices[image]]
        assert objects.within_budget[image].all()
        assert torch.equal(chosen, expected)


def test_object_tokens_see_each_other_before_the_layer(config):
    model = build(config(objects=2, ratios=(0.1,), **{"ENCODER.NUM_LAYERS": 1}))
    tokens = tokens_of(model, SIZES[:1])
    entered = []  # High and low levels.
    layer = model.encoder.layers[0]
    layer.register_forward_pre_hook(lambda _, x: entered.append(x[0].features))
    update_low = layer.update_low
    layer.update_low = lambda low, *rest: entered.append(low.features) or update_low(low, *rest)
    trace = encode(model, tokens).trace
    kept, objects = trace.kept[0], trace.objects[0]
    before, after = kept.gather(tokens.features), torch.cat(entered[::-1], 1)
    changed = (after != before).any(-1)[0]
    assert changed.nonzero()[:, 0].tolist() == sorted(objects.indices[0].tolist())
    rows = objects.indices[0]
    dual = model.encoder.dual_attention["0"]
    content = before[:, rows]
    query = content + kept.gather(tokens.position)[:, rows]
    expected = dual.norm(content + dual.self_attn(query, query, content)[0])
    torch.testing.assert_close(after[:, rows], expected.detach(), rtol=0, atol=1e-12)


def test_dual_attention_is_named_by_its_layer(config):
    cfg = config(ratios=(0.3, 0.3, 0.3), objects=5, **{"ENCODER.NUM_LAYERS": 6})
    assert list(build(cfg).encoder.dual_attention) == ["1", "3", "5"]


def test_no_object_token_is_padding(config):
    model = build(config(objects=300))
    tokens = tokens_of(model, [(32, 40), (128, 128)])
    trace = encode(model, tokens).trace
    kept, objects = trace.kept[-1], trace.objects[-1]
    chosen = kept.indices.gather(1, objects.indices)
    padded = tokens.padding_mask.gather(1, chosen)
    assert not (padded & objects.within_budget).any()
    assert objects.within_budget.sum(1).tolist() == list(trace.budgets)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(config, make_batch, family, counts):
    model = build(config(family=family, objects=5)).float().train()
    losses = model(make_batch(counts))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_the_scores_learn_from_the_foreground_only(config, make_batch):
    model = build(config()).float().train()
    losses = model(make_batch((3, 1)))
    scorer = list(model.encoder.scorer.parameters())
    others = sum(value for name, value in losses.items() if name != "loss_foreground")
    gradients = torch.autograd.grad(others, scorer, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in gradients)
    gradients = torch.autograd.grad(losses["loss_foreground"], scorer)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[1:])


def test_gradient_checkpointing_changes_no_gradient(config):
    gradients = []
    for checkpointing in (False, True):
        model = build(config(objects=5, GRADIENT_CHECKPOINTING=checkpointing))
        output = model.encoder(tokens_of(model), model.proposal_head)
        (output.memory.square().sum() + output.trace.foreground.sum()).backward()
        gradients.append([p.grad for p in model.encoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-9, atol=1e-12)


def test_half_precision_trains(config, make_batch):
    model = build(config(objects=5)).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(make_batch((3, 1)))
    assert all(x.isfinite() for x in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.LITE_FOCUS.KEEP_RATIOS", [0.5]], "LITE_FOCUS.KEEP_RATIOS has 1 entr.*is 3"),
        (["MODEL.LITE_FOCUS.KEEP_RATIOS", [0.1, 0.2, 0.2]], "LITE_FOCUS.KEEP_RATIOS.*not rise"),
        (["MODEL.LITE_FOCUS.KEEP_RATIOS", [1.1, 0.2, 0.2]], r"must lie in \(0, 1\]"),
        (["MODEL.LITE_FOCUS.KEEP_RATIOS", ["0.5", 0.2, 0.2]], r"must be like \[0.5, 0.3, 0.1\]"),
        (["MODEL.LITE_FOCUS.OBJECT_TOKENS", -1], "LITE_FOCUS.OBJECT_TOKENS is -1; .* at least 0"),
        (
            ["MODEL.LITE.NUM_BLOCKS", 4, "MODEL.LITE_FOCUS.KEEP_RATIOS", [0.5] * 4],
            "MODEL.LITE.NUM_BLOCKS 4 equal blocks",
        ),
        (["MODEL.LITE.LOW_UPDATE", "late"], "MODEL.LITE.LOW_UPDATE is 'late'"),
        (["MODEL.FOCUS.SCALE_RANGES", [[-1, 64]]], "SCALE_RANGES has 1 entries"),
        (["MODEL.FOCUS.DISTANCE", "center"], "DISTANCE is 'center'"),
        (["MODEL.FOCUS.OBJECT_SCORE", "both"], "OBJECT_SCORE is 'both'"),
        (["MODEL.FOCUS.LOSS_WEIGHT", -0.5], "LOSS_WEIGHT is -0.5; .* at least 0"),
    ],
)
def test_impossible_mixtures_are_refused_with_the_keys_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_config("", ["MODEL.META_ARCHITECTURE", "LiteFocusDETR", *options])


def test_the_defaults_are_valid():
    assert load_config("", ["MODEL.META_ARCHITECTURE", "LiteFocusDETR"]).MODEL.LITE_FOCUS
