"""Stand-in checkpoints with the keys and shapes of published files, and configurations for them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from torch import Tensor

from lite_focus_detr import add_lite_focus_detr_config

ROOT = Path(__file__).parents[2]


class Manifest(NamedTuple):
    """Names and shapes of a published file; aliases: key -> key of the same tensor."""

    tensors: dict[str, list[int]]
    aliases: dict[str, str]


def random_tensor(key: str, shape: list[int]) -> Tensor:
    """Values that differ between keys and between rows, always the same for one key."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return torch.randn(shape, generator=generator)


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], Manifest]:
    def read(name: str) -> Manifest:
        path = ROOT / f"tests/golden/manifests/{name}.json.gz"
        return Manifest(**json.loads(gzip.decompress(path.read_bytes())))

    return read


@pytest.fixture(scope="session")
def published(manifest) -> Callable[[str], dict[str, Tensor]]:
    """Weights named as in a published file; aliases share the tensor, as upstream saves them."""

    def make(name: str) -> dict[str, Tensor]:
        tensors, aliases = manifest(name)
        weights: dict[str, Tensor] = {}
        for key, shape in tensors.items():
            if key in aliases:
                weights[key] = weights[aliases[key]]
            else:
                weights[key] = random_tensor(key, shape)
        return weights

    return make


@pytest.fixture
def config() -> Callable[..., CfgNode]:
    """The configuration of a leaf (None: the defaults), with KEY VALUE overrides."""

    def load(leaf: str | None = None, *overrides: object) -> CfgNode:
        cfg = get_cfg()
        add_lite_focus_detr_config(cfg)
        if leaf is not None:
            cfg.merge_from_file(str(next(ROOT.glob(f"configs/*/{leaf}.yaml"))))
        cfg.merge_from_list(list(overrides))
        return cfg

    return load
