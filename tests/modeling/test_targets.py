"""Ground truth of a batch."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from lite_focus_detr.modeling.targets import prepare_targets


@pytest.fixture
def instances():
    """Two boxes, none and one, in images of 100 x 200 and 50 x 40 pixels."""
    batch = []
    for size, boxes, classes in (
        ((100, 200), [[20.0, 10.0, 60.0, 30.0], [0.0, 0.0, 200.0, 100.0]], [2, 0]),
        ((50, 40), [], []),
        ((50, 40), [[10.0, 20.0, 30.0, 25.0]], [1]),
    ):
        image = Instances(size)
        image.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        image.gt_classes = torch.tensor(classes, dtype=torch.int64)
        batch.append(image)
    return batch


def test_boxes_are_relative_to_the_image_and_padded_to_the_largest_number(instances):
    targets = prepare_targets(instances, torch.device("cpu"))
    expected = torch.tensor(
        [
            [[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]],
            [[0.0] * 4, [0.0] * 4],
            [[0.5, 0.45, 0.5, 0.1], [0.0] * 4],
        ]
    )
    torch.testing.assert_close(targets.boxes, expected)
    assert targets.labels.tolist() == [[2, 0], [0, 0], [1, 0]]
    assert targets.counts == (2, 0, 1)


def test_classes_are_mapped_to_the_rows_of_the_heads(instances):
    labels = prepare_targets(instances, torch.device("cpu"), (1, 7, 90)).labels
    assert [labels[0].tolist(), labels[2, 0].item()] == [[90, 1], 7]
