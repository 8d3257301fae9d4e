from collections import Counter
from itertools import permutations

import pytest
import torch
from detectron2.utils.events import EventStorage

from lite_focus_detr.modeling import replaced_values
from lite_focus_detr.modeling.matcher import HungarianMatcher
from lite_focus_detr.modeling.structures import Prediction, Targets

MATCHER = HungarianMatcher(class_cost=2.0, box_cost=5.0, giou_cost=2.0)


def problem(num_queries=5, counts=(3, 0, 2), seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(counts), num_queries, 4, generator=random)
    boxes = torch.rand(len(counts), num_queries, 4, generator=random) * 0.4 + 0.1
    truth = torch.rand(len(counts), max(counts), 4, generator=random) * 0.4 + 0.1
    labels = torch.randint(4, (len(counts), max(counts)), generator=random)
    return Prediction(logits, boxes), Targets(labels, truth, counts)


def pair_cost(logits, box, label, truth):
    """The cost of one pair from its definition, in plain Python."""
    p = 1 / (1 + torch.exp(-logits[label]).item())
    hit = -0.25 * (1 - p) ** 2 * torch.tensor(p + 1e-8).log().item()
    miss = -0.75 * p**2 * torch.tensor(1 - p + 1e-8).log().item()
    a = [box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2]
    b = [
        truth[0] - truth[2] / 2,
        truth[1] - truth[3] / 2,
        truth[0] + truth[2] / 2,
        truth[1] + truth[3] / 2,
    ]
    area = lambda r: max(r[2] - r[0], 0) * max(r[3] - r[1], 0)  # noqa: E731
    inner = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    outer = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - inner
    giou = inner / union - (outer - union) / outer
    l1 = sum(abs(x - y) for x, y in zip(box, truth, strict=True))
    return 2 * (hit - miss) + 5 * l1 - 2 * giou


def test_the_cost_is_that_of_the_definition():
    prediction, targets = problem()
    cost = MATCHER.cost(prediction, targets)
    for image, count in enumerate(targets.counts):
        for query in range(5):
            for target in range(count):
                expected = pair_cost(
                    prediction.logits[image, query],
                    prediction.boxes[image, query].tolist(),
                    targets.labels[image, target],
                    targets.boxes[image, target].tolist(),
                )
                assert cost[image, query, target].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all(seed):
    prediction, targets = problem(seed=seed)
    cost = MATCHER.cost(prediction, targets)
    (match,) = MATCHER([prediction], [targets])
    for image, count in enumerate(targets.counts):
        best = min(
            sum(cost[image, query, target].item() for target, query in enumerate(queries))
            for queries in permutations(range(5), count)
        )
        chosen = match.batch == image
        found = cost[image, match.query[chosen], match.target[chosen]].sum().item()
        assert sorted(match.target[chosen].tolist()) == list(range(count))
        assert found == pytest.approx(best, abs=1e-5)


def test_all_layers_and_images_take_one_transfer_from_the_device(monkeypatch):
    transfers = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: transfers.append(x.numel()) or original(x))
    prediction, targets = problem()
    wide, _ = problem(num_queries=9)
    matches = MATCHER([prediction, wide, prediction], [targets] * 3)
    assert transfers == [(5 + 9 + 5) * 3 * 3]
    assert [len(match.query) for match in matches] == [5, 5, 5]


def test_predictions_that_are_not_numbers_still_get_an_assignment():
    prediction, targets = problem()
    prediction.boxes[0, 1] = float("nan")
    prediction.logits[2, 3] = float("inf")
    (match,) = MATCHER([prediction], [targets])
    assert len(match.query) == 5
    assert 1 not in match.query[match.batch == 0].tolist()


@pytest.mark.fault(area="training", expected="repaired")
def test_costs_that_are_replaced_are_counted_and_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(replaced_values, "totals", Counter())
    prediction, targets = problem()
    MATCHER([prediction], [targets])
    assert replaced_values.totals == {}
    prediction.boxes[0, 1] = float("nan")
    with EventStorage() as storage:
        for _ in range(2):
            MATCHER([prediction, prediction], [targets, targets])
    # A query of the first image against its padded boxes, in two sets of predictions, twice.
    count = 2 * 2 * targets.boxes.shape[1]
    assert replaced_values.totals == {"matching_costs": count}
    assert storage.latest()["nonfinite/matching_costs"][0] == count
    (message,) = caplog.messages
    assert message.startswith(f"{count // 2} costs of the matching are not finite")


def test_more_boxes_than_queries_leave_boxes_unmatched():
    prediction, targets = problem(num_queries=2)
    (match,) = MATCHER([prediction], [targets])
    assert len(match.query) == 4


def test_every_cost_is_that_of_its_own_key(tiny_config):
    cfg = tiny_config()
    costs = cfg.MODEL.DETR.MATCHER
    costs.CLASS_COST, costs.BOX_COST, costs.GIOU_COST = 0.5, 0.6, 0.7
    expected = HungarianMatcher(class_cost=0.5, box_cost=0.6, giou_cost=0.7)
    assert HungarianMatcher.from_config(cfg) == expected
