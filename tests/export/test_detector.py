import pytest
import torch

from lite_focus_detr.export.detector import DetectorTensors, ImageInput, TensorDetector

from .conftest import make_config, make_model


@pytest.fixture(scope="module")
def model():
    return make_model(make_config("dino_shapes"))


@pytest.fixture
def images():
    return (torch.rand(2, 3, 128, 160, generator=torch.Generator().manual_seed(0)) * 255).round()


def test_detections_are_those_of_the_inference(model, images):
    with torch.no_grad():
        found = DetectorTensors(*TensorDetector(model, ImageInput())(images))
        expected = model([{"image": image} for image in images])
    for i, result in enumerate(expected):
        instances = result["instances"]
        count = len(instances)
        torch.testing.assert_close(found.scores[i, :count], instances.scores)
        torch.testing.assert_close(found.labels[i, :count], instances.pred_classes)
        # detectron2 clips the boxes to the image.
        boxes = found.boxes[i, :count].clamp(min=0)
        boxes = boxes.minimum(torch.tensor([160.0, 128.0, 160.0, 128.0]))
        torch.testing.assert_close(boxes, instances.pred_boxes.tensor)


@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize(
    ("dtype", "normalized"), [("float32", False), ("uint8", False), ("float32", True)]
)
def test_images_may_come_in_every_way(model, images, layout, dtype, normalized):
    detector = TensorDetector(model, ImageInput(layout, dtype, normalized))
    encoded = detector.encode(images)
    assert encoded.dtype == getattr(torch, dtype)
    assert encoded.shape[{"chw": 1, "hwc": 3}[layout]] == 3
    if normalized:
        assert encoded.mean().abs() < 0.5
    with torch.no_grad():
        found, expected = detector(encoded), TensorDetector(model, ImageInput())(images)
    torch.testing.assert_close(found, expected)


def test_bytes_cannot_be_normalised():
    with pytest.raises(ValueError, match="uint8"):
        ImageInput(dtype="uint8", normalized=True)
