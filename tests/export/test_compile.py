"""torch.compile of whole detectors."""

import pytest
import torch
from detectron2.structures import ImageList
from torch._dynamo.testing import CompileCounter

from .conftest import QUICK_CONFIGS, make_config, make_model


@pytest.mark.parametrize("name", QUICK_CONFIGS)
def test_a_detector_is_one_graph_that_serves_all_images_of_a_size(name):
    torch.compiler.reset()
    model, counter = make_model(make_config(name)), CompileCounter()
    compiled = torch.compile(model.forward_outputs, fullgraph=True, backend=counter)
    random = torch.Generator().manual_seed(0)
    for _ in range(2):
        images = ImageList(torch.randn(2, 3, 128, 160, generator=random), [(100, 160), (128, 150)])
        with torch.no_grad():
            found, expected = compiled(images), model.forward_outputs(images)
        torch.testing.assert_close(found.pred_logits, expected.pred_logits)
        torch.testing.assert_close(found.pred_boxes, expected.pred_boxes)
    assert counter.frame_count == 1


def test_sizes_of_a_bucket_share_a_graph(tiny_config):
    torch.compiler.reset()
    layers = {"ENCODER.NUM_LAYERS": 1, "DECODER.NUM_LAYERS": 1}
    model, counter = make_model(tiny_config(**layers)), CompileCounter()
    compiled = torch.compile(model.forward_outputs, fullgraph=True, dynamic=True, backend=counter)

    def count_graphs(padded, *sizes):
        images = ImageList(torch.randn(len(sizes), 3, *padded), list(sizes))
        with torch.no_grad():
            found, expected = compiled(images), model.forward_outputs(images)
        torch.testing.assert_close(found.pred_logits, expected.pred_logits)
        return counter.frame_count

    # Sides are multiples of the coarsest stride, without padding ...
    for height, width in ((192, 256), (256, 192), (320, 448)):
        assert count_graphs((height, width), (height, width), (height, width)) == 1
    # ... or images are padded to such sides.
    for sizes in (((250, 384), (256, 360)), ((231, 299), (256, 384)), ((200, 384), (256, 301))):
        assert count_graphs((256, 384), *sizes) == 2
