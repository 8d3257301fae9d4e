"""The neck: sizes of its levels, and what each is a projection of."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.nn import functional as F

from lite_focus_detr.modeling.neck import Neck

SHAPES = [ShapeSpec(channels=4 + level, stride=8 << level) for level in range(3)]
MAPS = ((4, 8, 12), (5, 4, 6), (6, 2, 3))  # Of an image of 64 x 96.


@pytest.mark.parametrize(
    ("num_levels", "strides"), [(3, (8, 16, 32)), (4, (8, 16, 32, 64)), (5, (8, 16, 32, 64, 128))]
)
def test_each_level_beyond_the_maps_doubles_the_stride(num_levels, strides):
    neck = Neck(input_shape=SHAPES, num_levels=num_levels, embed_dim=8, norm_groups=4)
    levels = neck([torch.zeros(1, *shape) for shape in MAPS])
    assert neck.strides == strides
    assert [tuple(x.shape) for x in levels] == [(1, 8, -(-64 // s), -(-96 // s)) for s in strides]


def test_the_first_further_level_sees_the_last_map_and_the_next_that_level():
    torch.manual_seed(0)
    neck = Neck(input_shape=SHAPES, num_levels=5, embed_dim=8, norm_groups=4)
    maps = [torch.randn(2, *shape) for shape in MAPS]
    levels = neck(maps)
    for proj, x, level in zip(neck.input_proj, [*maps, maps[-1], levels[3]], levels, strict=True):
        conv, norm = proj
        stride, padding = (1, 0) if conv.kernel_size == (1, 1) else (2, 1)
        raw = F.conv2d(x, conv.weight, conv.bias, stride, padding)
        torch.testing.assert_close(level, F.group_norm(raw, 4, norm.weight, norm.bias))
    assert [proj[0].kernel_size for proj in neck.input_proj] == [(1, 1)] * 3 + [(3, 3)] * 2
