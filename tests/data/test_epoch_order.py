from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from lite_focus_detr.data.epoch_order import EpochOrder, build_epoch_order


def test_every_epoch_has_each_image_once_in_another_order():
    order = EpochOrder(13, seed=4)
    epochs = [order(np.arange(13 * n, 13 * (n + 1))).tolist() for n in range(3)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_position_is_looked_up_alone_and_with_another_seed_it_is_another():
    order = EpochOrder(50, seed=0)
    all_at_once = order(np.arange(175))
    for position in (0, 49, 50, 174):
        assert EpochOrder(50, seed=0)([position]) == all_at_once[position]
    assert not np.array_equal(order.with_seed(1)(np.arange(175)), all_at_once)


def test_an_image_is_repeated_as_often_as_its_factor_says():
    factors = np.array([1.0, 2.0, 0.0, 1.5])
    order = EpochOrder(4, seed=0, repeat_factors=factors)
    counts = Counter(order(np.arange(4 * 1000 + 500)).tolist())
    # 4.5 images an epoch in the mean: 1000 epochs, the half is drawn with sd 0.5 * sqrt(1000) = 16.
    assert [counts[image] for image in (0, 1, 2)] == pytest.approx([1000, 2000, 0], abs=20)
    assert counts[3] == pytest.approx(1500, abs=5 * 16)
    again = EpochOrder(4, seed=0, repeat_factors=factors)
    assert again([4321]) == order([4321])


def test_a_subset_is_drawn_once():
    order = EpochOrder(100, seed=0, subset_ratio=0.3)
    epochs = [set(order(np.arange(30 * n, 30 * (n + 1))).tolist()) for n in range(3)]
    assert len(epochs[0]) == 30
    assert epochs[0] == epochs[1] == epochs[2] != set(range(30))


@pytest.fixture
def two_data_sets():
    """One of 30 images of a common category and one of 10 of a rare one; and their records."""
    annotated = lambda n, category: [  # noqa: E731
        {"file_name": str(i), "annotations": [{"category_id": category}]} for i in range(n)
    ]
    parts = {"order_common": annotated(30, 0), "order_rare": annotated(10, 1)}
    for name, part in parts.items():
        DatasetCatalog.register(name, lambda part=part: part)
        MetadataCatalog.get(name).thing_classes = ["a", "b"]
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = tuple(parts)
    yield SimpleNamespace(cfg=cfg, images=[x for part in parts.values() for x in part])
    for name in parts:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_samplers_of_detectron2_have_their_meaning(two_data_sets):
    cfg, images = two_data_sets.cfg, two_data_sets.images

    def share_of_rare(sampler):
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        return (build_epoch_order(cfg, images, seed=0)(np.arange(20_000)) >= 30).mean()

    # Means of 20,000 draws; within an epoch nothing is drawn twice, which makes them more precise.
    assert share_of_rare("TrainingSampler") == pytest.approx(0.25, abs=0.01)
    # The rare category has frequency 1/4: factor sqrt(1 / 0.25) = 2 at threshold 1, the common
    # one sqrt(1 / 0.75) = 1.155: 20 of 34.6 + 20.
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    expected = 20 / (30 / 0.75**0.5 + 20)
    assert share_of_rare("RepeatFactorTrainingSampler") == pytest.approx(expected, abs=0.01)
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("order_rare", 3.0)]
    assert share_of_rare("WeightedTrainingSampler") == pytest.approx(0.5, abs=0.01)
    # Alone each category has frequency 1 in its data set, so that only the weights remain.
    assert share_of_rare("WeightedCategoryTrainingSampler") == pytest.approx(0.5, abs=0.01)


def test_what_is_not_known_is_named(two_data_sets):
    cfg, images = two_data_sets.cfg, two_data_sets.images
    cfg.DATALOADER.SAMPLER_TRAIN = "Shuffled"
    with pytest.raises(ValueError, match="SAMPLER_TRAIN is 'Shuffled'; set TrainingSampler"):
        build_epoch_order(cfg, images, seed=0)
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("order_common", 1.0), ("order_rear", 2.0)]
    with pytest.raises(ValueError, match=r"names \['order_rear'\], not in DATASETS.TRAIN"):
        build_epoch_order(cfg, images, seed=0)
