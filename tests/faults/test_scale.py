"""Many threads, many objects and many images."""

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr.data.epoch_order import EpochOrder
from lite_focus_detr.data.training_stream import BatchLayout, TrainingStream
from lite_focus_detr.predictor import Predictor, load_inference_config

survives = pytest.mark.fault(area="scale", expected="survived")

THREADS = 20
BOXES = 1500
IMAGES = 1_000_000


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


def crowded(cfg, make_batch, boxes):
    """A model with more queries than boxes, and an image with that many."""
    cfg.MODEL.DETR.NUM_QUERIES = BOXES + 100
    torch.manual_seed(0)
    return build_model(cfg).train(), make_batch([boxes], sizes=[(320, 320)])


@survives
@pytest.mark.parametrize(
    "family",
    ["deformable", "deformable_refine", "deformable_two_stage", "dn_deformable", "dino"],
    ids="1,500 boxes in an image, {}".format,
)
def test_an_image_with_very_many_boxes_is_trained_on(family, tiny_config, make_batch):
    model, batch = crowded(tiny_config(family), make_batch, BOXES)
    losses = model(batch)
    sum(losses.values()).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    optimizer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@survives
def test_a_million_images_resume_late_with_the_samples_that_would_have_followed():
    records = [{"image_id": n, "width": 64 + n % 3, "height": 65} for n in range(IMAGES)]
    layout, order = BatchLayout(8, grouped=True), EpochOrder(IMAGES, seed=5)
    stream = TrainingStream(records, dict, order=order, layout=layout)
    # The next batches are of the end of an epoch and of the beginning of the next.
    taken = IMAGES // layout.batch_size - 3
    assert stream.load_state_dict(stream.state_dict(taken)) == []
    found = list(islice(AspectRatioGroupedDataset(stream, layout.batch_size), 10))
    # All batches from the first on, by detectron2's own grouping.
    undisturbed = (records[n] for n in order(np.arange(IMAGES + 200)))
    batches = AspectRatioGroupedDataset(undisturbed, layout.batch_size)
    assert found == list(islice(batches, taken, taken + 10))
