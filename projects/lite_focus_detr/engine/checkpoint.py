"""Checkpoints: published formats, refusal of files that do not fit, resuming, atomic writing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import Any, NamedTuple

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import Tensor, nn

from ..converters import BACKBONE_FORMATS, convert_state_dict, training_options, unwrap
from .checkpoint_file import read_checkpoint, write_atomically

logger = logging.getLogger(__name__)

BACKBONE = "backbone."
OWN_FORMAT = "lite_focus_detr"
# Parts of a model that only a training uses.
DENOISING = "denoising."
TRAINED_ONLY = (DENOISING, "encoder.aux_heads.")


class _Weights(NamedTuple):
    """Tensors of a file under the model's names, and what the file is."""

    tensors: dict[str, Tensor]
    format: str
    other_classes: int | None = None
    """Rows of class heads that were left out, being for another number of classes."""
    unplaced: Sequence[str] = ()
    """Trained tensors that the model has no place for."""


class DetrCheckpointer(DetectionCheckpointer):
    """A ``DetectionCheckpointer`` that knows the published formats and trusts no file.

    ``load`` takes files of this project, detectron2 ``.pth`` and ``.pkl``, and the files that
    Deformable DETR, DINO, detrex and torchvision publish, as they were downloaded.

    Of a file that also holds averaged weights the model gets these with ``MODEL.EMA.ENABLED``,
    and with a warning the others without it. A checkpointer with a checkpointable ``ema`` (that
    of a training) always gives the model the others: resuming restores the average as well, a
    training that starts from the file begins a new average.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode,
        for_inference: bool = False,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """Set up loading into a model and saving to a folder.

        Args:
            model: detector built from ``cfg``, possibly wrapped for several processes.
            save_dir: folder of the checkpoints; empty to save nothing.
            cfg: decides how published weights are fitted (classes, shared heads, averaging).
            for_inference: the model will not be trained: refuse files that leave any of its
                parameters random, except those of denoising.
            save_to_disk: None saves on the main process only.
            checkpointables: objects with ``state_dict`` and ``load_state_dict`` to save as well.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.cfg = cfg
        self.for_inference = for_inference

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the states of checkpointables that the file holds.

        Args:
            path: file or URL; empty loads nothing.
            checkpointables: names to restore; None restores all.

        Returns:
            what else the file holds.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be downloaded, is truncated, unsafe, of an unknown format,
                has weights that are not finite, or matches less than half of the model (for
                inference: not all of it). The model is unchanged.
        """
        local = path.split("?")[0]
        if "://" in path:
            local = self._download(local)
        elif path and not os.path.isfile(local):
            raise FileNotFoundError(f"the checkpoint {local} does not exist; check MODEL.WEIGHTS")
        elif not path and self.for_inference:
            logger.warning("MODEL.WEIGHTS is empty: the weights of the model are random")
        try:
            extra: dict[str, Any] = super().load(local, checkpointables)
        finally:
            # The base class leaves it set after an error and would refuse the next load.
            self._parsed_url_during_load = None
        return extra

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the newest readable checkpoint of ``save_dir``, else load ``path``."""
        if resume and not self.has_checkpoint():
            logger.warning(
                "Nothing to resume in %s: starting at iteration 0 with MODEL.WEIGHTS '%s'",
                self.save_dir,
                path,
            )
        extra: dict[str, Any] = super().resume_or_load(path, resume=resume)
        return extra

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name.pth``: the model, the checkpointables and ``kwargs``.

        Raises:
            OSError: it could not be written. No partial file is left, earlier ones are intact.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        contents = {"model": self.model.state_dict()}
        contents |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        contents |= kwargs
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(contents, file))
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the name of the newest checkpoint in the file ``last_checkpoint``."""
        tag = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(tag, lambda file: file.write(last_filename_basename.encode()))

    def has_checkpoint(self) -> bool:
        """Whether a training has saved anything in ``save_dir``, readable or not."""
        return bool(super().has_checkpoint() or self._saved("model_"))

    def get_checkpoint_file(self) -> str:
        """Path of the checkpoint that ``last_checkpoint`` names, if it can be read.

        Otherwise of the readable one of the latest iteration.

        Raises:
            ValueError: there is none; the message names the files that were tried.
        """
        skipped: list[str] = []
        tag, saved = super().get_checkpoint_file(), self._saved()
        tagged = [path for path in saved if path == tag]
        others = [path for path in saved if path != tag]
        path = _latest(tagged, skipped) or _latest(others, skipped)
        if path:
            if skipped:
                logger.warning("Skipped %s: resuming from %s", "; ".join(skipped), path)
            return path
        tried = "; ".join(skipped) or "it holds no .pth file"
        raise ValueError(
            f"cannot resume in {self.save_dir}: {tried}. Remove the folder or train without "
            "--resume"
        )

    def _saved(self, prefix: str = "") -> list[str]:
        """Checkpoint files, the last written first."""
        if not os.path.isdir(self.save_dir):
            return []
        files = [entry for entry in os.scandir(self.save_dir) if entry.name.endswith(".pth")]
        files.sort(key=lambda entry: (entry.stat().st_mtime_ns, entry.name), reverse=True)
        return [entry.path for entry in files if entry.name.startswith(prefix)]

    def _download(self, url: str) -> str:
        try:
            return str(self.path_manager.get_local_path(url))
        except (OSError, HTTPException) as error:
            raise ValueError(
                f"cannot download {url} (MODEL.WEIGHTS): {error}; download it elsewhere and give "
                "the local file, or set MODEL.WEIGHTS ''"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        contents = read_checkpoint(filename)
        average = contents.get("ema")
        if average and not self.cfg.MODEL.EMA.ENABLED:
            logger.warning(
                "%s also holds averaged weights, which are not used; MODEL.EMA.ENABLED True "
                "takes them",
                filename,
            )
        elif average and "ema" not in self.checkpointables:
            logger.info("Taking the averaged weights of %s", filename)
            contents["model"] = _without_wrapper(average)
        try:
            weights = self._convert(unwrap(contents), training_options(contents))
        except ValueError as error:
            raise ValueError(f"{filename}: {error}") from error
        self._require_match(filename, weights)
        if self.for_inference:
            self._require_all(filename, weights)
        _require_finite(filename, weights.tensors)
        extra = {
            key: value
            for key, value in contents.items()
            # This one would make the base class guess names.
            if key != "matching_heuristics" and not isinstance(value, Tensor)
        }
        return {**extra, "model": weights.tensors}

    def _convert(self, weights: dict[str, Tensor], options: dict[str, object]) -> _Weights:
        expected = self.model.state_dict()
        if _shapes(weights) == _shapes(expected):
            logger.info("All %d tensors of the model are in the file", len(weights))
            return _Weights(weights, OWN_FORMAT)
        converted, report = convert_state_dict(weights, self.cfg, expected, options)
        logger.info("%s", report.summary())
        for difference in report.differences:
            logger.warning("%s", difference)
        logger.info("Where every tensor went:\n%s", report.table())
        classes = {
            weights[key].shape[0] for key in report.unused if key.endswith("class_embed.0.bias")
        }
        other = classes - {self.cfg.MODEL.DETR.NUM_CLASSES}
        return _Weights(converted, report.format, other.pop() if other else None, report.unplaced)

    def _require_match(self, filename: str, weights: _Weights) -> None:
        expected = self.model.state_dict()
        backbone = {k: v for k, v in expected.items() if k.startswith(BACKBONE)}
        rest = {k: v for k, v in expected.items() if k not in backbone}
        if weights.format in BACKBONE_FORMATS:
            parts = {"the backbone of ": backbone}
        else:
            # A backbone is half of a small detector and fits many others.
            parts = {"": expected, "the transformer of ": rest}
        for part, tensors in parts.items():
            fitting = [v for k, v in tensors.items() if _fits(v, weights.tensors.get(k))]
            total = sum(v.numel() for v in tensors.values())
            share = sum(v.numel() for v in fitting) / max(total, 1)
            if 2 * len(fitting) >= len(tensors) and share >= 0.5:
                continue
            raise ValueError(
                f"{filename} (format {weights.format}) fits only {len(fitting)} of {len(tensors)} "
                f"tensors and {share:.0%} of the weights of {part}this "
                f"{self.cfg.MODEL.META_ARCHITECTURE}: give the --config-file that it was trained "
                f"with, or another MODEL.WEIGHTS\n{_match_table(expected, weights.tensors)}"
            )

    def _require_all(self, filename: str, weights: _Weights) -> None:
        """Check that nothing that inference uses stays at its random initialisation."""
        if weights.format in BACKBONE_FORMATS:
            raise ValueError(
                f"{filename} holds only a backbone (format {weights.format}), the rest of the "
                "detector would be random: give MODEL.WEIGHTS the checkpoint of a trained detector"
            )
        unfilled = [
            name
            for name, parameter in self.model.named_parameters()
            if not name.startswith(DENOISING) and not _fits(parameter, weights.tensors.get(name))
        ]
        if not unfilled:
            self._require_known(filename, weights)
            return
        if weights.other_classes and all("class_embed" in name for name in unfilled):
            raise ValueError(
                f"{filename}: the file has {weights.other_classes} classes, MODEL.DETR.NUM_CLASSES "
                f"is {self.cfg.MODEL.DETR.NUM_CLASSES} and the class heads would be random; set "
                f"MODEL.DETR.NUM_CLASSES {weights.other_classes}"
            )
        more = ", ..." if len(unfilled) > 3 else ""
        raise ValueError(
            f"{filename} (format {weights.format}) leaves {len(unfilled)} parameters of this model "
            f"random ({', '.join(unfilled[:3])}{more}): give the --config-file it was trained with"
        )

    def _require_known(self, filename: str, weights: _Weights) -> None:
        """Check that no trained part of the file is missing from the model."""
        unknown = [name for name in weights.unplaced if not name.startswith(TRAINED_ONLY)]
        if unknown:
            more = ", ..." if len(unknown) > 3 else ""
            raise ValueError(
                f"{filename} is of another detector: this {self.cfg.MODEL.META_ARCHITECTURE} has "
                f"no place for {len(unknown)} of its tensors ({', '.join(unknown[:3])}{more}); "
                "give the --config-file it was trained with"
            )


def _latest(paths: Iterable[str], skipped: list[str]) -> str | None:
    """The checkpoint of the latest iteration; the first among equals.

    Args:
        paths: files that may be truncated or hold weights only.
        skipped: gets the reason why each such file cannot be resumed from.
    """
    iterations = {}
    for path in paths:
        try:
            iteration = read_checkpoint(path, mmap=True).get("iteration")
        except ValueError as error:
            skipped.append(str(error))
            continue
        if isinstance(iteration, int):
            iterations[path] = iteration
        else:
            skipped.append(f"{path} holds weights only")
    return max(iterations, key=iterations.__getitem__, default=None)


def _without_wrapper(average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the model inside an ``AveragedModel``'s state."""
    prefix = "module."
    return {k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)}


def _fits(tensor: Tensor, given: Tensor | None) -> bool:
    return given is not None and given.shape == tensor.shape


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _match_table(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Per part of the model: tensors that fit, have another shape, or are missing."""
    counts: dict[str, list[int]] = {}
    mismatched = []
    for name, tensor in expected.items():
        row = counts.setdefault(".".join(name.split(".")[:2]), [0, 0, 0])
        if _fits(tensor, given.get(name)):
            row[0] += 1
        elif name in given:
            row[1] += 1
            mismatched.append((name, tuple(given[name].shape), tuple(tensor.shape)))
        else:
            row[2] += 1
    parts = tabulate(
        [(part, *row) for part, row in counts.items()],
        headers=("part of the model", "fits", "other shape", "not in the file"),
    )
    shapes = tabulate(mismatched, headers=("tensor", "shape in the file", "shape in the model"))
    return f"{parts}\n\n{shapes}" if mismatched else str(parts)


def _require_finite(filename: str, tensors: Mapping[str, Tensor]) -> None:
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise ValueError(
            f"{filename} has NaN or infinite values in {len(broken)} tensors: "
            f"{', '.join(broken[:5])}; use an earlier checkpoint"
        )
