"""Files that resize their images detect what the detector finds in images resized before."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from lite_focus_detr.export import ImageInput
from lite_focus_detr.export.detector import TensorDetector
from lite_focus_detr.export.onnx_file import write_checked
from lite_focus_detr.export.program import export_program
from lite_focus_detr.export.resize import resize_inputs
from lite_focus_detr.export.runtime import start_session

RESIZE = (128, 200)


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(0)


def resize_with_pillow(image, size):
    """Bytes (H, W, 3) as (1, 3, h, w), by the filter of detectron2's reader but not rounded."""
    channels = [Image.fromarray(x.astype(np.float32)) for x in image.transpose(2, 0, 1)]
    resized = [np.array(x.resize(size[::-1], Image.Resampling.BILINEAR)) for x in channels]
    return torch.from_numpy(np.stack(resized))[None]


@pytest.mark.parametrize(("layout", "dtype"), [("chw", "float32"), ("hwc", "uint8")])
def test_a_file_resizes_like_the_evaluation(trace, tmp_path, random, layout, dtype):
    plain, _, traced = trace("dino_shapes")
    image_input = ImageInput(layout, dtype, resize=RESIZE)
    resize_inputs(traced, image_input)
    detector = TensorDetector(plain.model, image_input)
    path = tmp_path / "model.onnx"
    assert all(x.passed for x in write_checked(traced, detector, path, "standard"))
    session = start_session(str(path))
    # Smaller, larger, and so wide that the longer side decides.
    for height, width in ((90, 120), (301, 240), (150, 401)):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        given = image if layout == "hwc" else image.transpose(2, 0, 1)
        boxes, scores, labels = session.run(None, {"images": given[None].astype(dtype)})
        size = ResizeShortestEdge.get_output_shape(height, width, *RESIZE)
        assert min(size) == RESIZE[0] or max(size) == RESIZE[1]
        with torch.no_grad():
            expected = plain(resize_with_pillow(image, size))
        np.testing.assert_allclose(scores, expected[1], atol=1e-3)
        assert labels[0, 0] == expected[2][0, 0]
        ratios = np.array([width / size[1], height / size[0]] * 2)
        np.testing.assert_allclose(boxes[0, 0], expected[0][0, 0] * ratios, atol=0.2)


def test_programs_of_torch_do_not_resize(trace):
    plain, *_ = trace("dino_shapes")
    with pytest.raises(ValueError, match="do not resize"):
        export_program(plain.model, ImageInput(resize=RESIZE))


def test_sides_are_positive():
    with pytest.raises(ValueError, match=r"resize is \(0, 1333\)"):
        ImageInput(resize=(0, 1333))
