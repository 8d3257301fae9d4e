"""Many threads."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr.predictor import Predictor, load_inference_config

survives = pytest.mark.fault(area="scale", expected="survived")

THREADS = 20


@pytest.fixture
def pictures(tmp_path):
    """Paths of images of six sizes."""
    pixels = np.random.default_rng(0)
    paths = [tmp_path / f"{n}.png" for n in range(6)]
    for n, path in enumerate(paths):
        size = (40 + 8 * n, 72 - 6 * n, 3)
        Image.fromarray(pixels.integers(0, 256, size, dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def tensors_of(instances):
    return [instances.pred_boxes.tensor, instances.scores, instances.pred_classes]


@survives
@pytest.mark.parametrize(
    "encoder",
    ["DeformableDETR", "LiteFocusDETR"],
    ids="20 threads with one predictor of {}".format,
)
def test_threads_that_share_a_predictor_get_the_results_of_one(
    encoder, small_config, small_config_file, pictures, tmp_path
):
    options = ["MODEL.META_ARCHITECTURE", encoder, "MODEL.DETR.ENCODER.NUM_LAYERS", "6"]
    options += ["MODEL.WEIGHTS", str(tmp_path / "weights.pth")]
    cfg = load_inference_config(small_config_file, options)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
    predict = Predictor(cfg)
    expected = [tensors_of(predict(path)) for path in pictures]
    assert all(len(scores) > 0 for _, scores, _ in expected)

    def work(thread):
        """All pictures, each thread in an order of its own."""
        order = random.Random(thread).sample(range(len(pictures)), len(pictures))
        return [(n, tensors_of(predict(pictures[n]))) for n in order]

    with ThreadPoolExecutor(THREADS) as threads:
        found = [result for results in threads.map(work, range(THREADS)) for result in results]
    assert len(found) == THREADS * len(pictures)
    for n, tensors in found:
        assert all(map(torch.equal, tensors, expected[n])), n
