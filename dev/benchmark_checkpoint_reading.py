"""Time of reading checkpoints with all checks, relative to reading them without any.

    python dev/benchmark_checkpoint_reading.py [--config-file NAME_OR_PATH] [--rounds 15]

Makes a checkpoint of the detector with a step of AdamW, as a training writes it, and reads it in
turn with and without checks, from the page cache: a disk would only make the checks look cheaper.
Prints medians of times and of ratios within a round.

- file: ``read_checkpoint`` against ``torch.load(weights_only=True)``;
- published file: the same of what ``torch.save`` writes, whose checksums are compared;
- detector, published detector: ``DetrCheckpointer.load``, which is what a command waits for,
  against the same without digest and checksums, and with a look at each element for finiteness,
  as it was before there were any.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from detectron2.modeling import build_model

from lite_focus_detr import model_zoo
from lite_focus_detr.engine import DetrCheckpointer, checkpoint_checks, checkpoint_io
from lite_focus_detr.engine.checkpoint_io import read_checkpoint


class _Training:
    """What a checkpoint holds besides the model: the state of an optimiser."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, object]:
        return {"_trainer": {"optimizer": self.optimizer.state_dict()}}

    def load_state_dict(self, state: dict[str, object]) -> None:
        pass


def load_plainly(path: str) -> object:
    """What every check is compared with."""
    with torch.serialization.safe_globals(checkpoint_io.TORCH_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True)


def without_checks(load: Callable[[], object]) -> Callable[[], object]:
    """The same without digest, and with a look at each element."""

    def every_element(tensor: torch.Tensor) -> bool:
        return not tensor.is_floating_point() or bool(tensor.isfinite().all())

    def call() -> object:
        with (
            mock.patch.object(checkpoint_io, "require_intact", return_value=None),
            mock.patch.object(checkpoint_io, "require_plain", return_value=None),
            mock.patch.object(checkpoint_checks, "is_finite", every_element),
        ):
            return load()

    return call


def measure(checked: Callable[[], object], plain: Callable[[], object], rounds: int) -> str:
    """Medians of both and of their ratio, measured in turn."""
    times: list[tuple[float, float]] = []
    for index in range(rounds + 1):
        pair = []
        for function in (checked, plain) if index % 2 else (plain, checked):
            start = time.perf_counter()
            function()
            pair.append(time.perf_counter() - start)
        times.append((pair[0], pair[1]) if index % 2 else (pair[1], pair[0]))
    with_checks, without = zip(*times[1:], strict=True)  # the first fills the page cache
    ratio = statistics.median(a / b for a, b in times[1:])
    return (
        f"{statistics.median(with_checks):.3f} s with checks, "
        f"{statistics.median(without):.3f} s without, ratio {ratio:.2f}"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="deformable_detr/dino_r50_12ep")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    cfg = model_zoo.get_config(args.config_file, ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = DetrCheckpointer(model, folder, cfg=cfg, trainer=_Training(model))
        checkpointer.save("model", iteration=1)
        path, published = os.path.join(folder, "model.pth"), os.path.join(folder, "published.pth")
        torch.save(load_plainly(path), published)

        rows = {}
        for prefix, file in (("", path), ("published ", published)):
            load = partial(checkpointer.load, file)
            rows[f"{prefix}file"] = partial(read_checkpoint, file), partial(load_plainly, file)
            rows[f"{prefix}detector"] = load, without_checks(load)
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [x.split(":")[1].strip() for x in info if x.startswith("model name")]
        size = os.path.getsize(path) / 1e6
        load_average = os.getloadavg()[0]
        sys.stdout.write(
            f"{names[0]}, {len(names)} cores, load {load_average:.1f}; {size:.0f} MB\n"
        )
        for name, (checked, plain) in rows.items():
            sys.stdout.write(f"{name}: {measure(checked, plain, args.rounds)}\n")


if __name__ == "__main__":
    main()
