import pytest
import torch

from lite_focus_detr.modeling.denoising import Denoising, DenoisingConfig, Noise
from lite_focus_detr.modeling.structures import DecoderOutput, Prediction, Queries, Targets


def denoising(contrastive, **changes):
    arguments = {
        "num_classes": 5,
        "embed_dim": 8,
        "num": 12 if contrastive else 3,
        "label_noise": 0.25,
        "box_noise": 1.0,
        "max_queries": 100,
        "inverse_sigmoid_eps": 1e-3,
    }
    return Denoising(DenoisingConfig(contrastive=contrastive, **{**arguments, **changes}))


def targets(*counts):
    random = torch.Generator().manual_seed(0)
    shape = (len(counts), max(counts))
    boxes = torch.rand(*shape, 4, generator=random) * 0.2 + 0.3
    return Targets(torch.randint(5, shape, generator=random), boxes, counts)


def test_contrastive_groups_share_the_number_of_boxes():
    queries = denoising(True)(targets(2, 3), num_queries=4)
    # 12 // 3 groups of 3 positives and 3 negatives.
    assert queries.num_groups == 4
    assert queries.content.shape == (2, 24, 8)
    assert queries.attn_mask.shape == (28, 28)


def test_plain_denoising_has_a_fixed_number_of_groups_and_marks_its_queries():
    queries = denoising(False)(targets(2, 3), num_queries=4)
    assert queries.num_groups == 3
    assert queries.content.shape == (2, 9, 8)
    # One in the last channel, zero in the empty slot of the first image.
    assert queries.content[0, :, -1].tolist() == [1, 1, 0] * 3
    assert queries.content[1, :, -1].tolist() == [1] * 9


@pytest.mark.parametrize("contrastive", [True, False])
def test_no_query_sees_another_group_and_ordinary_ones_see_no_ground_truth(contrastive):
    queries = denoising(contrastive)(targets(2, 3), num_queries=4)
    count = queries.content.shape[1]
    size = count // queries.num_groups
    for row in range(count + 4):
        for column in range(count + 4):
            same_group = row < count and column < count and row // size == column // size
            visible = same_group or column >= count
            assert queries.attn_mask[row, column].item() != visible


def test_matches_are_the_positive_queries_of_each_group():
    queries = denoising(True)(targets(1, 2), num_queries=4)
    # 12 // 2 groups of 2 slots for positives, then 2 for negatives.
    expected = [(0, 4 * g, 0) for g in range(6)]
    expected += [(1, 4 * g + t, t) for g in range(6) for t in range(2)]
    assert list(zip(*(x.tolist() for x in queries.matches), strict=True)) == expected


def test_positives_move_by_less_than_half_their_size_and_negatives_by_more():
    module = denoising(True)
    draw = module.sample_noise
    # Outwards, so that the corners of negatives do not pass each other.
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    module.sample_noise = lambda *args: draw(*args)._replace(box_sign=outwards.expand(40, 4))
    truth = targets(2, 3)
    queries = module(truth, num_queries=4)
    boxes = queries.reference_points[1].view(4, 2, 3, 4)  # (groups, part, slot, cxcywh)
    corners = torch.cat(
        (boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1
    )
    truth = truth.boxes[1]
    expected = torch.cat((truth[:, :2] - truth[:, 2:] / 2, truth[:, :2] + truth[:, 2:] / 2), -1)
    moved = (corners - expected).abs() / (truth[:, 2:].repeat(1, 2) / 2)
    assert (moved[:, 0] <= 1 + 1e-4).all()
    clipped = (corners < 2e-3) | (corners > 1 - 2e-3)
    assert ((moved[:, 1] >= 1 - 1e-4) | clipped[:, 1]).all()
    assert (moved[:, 1] <= 2 + 1e-4).all()


def test_plain_noise_moves_the_centre_by_half_the_size_and_the_size_by_all_of_it():
    module = denoising(False, num=1, label_noise=0.0, box_noise=0.4)
    truth = Targets(torch.tensor([[1]]), torch.tensor([[[0.5, 0.5, 0.2, 0.3]]]), (1,))
    shift = torch.tensor([[1.0, 0.0, 0.75, 0.5]])
    module.sample_noise = lambda count, device: Noise(
        torch.ones(1), torch.zeros(1).long(), shift, shift
    )
    box = module(truth, num_queries=1).reference_points[0, 0]
    # u = 1, 0, 0.75, 0.5 is a factor of 1, -1, 0.5, 0.
    expected = [0.5 + 0.1 * 0.4, 0.5 - 0.15 * 0.4, 0.2 + 0.2 * 0.4 * 0.5, 0.3]
    assert box.tolist() == pytest.approx(expected, abs=1e-5)


def test_labels_change_with_the_given_probability_only():
    module = denoising(True, num=1, label_noise=0.25)
    truth = Targets(torch.tensor([[1, 1]]), torch.full((1, 2, 4), 0.5), (2,))
    noise = Noise(
        torch.tensor([0.2, 0.3, 0.25, 0.0]),
        torch.full((4,), 4),
        torch.ones(4, 4),
        torch.zeros(4, 4),
    )
    module.sample_noise = lambda count, device: noise
    content = module(truth, num_queries=1).content[0]
    weight = module.label_enc.weight
    torch.testing.assert_close(content, weight[torch.tensor([4, 1, 1, 4])])


@pytest.mark.parametrize("contrastive", [True, False])
@pytest.mark.parametrize("most", [1, 7, 30, 400])
def test_the_number_of_queries_is_capped(contrastive, most):
    queries = denoising(contrastive, max_queries=20)(targets(1, most), num_queries=4)
    assert queries.content.shape[1] <= 20
    assert queries.matches.target.max() < most


@pytest.mark.parametrize("contrastive", [True, False])
def test_a_batch_without_boxes_has_no_queries_but_a_gradient(contrastive):
    module = denoising(contrastive)
    empty = Targets(torch.zeros(2, 0).long(), torch.zeros(2, 0, 4), (0, 0))
    queries = module(empty, num_queries=4)
    assert queries.content.shape == (2, 0, 8)
    assert not queries.attn_mask.any()
    queries.content.sum().backward()
    assert module.label_enc.weight.grad is not None


@pytest.mark.parametrize("contrastive", [True, False])
def test_they_come_before_the_other_queries_and_are_never_padding(contrastive):
    noised = denoising(contrastive)(targets(2, 3), num_queries=4)
    count = noised.content.shape[1]
    mask = torch.tensor([[False, False, False, True], [False] * 4])
    others = Queries(torch.randn(2, 4, 8), None, torch.rand(2, 4, 4), mask)
    joined = noised.prepend_to(others)
    for name in ("content", "reference_points"):
        assert torch.equal(getattr(joined, name)[:, :count], getattr(noised, name))
        assert torch.equal(getattr(joined, name)[:, count:], getattr(others, name))
    assert not joined.padding_mask[:, :count].any()
    assert torch.equal(joined.padding_mask[:, count:], mask)
    layer = Prediction(torch.randn(2, count + 4, 5), torch.rand(2, count + 4, 4))
    (first,), output = noised.split(DecoderOutput([layer], []))
    (rest,) = output.predictions
    for part, rows in ((first, slice(count)), (rest, slice(count, None))):
        assert torch.equal(part.logits, layer.logits[:, rows])
        assert torch.equal(part.boxes, layer.boxes[:, rows])


@pytest.mark.parametrize("contrastive", [True, False])
def test_noise_is_uniform_in_all_labels_and_in_both_directions(contrastive):
    torch.manual_seed(0)
    noise = denoising(contrastive).sample_noise(10_000, torch.device("cpu"))
    labels = 5 if contrastive else 6  # Plain denoising has one for "no label", too.
    shares = noise.new_label.bincount() / 10_000
    assert shares.tolist() == pytest.approx([1 / labels] * labels, abs=0.02)
    for draw in (noise.label_chance, noise.box_shift):
        assert draw.min() >= 0
        assert draw.max() < 1
        for bound in (0.25, 0.5, 0.75):
            assert (draw < bound).float().mean().item() == pytest.approx(bound, abs=0.02)
    # All four sides move by themselves.
    assert set(noise.box_sign.unique().tolist()) == {-1.0, 1.0}
    assert noise.box_shift.shape == noise.box_sign.shape == (10_000, 4)
    expected = torch.eye(4)
    torch.testing.assert_close(noise.box_sign.T @ noise.box_sign / 1e4, expected, rtol=0, atol=0.05)
    assert noise.box_sign.mean(0).tolist() == pytest.approx([0.0] * 4, abs=0.05)
    torch.testing.assert_close(noise.box_shift.T.corrcoef(), expected, rtol=0, atol=0.05)
