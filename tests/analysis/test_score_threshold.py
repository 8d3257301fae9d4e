import contextlib
import io
import itertools
import random

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lite_focus_detr.analysis.score_threshold import best_score_threshold


def evaluate(objects, detections, *, keep_matches=True):
    """pycocotools' evaluation of (image, class, box[, crowd]) and (image, class, box, score)."""
    images = sorted({x[0] for x in [*objects, *detections]})
    classes = sorted({x[1] for x in [*objects, *detections]})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": label} for label in classes],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": int(bool(crowd)),
            }
            for number, (image, label, box, *crowd) in enumerate(objects, 1)
        ],
    }
    results = [
        {"image_id": image, "category_id": label, "bbox": list(box), "score": score}
        for image, label, box, score in detections
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        coco_eval = COCOeval(coco, coco.loadRes(results), "bbox")
        coco_eval.evaluate()
    if not keep_matches:
        coco_eval.evalImgs = []
    return coco_eval


def iou(first, second):
    (x0, y0, w0, h0), (x1, y1, w1, h1) = first, second
    width = min(x0 + w0, x1 + w1) - max(x0, x1)
    height = min(y0 + h0, y1 + h1) - max(y0, y1)
    shared = max(width, 0) * max(height, 0)
    return shared / (w0 * h0 + w1 * h1 - shared)


def found(objects, detections):
    """How many detections find an object: the best first, each the object that fits best."""
    free, count = list(objects), 0
    for box, _ in sorted(detections, key=lambda x: -x[1]):
        best = max(free, key=lambda other: iou(box, other), default=None)
        if best is not None and iou(box, best) >= 0.5:
            free.remove(best)
            count += 1
    return count


def brute_force(objects, detections):
    """Greatest F1 over all scores as least scores, and the highest of the scores that have it."""
    keys = set(itertools.product({x[0] for x in objects}, {x[1] for x in objects}))
    rows = []
    for least in {score for *_, score in detections}:
        kept = [x for x in detections if x[3] >= least]
        right = sum(
            found(
                [box for image, label, box in objects if (image, label) == key],
                [(box, score) for image, label, box, score in kept if (image, label) == key],
            )
            for key in keys
        )
        rows.append((2 * right / (len(kept) + len(objects)), least))
    return max(rows)


def scene(seed):
    random.seed(seed)

    def box():
        return (random.uniform(0, 80), random.uniform(0, 80), *random.sample(range(8, 40), 2))

    objects = [(image, label, box()) for image in range(1, 5) for label in (1, 2) for _ in range(3)]
    detections = []
    for image, label, (x, y, w, h) in objects:
        for _ in range(2):
            x, y = x + random.uniform(-5, 5), y + random.uniform(-5, 5)
            # Few different scores, so that there are ties.
            detections.append((image, label, (x, y, w, h), random.randint(1, 12) / 16))
    detections += [(image, 1, box(), random.randint(1, 8) / 16) for image in range(1, 5)]
    return objects, detections


@pytest.mark.parametrize("keep_matches", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_is_that_of_a_brute_force(seed, keep_matches):
    objects, detections = scene(seed)
    best = best_score_threshold(evaluate(objects, detections, keep_matches=keep_matches))
    f1, least = brute_force(objects, detections)
    assert best.f1 == pytest.approx(f1)
    assert best.score == least


BOX = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 10.0, 10.0)


def test_precision_and_recall_are_those_at_the_threshold():
    objects = [(1, 1, BOX), (2, 1, BOX), (3, 1, BOX), (4, 1, BOX)]
    detections = [(1, 1, BOX, 0.9), (2, 1, FAR, 0.8), (2, 1, BOX, 0.7), (4, 1, FAR, 0.1)]
    best = best_score_threshold(evaluate(objects, detections))
    assert best == (0.7, pytest.approx(2 / 3), 0.5)
    assert best.f1 == pytest.approx(4 / 7)


def test_crowds_are_neither_to_be_found_nor_a_mistake_to_find():
    crowd = (50.0, 50.0, 40.0, 40.0)
    objects = [(1, 1, BOX), (1, 1, crowd, True)]
    detections = [(1, 1, (60.0, 60.0, 9.0, 9.0), 0.9), (1, 1, BOX, 0.4)]
    assert best_score_threshold(evaluate(objects, detections)) == (0.4, 1.0, 1.0)


@pytest.mark.parametrize("objects", [[(1, 1, BOX)], [(1, 1, FAR, True)]])
def test_where_nothing_is_found_there_is_no_threshold(objects):
    detections = [(1, 1, (30.0, 0.0, 10.0, 10.0), 0.5)]
    assert best_score_threshold(evaluate(objects, detections)) is None


def test_scores_of_single_precision_keep_their_bits():
    score = float(np.float32(0.3))
    assert best_score_threshold(evaluate([(1, 1, BOX)], [(1, 1, BOX, score)])).score == score
