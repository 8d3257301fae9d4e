"""Checkpoints: published formats, refusal of files that do not fit, resuming, atomic writing."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..converters import (
    BACKBONE_FORMATS,
    NATIVE_FORMAT,
    ClassNames,
    convert_state_dict,
    training_options,
    unwrap,
)
from ..modeling.loaded_weights import examples
from .checkpoint_checks import (
    FileWeights,
    require_all,
    require_finite,
    require_finite_contents,
    require_match,
    same_shapes,
)
from .checkpoint_io import read_checkpoint, write_atomically, write_checkpoint
from .description import description_of
from .detector_record import classes_of
from .nonfinite import NonFiniteError
from .resume import require_resumable
from .weights_file import find_weights

logger = logging.getLogger(__name__)

#: Name of the checkpoint of the best evaluation.
BEST = "model_best"
_RESUME = "earlier checkpoints are intact: free some space and continue with --resume"
# Of the periods and of interruptions: the iteration in seven digits.
_REGULAR = re.compile(r"model_\d{7}\.pth$")


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
                parameters random, except those that only a training uses.
            save_to_disk: None saves on the main process only.
            checkpointables: objects with ``state_dict`` and ``load_state_dict`` to save as well.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._resuming = False
        # What was read to find the file to resume from, its name and its time.
        self._read: tuple[str, int, dict[str, Any]] | None = None
        #: Entered while a checkpoint is written.
        self.while_saving: Callable[[], AbstractContextManager[None]] = nullcontext
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
        local = find_weights(path) if path else ""
        if not path and self.for_inference:
            logger.warning("MODEL.WEIGHTS is empty: the weights of the model are random")
        self._resuming = checkpointables is None and "trainer" in self.checkpointables
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
        try:
            extra: dict[str, Any] = super().resume_or_load(path, resume=resume)
        finally:
            self._read = None
        return extra

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name.pth``: the model, the checkpointables and ``kwargs``.

        A training is resumed from it, unless it is called ``BEST``.

        Raises:
            OSError: it could not be written. No partial file is left, earlier ones are intact.
            NonFiniteError: a tensor is not finite. Nothing is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        contents: dict[str, Any] = {"model": self.model.state_dict()}
        contents |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        contents |= kwargs
        path = os.path.join(self.save_dir, f"{name}.pth")
        try:
            require_finite_contents(path, contents)
        except ValueError as error:
            raise NonFiniteError(f"not saved: {error}") from error
        logger.info("Saving checkpoint to %s", path)
        with self.while_saving():
            write_checkpoint(path, contents, remedy=_RESUME)
            if name != BEST:
                self.tag_last_checkpoint(f"{name}.pth")
                self._remove_old(path)

    def add_to_saved(self, key: str, values: Mapping[str, Any], *, iteration: int) -> None:
        """Put into the newest files what has become known after they were written.

        Everything else in them stays. A file that cannot be written stays as it is, with a warning.

        Args:
            key: name of the checkpointable whose state is changed.
            values: new entries of the state.
            iteration: that the files have been written in; those of another one stay as they are.
        """
        if not (self.save_dir and self.save_to_disk):
            return
        regular = os.path.join(self.save_dir, f"model_{iteration:07d}.pth")
        for path in dict.fromkeys((regular, self._tagged_file())):  # the newest last
            if path is None or not os.path.isfile(path) or _iteration(path) != iteration:
                continue
            try:
                contents = read_checkpoint(path)
                if key in contents:
                    contents[key].update(values)
                    with self.while_saving():
                        write_checkpoint(path, contents, remedy=_RESUME)
            except (OSError, ValueError) as error:
                logger.warning("The metrics are missing in %s: %s", path, error)

    def _remove_old(self, newest: str) -> None:
        """Leave as many regular checkpoints as ``SOLVER.CHECKPOINT_KEEP`` says; 0 keeps all.

        Others, such as ``model_best.pth`` and ``model_final.pth``, stay.
        """
        keep = self.cfg.SOLVER.CHECKPOINT_KEEP
        regular = [path for path in self._saved("model_") if _REGULAR.search(path)]
        # The time tells the newest, not the number: a training may have resumed from an older one.
        old = [path for path in regular if path != newest][max(0, keep - (newest in regular)) :]
        for path in old if keep else ():
            logger.info("Removing the old checkpoint %s (SOLVER.CHECKPOINT_KEEP %d)", path, keep)
            os.remove(path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the name of the newest checkpoint in the file ``last_checkpoint``."""
        tag = os.path.join(self.save_dir, "last_checkpoint")
        name = last_filename_basename.encode()
        write_atomically(tag, lambda file: file.write(name), remedy=_RESUME)

    def has_checkpoint(self) -> bool:
        """Whether a training has saved anything in ``save_dir``, readable or not."""
        return bool(super().has_checkpoint() or self._saved("model_"))

    def get_checkpoint_file(self) -> str:
        """Path of the checkpoint to resume from.

        That is the one that ``last_checkpoint`` names, or else the one of the latest iteration.
        Files that cannot be read, are damaged, hold values that are not finite or no state of a
        training are skipped, with a warning that says why.

        Raises:
            ValueError: there is none; the message names the files that were tried.
        """
        skipped: list[str] = []
        for path in self._newest_first():
            reason = self._reason_to_skip(path)
            if reason is None:
                if skipped:
                    logger.warning("Skipped %s: resuming from %s", "; ".join(skipped), path)
                return path
            skipped.append(reason)
        tried = "; ".join(skipped) or "it holds no .pth file"
        raise ValueError(
            f"cannot resume in {self.save_dir}: {tried}. Remove the folder or train without "
            "--resume"
        )

    def _newest_first(self) -> Iterator[str]:
        """Files of ``save_dir`` in the order in which resuming tries them."""
        saved, tagged = self._saved(), self._tagged_file()
        if tagged in saved:
            yield tagged
        yield from sorted((x for x in saved if x != tagged), key=_iteration, reverse=True)

    def _tagged_file(self) -> str | None:
        """The file that ``last_checkpoint`` names."""
        try:
            with open(os.path.join(self.save_dir, "last_checkpoint"), "rb") as tag:
                name = tag.read().decode(errors="replace").strip()
        except OSError:
            return None
        return os.path.join(self.save_dir, name)

    def _reason_to_skip(self, path: str) -> str | None:
        """Why a training cannot go on from a file, None if it can."""
        try:
            contents = read_checkpoint(path)
            require_finite_contents(path, contents)
        except (ValueError, OSError) as error:
            return str(error)
        if not isinstance(contents.get("iteration"), int):
            return f"{path} holds weights only"
        if "trainer" in self.checkpointables and "trainer" not in contents:
            return f"{path} has an iteration, but no state of a training"
        self._read = path, _time_of_change(path), contents
        return None

    def _saved(self, prefix: str = "") -> list[str]:
        """Checkpoint files, the last written first."""
        if not os.path.isdir(self.save_dir):
            return []
        names = (x for x in os.listdir(self.save_dir) if x.endswith(".pth"))
        paths = [os.path.join(self.save_dir, name) for name in names if name.startswith(prefix)]
        return sorted(paths, key=lambda path: (_time_of_change(path), path), reverse=True)

    def _load_file(self, filename: str) -> dict[str, Any]:
        *found, contents = self._read or ("", 0, {})
        if found != [filename, _time_of_change(filename)]:
            contents = read_checkpoint(filename)
        self._read = None
        if self._resuming:
            require_resumable(filename, contents, self.model, self.cfg)
        if "ema" not in self.checkpointables:
            take_average(filename, contents, self.cfg)
        try:
            names = self._class_names(filename, contents)
            tensors = unwrap(contents)
            weights = self._convert(filename, tensors, training_options(contents), names)
        except ValueError as error:
            raise ValueError(f"{filename}: {error}") from error
        require_match(weights, self.model, self.cfg)
        if self.for_inference:
            require_all(weights, self.model, self.cfg)
        require_finite(weights)
        extra = {
            key: value
            for key, value in contents.items()
            # This one would make the base class guess names.
            if key != "matching_heuristics" and not isinstance(value, Tensor)
        }
        return {**extra, "model": weights.tensors}

    def _class_names(self, filename: str, contents: Mapping[str, Any]) -> ClassNames | None:
        """What classes are called, where a training begins with weights; inference and resuming
        have the classes of the file."""
        if self._resuming:
            return None
        in_file = description_of(contents, filename).class_names
        data = classes_of(self.cfg, split="TEST" if self.for_inference else "TRAIN").names
        if in_file is None or data is None:
            return None
        names = ClassNames(in_file, data, self.model.state_dict())
        if self.for_inference and names.differ():
            logger.warning(
                "%s has the classes %s, but %s has %s: they are compared by number, not by name",
                *(filename, examples(in_file), self.cfg.DATASETS.TEST[0], examples(data)),
            )
        return None if self.for_inference else names

    def _convert(
        self,
        filename: str,
        tensors: dict[str, Tensor],
        options: dict[str, object],
        names: ClassNames | None,
    ) -> FileWeights:
        expected = self.model.state_dict()
        same_classes = names is None or not names.differ()
        if same_classes and same_shapes(tensors, expected):
            logger.info("All %d tensors of the model are in the file", len(tensors))
            return FileWeights(filename, tensors, NATIVE_FORMAT)
        converted, report = convert_state_dict(tensors, self.cfg, expected, options, names)
        logger.info("%s", report.summary())
        for difference in report.differences:
            logger.warning("%s", difference)
        if report.missing and report.format not in BACKBONE_FORMATS:
            logger.warning("%s", report.untrained())
        logger.info("Where every tensor went:\n%s", report.table())
        classes = {
            tensors[key].shape[0]
            for key in report.unused
            if key.endswith(("class_embed.0.bias", "cls_branches.0.bias"))
        }
        other = classes - {self.cfg.MODEL.DETR.NUM_CLASSES}
        return FileWeights(
            filename, converted, report.format, other.pop() if other else None, report.unplaced
        )


def _iteration(path: str) -> float:
    """Iteration of a checkpoint; infinite where it has none, so that it is named first."""
    try:
        iteration = read_checkpoint(path, mmap=True).get("iteration")
    except (ValueError, OSError):
        return math.inf
    return iteration if isinstance(iteration, int) else math.inf


def _time_of_change(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # a link that leads nowhere
        return 0


def take_average(filename: str, contents: dict[str, Any], cfg: CfgNode) -> None:
    """Make averaged weights, where a file holds some, those of its model, in place.

    Args:
        filename: for messages.
        contents: of the file.
        cfg: without ``MODEL.EMA.ENABLED`` the weights stay, with a warning.
    """
    average = contents.get("ema")
    if average and not cfg.MODEL.EMA.ENABLED:
        logger.warning(
            "%s also holds averaged weights, which are not used; MODEL.EMA.ENABLED True takes them",
            filename,
        )
    elif average:
        logger.info("Taking the averaged weights of %s", filename)
        prefix = "module."  # of the model inside an AveragedModel
        contents["model"] = {
            k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)
        }
