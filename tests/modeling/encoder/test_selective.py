"""What holds for Focus-DETR and Sparse DETR alike, on every host."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from tests.conftest import FAMILIES

ARCHITECTURES = ["FocusDETR", "SparseDETR"]
SIZES = [(64, 96), (96, 128)]


@pytest.fixture
def config(tiny_config):
    def make(architecture, family="dino", **focus):
        cfg = tiny_config(family)
        cfg.MODEL.META_ARCHITECTURE = architecture
        cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
        cfg.MODEL.FOCUS.OBJECT_TOKENS = 10
        cfg.MODEL.FOCUS.merge_from_list([x for pair in focus.items() for x in pair])
        return cfg

    return make


def build(cfg, seed=0):
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    for parameter in model.parameters():  # Attention starts uniform, heads start at zero.
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def tokens_of(model, sizes=SIZES):
    torch.manual_seed(1)
    height, width = (max(x) for x in zip(*sizes, strict=True))
    levels = [
        torch.randn(len(sizes), 32, -(-height // stride), -(-width // stride))
        for stride in (8, 16, 32, 64)
    ]
    return model.flatten_levels(levels, ImageList(torch.empty(len(sizes), 3, height, width), sizes))


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_gets_a_gradient(config, make_batch, architecture, family, counts):
    cfg = config(architecture, family)
    cfg.MODEL.SPARSE.OBJECT_TOKENS = 5
    model = build(cfg).train()
    losses = model(make_batch(counts))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_names_do_not_depend_on_the_ground_truth(config, make_batch, architecture):
    model = build(config(architecture)).train()
    assert model(make_batch((3, 1))).keys() == model(make_batch((0, 0))).keys()


@pytest.mark.parametrize(
    ("architecture", "section", "name"),
    [("FocusDETR", "FOCUS", "loss_foreground"), ("SparseDETR", "SPARSE", "loss_dam")],
)
def test_the_loss_of_the_scores_has_its_weight(config, make_batch, architecture, section, name):
    losses = []
    for weight in (1.0, 2.5):
        cfg = config(architecture)
        cfg.MODEL[section].LOSS_WEIGHT = weight
        torch.manual_seed(2)
        losses.append(build(cfg).train()(make_batch((3, 1)))[name].item())
    assert losses[1] == pytest.approx(2.5 * losses[0], rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keep_ratio_one_equals_the_dense_encoder(config, architecture):
    cfg = config(architecture, VALUE="updated", OBJECT_TOKENS=0, KEEP_RATIOS=[1.0, 1.0])
    cfg.MODEL.SPARSE.KEEP_RATIO = 1.0
    model = build(cfg).double()
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "DeformableDETR"
    dense = build(cfg).double()
    dense.encoder.load_state_dict(
        {k: v for k, v in model.encoder.state_dict().items() if k.startswith("layers.")}
    )
    tokens = tokens_of(model)
    tokens = tokens._replace(features=tokens.features.double(), position=tokens.position.double())
    ours = model.encoder(tokens, model.proposal_head).memory
    expected = dense.encoder(tokens, None).memory
    inside = ~tokens.padding_mask
    torch.testing.assert_close(ours[inside], expected[inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_that_no_layer_keeps_come_out_bit_identical(config, architecture):
    model = build(config(architecture))
    tokens = tokens_of(model)
    output = model.encoder(tokens, model.proposal_head)
    first = output.trace.kept[0]
    for image, budget in enumerate(output.trace.budgets):
        kept = torch.zeros(tokens.features.shape[1], dtype=torch.bool)
        kept[first.indices[image, :budget]] = True
        assert torch.equal(output.memory[image, ~kept], tokens.features[image, ~kept])
        changed = (output.memory[image] != tokens.features[image]).any(-1)
        assert torch.equal(changed, kept)


def test_each_layer_keeps_the_best_of_the_layer_before(config):
    model = build(config("FocusDETR"))
    first, second = model.encoder(tokens_of(model), model.proposal_head).trace.kept
    assert second.indices.shape[1] < first.indices.shape[1]
    assert torch.equal(second.indices, first.indices[:, : second.indices.shape[1]])


def test_a_token_dropped_by_a_later_layer_keeps_its_last_value(config):
    model = build(config("FocusDETR"))
    tokens = tokens_of(model)
    output = model.encoder(tokens, model.proposal_head)
    first, second = output.trace.kept
    count = second.indices.shape[1]
    dropped = first.indices[1, count : output.trace.budgets[1]]
    rows = output.trace.features[0][1, count : output.trace.budgets[1]]
    assert torch.equal(output.memory[1, dropped], rows)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_no_object_token_is_padding(config, ratio):
    settings = {"OBJECT_SCORE": "probability", "KEEP_RATIOS": [ratio, ratio]}
    model = build(config("FocusDETR", OBJECT_TOKENS=60, **settings))
    # 20 + 6 + 2 + 1 tokens in the first.
    tokens = tokens_of(model, [(32, 40), (128, 128)])
    output = model.encoder(tokens, model.proposal_head)
    for kept, objects in zip(output.trace.kept, output.trace.objects, strict=True):
        chosen = kept.indices.gather(1, objects.indices)
        padded = tokens.padding_mask.gather(1, chosen)
        usable = torch.ones_like(padded) if objects.within_budget is None else objects.within_budget
        assert not (padded & usable).any()
        assert usable.sum(1).tolist() == [min(60, output.trace.budgets[0]), 60]
        assert (objects.indices < torch.tensor(output.trace.budgets)[:, None])[usable].all()
    assert output.memory.isfinite().all()


@pytest.mark.parametrize(("score", "beyond"), [("logit", True), ("probability", False)])
def test_rows_beyond_a_budget_are_objects_only_as_published(config, score, beyond):
    model = build(config("FocusDETR", OBJECT_SCORE=score, OBJECT_TOKENS=60)).train()
    # Two negative logits have a high product: the released score prefers the least foreground.
    model.encoder.scorer.layer2[-1].bias.data -= 5
    tokens = tokens_of(model, [(64, 64), (128, 128)])
    output = model.encoder(tokens, model.proposal_head)
    objects = output.trace.objects[0]
    usable = slice(None) if objects.within_budget is None else objects.within_budget[0]
    assert (objects.indices[0, usable] >= output.trace.budgets[0]).any() == beyond


def test_rows_beyond_a_budget_start_afresh_in_every_layer(config):
    model = build(config("FocusDETR", OBJECT_TOKENS=0))
    tokens = tokens_of(model, [(64, 64), (128, 128)])
    seen = []
    for layer in model.encoder.layers:
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].features))
    output = model.encoder(tokens, model.proposal_head)
    budget = output.trace.budgets[0]
    indices = output.trace.kept[1].indices[0, budget:]
    assert len(indices) > 0
    assert torch.equal(seen[1][0, budget:], tokens.features[0, indices])


def test_object_tokens_of_a_small_image_are_all_of_its_tokens(config):
    model = build(config("FocusDETR", OBJECT_TOKENS=300))
    output = model.encoder(tokens_of(model, [(32, 32)]), model.proposal_head)
    assert [x.indices.shape[1] for x in output.trace.objects] == [
        x.indices.shape[1] for x in output.trace.kept
    ]


def test_objects_have_the_highest_product_of_class_and_foreground(config):
    for mode in ("logit", "probability"):
        model = build(config("FocusDETR", OBJECT_SCORE=mode, OBJECT_TOKENS=10))
        tokens = tokens_of(model, [(96, 128)])
        output = model.encoder(tokens, model.proposal_head)
        kept, objects = output.trace.kept[0], output.trace.objects[0]
        logits = model.proposal_head.predict_logits(kept.gather(tokens.features)).amax(-1)
        foreground = output.trace.foreground.gather(1, kept.indices)
        if mode == "probability":
            logits, foreground = logits.sigmoid(), foreground.sigmoid()
        expected = (logits * foreground).topk(10).indices
        assert torch.equal(objects.indices.sort().values, expected.sort().values)


def test_padding_that_competes_to_be_an_object_has_the_lowest_score_of_the_batch(config):
    model = build(config("FocusDETR", OBJECT_SCORE="logit", OBJECT_TOKENS=40)).train()
    head = model.proposal_head.class_embed
    head.weight.data, head.bias.data = 10 * head.weight.data, torch.zeros(7)  # Of either sign.
    # The first image has 29 tokens, which are fewer than half of those of the second.
    tokens = tokens_of(model, [(32, 40), (128, 128)])
    output = model.encoder(tokens, model.proposal_head)
    kept, objects = output.trace.kept[0], output.trace.objects[0]
    assert tokens.padding_mask.gather(1, kept.indices)[0].any()
    foreground = output.trace.foreground.clone()
    foreground[tokens.padding_mask] = foreground.min()
    logits = head(kept.gather(tokens.features)).amax(-1)
    expected = (logits * foreground.gather(1, kept.indices)).topk(40).indices
    padded = tokens.padding_mask.gather(1, kept.indices.gather(1, expected))[0]
    assert padded.any()
    assert not padded.all()
    assert torch.equal(objects.indices.sort().values, expected.sort().values)


@pytest.mark.parametrize("family", ["deformable", "dn_deformable"])
def test_learned_queries_borrow_the_last_class_head_of_the_decoder(config, family):
    model = build(config("FocusDETR", family))
    assert model.proposal_head.shared_class_embed[0] is model.heads.class_embed[-1]
    assert not [name for name in model.state_dict() if name.startswith("proposal_head.class")]
    twin = copy.deepcopy(model)
    assert twin.proposal_head.shared_class_embed[0] is twin.heads.class_embed[-1]


def test_half_precision_trains(config, make_batch):
    for architecture in ARCHITECTURES:
        model = build(config(architecture)).train()
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(make_batch((3, 1)))
        assert all(x.isfinite() for x in losses.values())
        sum(losses.values()).backward()


def test_the_dual_attention_has_the_dropout_of_the_encoder(config):
    cfg = config("FocusDETR")
    cfg.MODEL.DETR.ENCODER.DROPOUT, cfg.MODEL.DETR.DECODER.DROPOUT = 0.3, 0.2
    for attention in build(cfg).encoder.dual_attention:
        assert (attention.dropout.p, attention.self_attn.dropout) == (0.3, 0.3)
