"""Files that resize their images detect what the detector finds in images resized before."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from PIL import Image

from lite_focus_detr.data.dataset_mapper import build_augmentation
from lite_focus_detr.export import ImageInput
from lite_focus_detr.export.attention_functions import OPSET
from lite_focus_detr.export.detector import TensorDetector
from lite_focus_detr.export.onnx_file import write_checked
from lite_focus_detr.export.program import export_program
from lite_focus_detr.export.resize import resize_inputs
from lite_focus_detr.export.runtime import start_session

from .conftest import make_config

RESIZE = (128, 200)


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(0)


def resize_with_pillow(image, size):
    """Bytes (H, W, 3) as (1, 3, h, w), by the filter of detectron2's reader but not rounded."""
    channels = [Image.fromarray(x.astype(np.float32)) for x in image.transpose(2, 0, 1)]
    resized = [np.array(x.resize(size[::-1], Image.Resampling.BILINEAR)) for x in channels]
    return torch.from_numpy(np.stack(resized))[None]


def evaluation_size(height, width, rounding, resize=RESIZE):
    """(height, width) of an image behind the resize of the data loader."""
    cfg = make_config("dino_shapes", "INPUT.RESIZE_ROUNDING", rounding)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = resize
    (augmentation,) = build_augmentation(cfg, is_train=False)
    image = np.zeros((height, width, 3), np.uint8)
    return augmentation.get_transform(image).apply_image(image).shape[:2]


@pytest.mark.parametrize(
    ("layout", "dtype", "rounding"), [("chw", "float32", "nearest"), ("hwc", "uint8", "down")]
)
def test_a_file_resizes_like_the_evaluation(trace, tmp_path, random, layout, dtype, rounding):
    plain, _, traced = trace("dino_shapes")
    image_input = ImageInput(layout, dtype, resize=RESIZE, resize_rounding=rounding)
    resize_inputs(traced, image_input)
    detector = TensorDetector(plain.model, image_input)
    path = tmp_path / "model.onnx"
    assert all(x.passed for x in write_checked(traced, detector, path, "standard"))
    session = start_session(str(path))
    # Smaller, larger, and so wide that the longer side decides.
    for height, width in ((90, 131), (301, 241), (150, 401)):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        given = image if layout == "hwc" else image.transpose(2, 0, 1)
        boxes, scores, labels = session.run(None, {"images": given[None].astype(dtype)})
        size = evaluation_size(height, width, rounding)
        assert min(size) == RESIZE[0] or max(size) == RESIZE[1]
        with torch.no_grad():
            expected = plain(resize_with_pillow(image, size))
        np.testing.assert_allclose(scores, expected[1], atol=1e-3)
        assert labels[0, 0] == expected[2][0, 0]
        ratios = np.array([width / size[1], height / size[0]] * 2)
        np.testing.assert_allclose(boxes[0, 0], expected[0][0, 0] * ratios, atol=0.2)


@pytest.mark.parametrize("rounding", ["nearest", "down"])
def test_sizes_are_those_of_the_evaluation(random, rounding):
    images = ir.Value(
        name="images", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1, 3, "h", "w"))
    )
    boxes, size = (ir.Value(name=x, type=ir.TensorType(ir.DataType.FLOAT)) for x in "bs")
    shape = ir.node("Shape", [images], outputs=[size])
    ones = ir.node("Constant", [], {"value_floats": [1.0] * 4}, outputs=[boxes])
    graph = ir.Graph([images], [boxes, size], nodes=[ones, shape], opset_imports={"": OPSET})
    model = ir.Model(graph, ir_version=10)
    size.type = ir.TensorType(ir.DataType.INT64)
    resize_inputs(model, ImageInput(resize=(12, 20), resize_rounding=rounding))
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    sides = [(56, 88), *random.integers(20, 120, (300, 2)).tolist()]
    for height, width in sides:
        _, found = session.run(None, {"images": np.zeros((1, 3, height, width), np.float32)})
        assert tuple(found[2:]) == evaluation_size(height, width, rounding, (12, 20))


def test_programs_of_torch_do_not_resize(trace):
    plain, *_ = trace("dino_shapes")
    with pytest.raises(ValueError, match="do not resize"):
        export_program(plain.model, ImageInput(resize=RESIZE))


def test_sides_are_positive():
    with pytest.raises(ValueError, match=r"resize is \(0, 1333\)"):
        ImageInput(resize=(0, 1333))
