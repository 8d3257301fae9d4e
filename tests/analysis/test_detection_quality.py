import contextlib
import io
import math
import random
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lite_focus_detr.analysis.detection_quality import analyze_detections

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
RECALLS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def dataset(objects, num_images=2, names=("cell", "plate")):
    """Of (image id, class number, box[, crowd])."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 200, "height": 200}
            for i in range(1, num_images + 1)
        ],
        "categories": [{"id": 3 * i, "name": name} for i, name in enumerate(names, 1)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 3 * label,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": int(any(crowd)),
            }
            for number, (image, label, box, *crowd) in enumerate(objects, 1)
        ],
    }


def found(*detections):
    """Of (image id, class number, box, score)."""
    result = {}
    for image, label, box, score in detections:
        entry = {"category_id": 3 * label, "bbox": list(box), "score": score}
        result.setdefault(image, []).append(entry)
    return result


def random_scene(seed, num_images=12):
    random.seed(seed)
    objects, detections = [], []
    for image in range(1, num_images + 1):
        for _ in range(random.randint(0, 8)):
            label, size = random.choice((1, 2)), random.choice((12, 50, 120))
            box = [random.uniform(0, 80), random.uniform(0, 80), size, size * 0.8]
            objects.append((image, label, box, random.random() < 0.1))
            for _ in range(random.randint(0, 3)):
                moved = [value + random.gauss(0, size / 12) for value in box]
                taken = label if random.random() < 0.8 else 3 - label
                detections.append((image, taken, moved, round(random.random(), 2)))
        detections.append((image, 1, [150, 150, 20, 20], random.random()))
    return dataset(objects, num_images), found(*detections)


def pycocotools_stats(truth, detections):
    coco = COCO()
    coco.dataset = truth
    results = [{**x, "image_id": image} for image, own in detections.items() for x in own]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(3))
def test_ap_is_that_of_pycocotools_to_the_last_bit(seed):
    truth, detections = random_scene(seed)
    quality = analyze_detections(truth, detections)
    evaluation = pycocotools_stats(truth, detections)
    stats = dict(zip((*METRICS, *RECALLS), evaluation.stats.tolist(), strict=True))
    assert {key: float(quality.metrics[key]).hex() for key in stats} == {
        key: value.hex() for key, value in stats.items()
    }
    for index, own in enumerate(quality.classes):
        precision = evaluation.eval["precision"][:, :, index, 0, -1]
        assert own.ap == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    for size, key in (("small", "s"), ("medium", "m"), ("large", "l")):
        assert quality.sizes[size].ap == pytest.approx(stats[f"AP{key}"], abs=1e-12)
        assert quality.sizes[size].recall == pytest.approx(stats[f"AR{key}"], abs=1e-12)


BOXES = [[10, 10, 40, 40], [100, 10, 40, 40], [10, 100, 40, 40], [100, 100, 40, 40]]


@pytest.fixture
def known():
    """Two cells and a plate in the first image, a cell in the second."""
    truth = dataset([(1, 1, BOXES[0]), (1, 1, BOXES[1]), (1, 2, BOXES[2]), (2, 1, BOXES[0])])
    detections = found(
        (1, 1, BOXES[0], 0.9),  # right
        (1, 1, [11, 10, 40, 40], 0.5),  # a duplicate
        (1, 1, BOXES[2], 0.8),  # a plate taken for a cell
        (1, 1, [120, 20, 40, 40], 0.6),  # an IoU of 0.23
        (1, 2, [150, 150, 30, 30], 0.55),  # background
        (2, 1, BOXES[0], 0.7),  # right
        (2, 2, BOXES[3], 0.1),  # background, below the threshold
    )
    return analyze_detections(truth, detections)


def test_the_threshold_is_the_score_with_the_greatest_f1(known):
    # Down to 0.9, 0.8, 0.7 there are 1, 1, 2 right detections of 1, 2, 3, for 4 objects.
    assert known.threshold == 0.7
    assert known.curve.at(0.7) == (2 / 3, 2 / 4, pytest.approx(4 / 7))


def test_objects_are_counted_by_class_and_size(known):
    assert [(x.name, x.num_objects) for x in known.classes] == [("cell", 3), ("plate", 1)]
    assert {name: size.num_objects for name, size in known.sizes.items()} == {
        "small": 0,
        "medium": 4,
        "large": 0,
    }
    assert math.isnan(known.sizes["large"].ap)
    assert known.classes[1].ap == 0


def test_the_confusion_matrix_is_that_of_the_threshold(known):
    assert known.confusion.names == ("cell", "plate", "background")
    # Of the cells two are found and one is missed; the plate is taken for a cell.
    assert known.confusion.counts.tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_errors_are_counted_at_the_threshold_and_weighed_over_all_scores():
    truth = dataset([(1, 1, BOXES[0]), (1, 1, BOXES[1]), (2, 1, BOXES[0])], names=("cell",))
    detections = found(
        (1, 1, BOXES[0], 0.9),
        (2, 1, BOXES[0], 0.7),
        (1, 1, [11, 10, 40, 40], 0.8),
    )
    quality = analyze_detections(truth, detections)
    assert quality.threshold == 0.7
    counts = {name: error.count for name, error in quality.errors.items()}
    assert counts == {"Cls": 0, "Loc": 0, "Both": 0, "Dupe": 1, "Bkg": 0, "Miss": 1}
    # Precision up to a recall of 1/3 is 1 and up to 2/3 is 2/3; without the duplicate it is 1.
    # COCO's AP is the mean over the recalls 0, 0.01, ... 1.
    assert quality.metrics["AP50"] == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)
    assert quality.errors["Dupe"].ap_lost == pytest.approx(33 * (1 - 2 / 3) / 101)


def test_the_worst_image_is_first_and_images_without_errors_are_left_out(known):
    (image,) = known.images
    assert (image.image_id, image.found, image.wrong, image.missed) == (1, 1, 1, 2)
    assert image.f1 == pytest.approx(2 / 5)


def test_of_equally_bad_images_the_one_with_more_errors_is_first():
    truth = dataset([(1, 1, BOXES[0]), *((2, 1, box) for box in BOXES[:3]), (3, 1, BOXES[0])], 3)
    quality = analyze_detections(truth, found((3, 1, BOXES[0], 0.9)))
    assert [(x.image_id, x.missed, x.f1) for x in quality.images] == [(2, 3, 0), (1, 1, 0)]


def test_ids_of_images_may_be_text():
    truth = dataset([(1, 1, BOXES[0]), (2, 1, BOXES[0])])
    for image in truth["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in truth["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    own = found((1, 1, BOXES[0], 0.9))
    quality = analyze_detections(truth, {"image 1": own[1]})
    assert quality.curve.recall.tolist() == [1 / 2]
    assert [image.image_id for image in quality.images] == ["image 2"]


def test_nothing_found_has_no_threshold_and_misses_all():
    quality = analyze_detections(dataset([(1, 1, BOXES[0])]), {})
    assert quality.threshold is None
    assert quality.metrics["AP"] == 0
    assert quality.errors["Miss"].count == 1
    assert quality.images[0].missed == 1


def test_nothing_to_find_is_not_a_number():
    quality = analyze_detections(dataset([]), found((1, 1, BOXES[0], 0.9)))
    assert math.isnan(quality.metrics["AP"])
    assert quality.threshold is None
    assert np.isnan([x.ap for x in quality.classes]).all()


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(ValueError, match=r"pip install 'lite-focus-detr\[report\]'"):
        analyze_detections(dataset([]), {})
