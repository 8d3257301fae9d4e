import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.config import load_config
from lite_focus_detr.modeling.encoder.sparse import attention_loss, decoder_attention


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = "SparseDETR"
    return build_model(cfg).train()


def test_all_layers_update_the_same_tokens(model, make_batch):
    images = model.preprocess_image(make_batch((1, 1)))
    kept = model.encoder(model.build_tokens(images), model.proposal_head).trace.kept
    assert all(torch.equal(layer.indices, kept[0].indices) for layer in kept)


def test_encoder_layers_but_the_last_predict_in_training_only(model, make_batch):
    tokens = model.build_tokens(model.preprocess_image(make_batch((1, 1))))
    (prediction,) = model.encoder(tokens, model.proposal_head).predictions
    assert (
        prediction.boxes.shape[1]
        == model.encoder(tokens, model.proposal_head).trace.kept[0].indices.shape[1]
    )
    model.eval()
    assert model.encoder(tokens, model.proposal_head).predictions == ()


# As many as are configured, also where the training has another budget.
@pytest.mark.parametrize("budget", [None, 1.0])
def test_scores_learn_the_tokens_that_the_decoder_looks_at(model, make_batch, budget):
    images = model.preprocess_image(make_batch((1, 1)))
    tokens = model.build_tokens(images)
    budgets = model.encoder(tokens, model.proposal_head).trace.budgets
    model.set_budget(budget)
    outputs = model.forward_outputs(images, return_sampling=True)
    encoded, sampling = outputs.encoder, outputs.sampling
    loss = model.encoder.losses(encoded, tokens, None, sampling)["loss_dam"]
    attention = decoder_attention(sampling, tokens)
    logits = encoded.trace.foreground
    logits = torch.where(tokens.padding_mask, logits.min(), logits)
    total = torch.zeros(())
    for image, count in enumerate(budgets):
        scores = attention[image].masked_fill(tokens.padding_mask[image], -1)
        best = set(scores.argsort(descending=True)[:count].tolist())
        for token, logit in enumerate(logits[image]):
            total = total + (1 + (-logit if token in best else logit).exp()).log()
    torch.testing.assert_close(loss, total / logits.numel())


def test_attention_is_learned_as_a_distribution():
    attention = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 2.0, 2.0, 0.0]])
    padding = torch.tensor([[False, False, False, True], [False, False, False, False]])
    logits = torch.tensor([[1.0, 2.0, 3.0, 50.0], [0.0, -1.0, 0.5, 2.0]], requires_grad=True)
    for proposals in (None, torch.tensor([[2, 0], [3, 1]])):
        expected = 0.0
        for image in range(2):
            count = 3 if image == 0 else 4
            shares = (attention[image] / 4).tolist()
            for token in () if proposals is None else proposals[image].tolist():
                shares[token] += 0.25
            total = logits[image, :count].exp().sum().log()
            expected += sum(shares[i] * (total - logits[image, i]) for i in range(count)) / 2
        loss = attention_loss(logits, attention, proposals, padding)
        torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad[0, 3] == 0
    assert torch.isfinite(logits.grad).all()


def test_what_becomes_a_query_is_learned_as_well(tiny_config, make_batch):
    torch.manual_seed(0)
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SPARSE.TARGET = "SparseDETR", "attention"
    model = build_model(cfg).train()
    seen, losses = [], model.encoder.losses

    def spy(output, tokens, targets, sampling):
        seen.append((output, tokens, decoder_attention(sampling, tokens)))
        return losses(output, tokens, targets, sampling)

    model.encoder.losses = spy
    loss = model(make_batch((2, 1)))["loss_dam"]
    ((output, tokens, attention),) = seen
    assert output.proposal_indices.shape == (2, cfg.MODEL.DETR.NUM_QUERIES)
    assert attention[tokens.padding_mask].sum() > 0
    attention = attention.masked_fill(tokens.padding_mask, 0.0)
    scores = (output.trace.foreground, attention, output.proposal_indices, tokens.padding_mask)
    torch.testing.assert_close(loss, attention_loss(*scores))


def test_denoising_queries_are_not_looked_at(model, make_batch):
    batch = make_batch((3, 1))
    seen = []
    losses = model.encoder.losses

    def spy(output, tokens, targets, sampling):
        seen.extend(x.weights.shape[1] for x in sampling)
        return losses(output, tokens, targets, sampling)

    model.encoder.losses = spy
    model(batch)
    assert seen == [20, 20]


def test_the_decoder_is_not_watched_by_encoders_that_do_not_ask(tiny_config, make_batch):
    model = build_model(tiny_config("dino")).train()
    seen = []
    model.encoder.losses = lambda *arguments: seen.append(arguments[-1]) or {}
    model(make_batch((1, 1)))
    assert seen == [[]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.SPARSE.OBJECT_TOKENS", -3], "OBJECT_TOKENS is -3; .* at least 0"),
        (["MODEL.SPARSE.KEEP_RATIO", 0.0], r"KEEP_RATIO is 0.0; it must lie in \(0, 1\]"),
        (["MODEL.DETR.DECODER.ATTENTION", "key_aware"], "SparseDETR learns from"),
        (["MODEL.SPARSE.SCORER_KERNEL_SIZE", 2], "SCORER_KERNEL_SIZE is 2; it must be odd"),
        (["MODEL.SPARSE.TARGET", "boxes"], "TARGET"),
    ],
)
def test_impossible_mixtures_are_refused_with_the_keys_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_config("", ["MODEL.META_ARCHITECTURE", "SparseDETR", *options])


def test_the_defaults_are_valid():
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", "SparseDETR"])
    assert 0 < cfg.MODEL.SPARSE.KEEP_RATIO <= 1


def test_the_loss_has_its_weight(model, make_batch):
    losses = []
    for weight in (1.0, 3.0):
        model.encoder.loss_weight = weight
        torch.manual_seed(0)
        losses.append(model(make_batch((3, 1)))["loss_dam"].item())
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)
