import json

import onnx
import pytest
import torch

from lite_focus_detr.export.onnx_detector import OnnxDetector
from lite_focus_detr.export.onnx_file import write_checked


@pytest.fixture
def exported(trace, tmp_path):
    detector, _, traced = trace("dino_shapes")
    path = tmp_path / "model.onnx"
    write_checked(traced, detector, path, "standard")
    return detector.model, path


def test_it_detects_what_the_detector_detects(exported):
    model, path = exported
    random = torch.Generator().manual_seed(3)
    # Of different sizes, to be scaled to others.
    batch = [
        {"image": (torch.rand(3, 140, 170, generator=random) * 255), "height": 280, "width": 340},
        {"image": (torch.rand(3, 200, 131, generator=random) * 255)},
    ]
    with torch.no_grad():
        # One by one: in a batch the smaller image is padded, which rounds elsewhere.
        expected = [model([x])[0] for x in batch]
    for found, wanted in zip(OnnxDetector(path)(batch), expected, strict=True):
        found, wanted = found["instances"], wanted["instances"]
        assert found.image_size == wanted.image_size
        torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)
        # Boxes of equal scores may be in another order.
        sure = wanted.scores[:-1] - wanted.scores[1:] > 1e-4
        rows = torch.nonzero(sure[1:] & sure[:-1])[:, 0] + 1
        assert len(rows) > 3
        boxes = found.pred_boxes.tensor[rows], wanted.pred_boxes.tensor[rows]
        torch.testing.assert_close(*boxes, rtol=0, atol=0.05)


def test_what_is_no_exported_file_is_an_error(tmp_path, exported):
    with pytest.raises(ValueError, match="there is no file"):
        OnnxDetector(tmp_path / "missing.onnx")


def test_a_file_that_is_no_onnx_is_an_error(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot read .*model\.onnx: "):
        OnnxDetector(path)


@pytest.mark.parametrize(
    ("key", "message"), [("normalized", "normalised"), ("num_classes", "export it anew")]
)
def test_a_file_that_does_not_say_enough_of_itself_is_an_error(exported, key, message):
    _, path = exported
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = json.dumps({k: v for k, v in json.loads(entry.value).items() if k != key})
    onnx.save(model, path)
    with pytest.raises(ValueError, match=message):
        OnnxDetector(path)


def test_it_knows_its_classes(trace, tmp_path):
    detector, _, traced = trace("dino_shapes")
    path = tmp_path / "model.onnx"
    names = ["disc", "square", "triangle"]
    with pytest.raises(ValueError, match="there are 2 names of classes, and the detector has 3"):
        write_checked(traced, detector, path, "standard", class_names=names[:2])
    write_checked(traced, detector, path, "standard", class_names=names)
    found = OnnxDetector(path)
    assert (found.num_classes, found.class_names) == (3, tuple(names))
