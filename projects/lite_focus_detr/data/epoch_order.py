"""The endless order in which a training takes the images of its data set."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler

Integers = npt.NDArray[np.int64]

# Told apart from the other uses of one seed.
_ORDER, _SUBSET = 1, 2


class EpochOrder:
    """Which image lies at a position of the stream of all epochs.

    Each epoch is a permutation that is a function of the seed and of its number, so that any
    position can be looked up without those before it.
    """

    def __init__(
        self,
        num_images: int,
        *,
        seed: int,
        repeat_factors: npt.NDArray[np.float64] | None = None,
        subset_ratio: float = 1.0,
    ) -> None:
        """Describe the epochs.

        Args:
            num_images: images of the data set, at least 1.
            seed: at least 0.
            repeat_factors: (num_images,) how often an epoch has each image, in the mean: the
                fraction is the probability of one more; None takes each once.
            subset_ratio: part of the images that is drawn once and trained on, in (0, 1].
        """
        self.num_images = num_images
        self.seed = seed
        self.repeat_factors = repeat_factors
        self.subset_ratio = subset_ratio
        self.images = np.arange(num_images)
        if subset_ratio < 1:
            size = max(1, int(num_images * subset_ratio))
            self.images = self._generator(_SUBSET, 0).permutation(num_images)[:size]
        # Where each epoch begins, as far as has been asked for.
        self._starts = [0]
        # The last two epochs: workers are at the end of one and the beginning of the next.
        self._drawn: dict[int, Integers] = {}

    def __call__(self, positions: npt.ArrayLike) -> Integers:
        """Index of the image at each position.

        Args:
            positions: (N,) ascending numbers of at least 0.

        Returns:
            (N,) indices into the data set.
        """
        positions = np.asarray(positions, dtype=np.int64)
        found = np.empty_like(positions)
        done = 0
        while done < len(positions):
            epoch = self._epoch_of(int(positions[done]))
            end = int(np.searchsorted(positions, self._starts[epoch + 1]))
            found[done:end] = self._epoch(epoch)[positions[done:end] - self._starts[epoch]]
            done = end
        return found

    def with_seed(self, seed: int) -> EpochOrder:
        """The same with another seed."""
        return EpochOrder(
            self.num_images,
            seed=seed,
            repeat_factors=self.repeat_factors,
            subset_ratio=self.subset_ratio,
        )

    def _epoch_of(self, position: int) -> int:
        while self._starts[-1] <= position:
            if self.repeat_factors is None:
                length = len(self.images)
            else:
                length = len(self._epoch(len(self._starts) - 1))
            self._starts.append(self._starts[-1] + length)
        return bisect_right(self._starts, position) - 1

    def _epoch(self, number: int) -> Integers:
        if number not in self._drawn:
            self._drawn = {n: e for n, e in self._drawn.items() if abs(n - number) == 1}
            self._drawn[number] = self._draw_epoch(number)
        return self._drawn[number]

    def _draw_epoch(self, number: int) -> Integers:
        generator = self._generator(_ORDER, number)
        images = self.images
        if self.repeat_factors is not None:
            factors = self.repeat_factors[images]
            whole = factors.astype(np.int64)
            more = generator.random(len(images)) < factors - whole
            images = np.repeat(images, whole + more)
        return generator.permutation(images)

    def _generator(self, use: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, use, number))


def build_epoch_order(cfg: CfgNode, images: list[dict[str, Any]], *, seed: int) -> EpochOrder:
    """The order that ``DATALOADER.SAMPLER_TRAIN`` asks for.

    Args:
        cfg: complete configuration.
        images: records of ``DATASETS.TRAIN``.
        seed: at least 0.

    Raises:
        ValueError: the sampler is not known, or no image is left.
    """
    sampler, ratio = cfg.DATALOADER.SAMPLER_TRAIN, 1.0
    factors = _repeat_factors(cfg, images)
    if sampler == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    elif sampler != "TrainingSampler" and factors is None:
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {sampler!r}; set TrainingSampler, "
            "RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, WeightedTrainingSampler or "
            "WeightedCategoryTrainingSampler"
        )
    if not images or (factors is not None and not factors.any()):
        raise ValueError(f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} leaves no image to train on")
    repeat = None if factors is None else factors.double().numpy()
    return EpochOrder(len(images), seed=seed, repeat_factors=repeat, subset_ratio=ratio)


def _repeat_factors(cfg: CfgNode, images: list[dict[str, Any]]) -> torch.Tensor | None:
    def of_categories(part: list[dict[str, Any]]) -> torch.Tensor:
        loader = cfg.DATALOADER
        factors: torch.Tensor = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            part, loader.REPEAT_THRESHOLD, sqrt=loader.REPEAT_SQRT
        )
        return factors

    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler == "RepeatFactorTrainingSampler":
        return of_categories(images)
    if sampler == "WeightedTrainingSampler":
        return _data_set_weights(cfg)
    if sampler == "WeightedCategoryTrainingSampler":
        factors = _data_set_weights(cfg) * torch.cat([of_categories(x) for x in _data_sets(cfg)])
        return factors / factors.min()
    return None


def _data_sets(cfg: CfgNode) -> list[list[dict[str, Any]]]:
    filtered = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    return [
        get_detection_dataset_dicts([name], filter_empty=filtered) for name in cfg.DATASETS.TRAIN
    ]


def _data_set_weights(cfg: CfgNode) -> torch.Tensor:
    """The weight of its data set for each image, from ``DATASETS.TRAIN_REPEAT_FACTOR``."""
    weights = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    unknown = sorted(set(weights) - set(cfg.DATASETS.TRAIN))
    if unknown:
        raise ValueError(
            f"DATASETS.TRAIN_REPEAT_FACTOR names {unknown}, not in DATASETS.TRAIN "
            f"{tuple(cfg.DATASETS.TRAIN)}"
        )
    parts = zip(cfg.DATASETS.TRAIN, _data_sets(cfg), strict=True)
    return torch.cat(
        [torch.full((len(part),), float(weights.get(name, 1))) for name, part in parts]
    )
