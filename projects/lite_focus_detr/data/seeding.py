"""Randomness as a function of a seed and a position, so that no generator's state is history."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(*key: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, those of all GPUs included.

    Args:
        key: what the numbers that follow are a function of, each at least 0; equal keys give equal
            numbers, keys that differ give independent ones.
    """
    python, numpy, pytorch = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(python))
    np.random.seed(int(numpy))
    if torch.accelerator.is_available():
        torch.manual_seed(int(pytorch))
    else:  # that would note a traceback for each kind of device that is not there
        torch.default_generator.manual_seed(int(pytorch))


@contextmanager
def seeded_generators(*key: int) -> Iterator[None]:
    """Seed the generators as :func:`seed_generators` and leave them as they were found.

    On the CPU only: made for augmentation, which runs beside the model or in a process of its own.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        states = np.random.SeedSequence(key).generate_state(3)
        random.seed(int(states[0]))
        np.random.seed(int(states[1]))
        torch.default_generator.manual_seed(int(states[2]))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
