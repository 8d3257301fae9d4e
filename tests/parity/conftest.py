"""Golden files, inputs, weights and results of the published implementations, and the backbones
that give the feature maps of such a file."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def golden_files(*patterns):
    """Names of the golden files of a kind: a new file of that kind is a new case."""
    names = sorted(path.stem for pattern in patterns for path in GOLDEN.glob(f"{pattern}.npz"))
    assert names, patterns
    return names


@BACKBONE_REGISTRY.register()
class RecordedMaps(Backbone):
    """Gives the recorded feature ``maps`` for any image."""

    channels = (16, 24, 40)

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.maps = {}

    def output_shape(self):
        levels = zip(("res3", "res4", "res5"), self.channels, (8, 16, 32), strict=True)
        return {name: ShapeSpec(channels=c, stride=s) for name, c, s in levels}

    def forward(self, images):
        return self.maps


@BACKBONE_REGISTRY.register()
class RecordedSmallMaps(RecordedMaps):
    """The same with fewer channels."""

    channels = (8, 16, 24)


@pytest.fixture
def golden():
    """Load a golden file by name as a dictionary of arrays."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load
