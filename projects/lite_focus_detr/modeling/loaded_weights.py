"""Refusal to detect with weights of which a part is missing, whoever has loaded them.

detectron2's ``DefaultPredictor`` and scripts like it load what fits of a file and leave the rest of
the detector random; only the log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

# Buffers of backbones that a model computes itself.
_CONSTANTS = ("relative_position_index", "attn_mask", "num_batches_tracked")


@dataclass(frozen=True)
class LoadedWeights:
    """What ``load_state_dict`` has said about weights that inference has not looked at yet.

    Attributes:
        missing: parameters that no file has filled; None: nothing was loaded, or all is known to
            be right.
        unexpected: tensors of the last file that the detector has no place for.
    """

    missing: tuple[str, ...] | None = None
    unexpected: tuple[str, ...] = ()


class _IncompatibleKeys(Protocol):
    missing_keys: list[str]
    unexpected_keys: list[str]


def note_loaded(model: Any, keys: _IncompatibleKeys) -> None:
    """Remember what a call of ``load_state_dict`` did not fill; a hook for its end.

    Args:
        model: a module with the attribute ``loaded``.
        keys: of PyTorch. Of a model inside of another the names are unknown, and not looked at.
    """
    earlier: tuple[str, ...] | None = model.loaded.missing
    missing = set(keys.missing_keys)
    if earlier is not None:
        missing &= set(earlier)
    model.loaded = LoadedWeights(
        tuple(name for name, _ in model.named_parameters() if name in missing),
        tuple(name for name in keys.unexpected_keys if not name.endswith(_CONSTANTS)),
    )


def require_all_loaded(model: nn.Module, loaded: LoadedWeights) -> LoadedWeights:
    """Check that weights are of a detector, once after they were loaded.

    Parts that only a training uses may be missing, or be too many.

    Args:
        model: the detector.
        loaded: what is known of its weights.

    Returns:
        that all is right.

    Raises:
        RuntimeError: parameters are random, tensors had no place, or values are not finite.
    """
    if loaded.missing is None:
        return loaded
    training_only = training_only_prefixes(model)
    missing = [name for name in loaded.missing if not name.startswith(training_only)]
    unexpected = [name for name in loaded.unexpected if not name.startswith(training_only)]
    broken = [name for name, x in model.named_parameters() if not is_finite(x)]
    faults = (
        (missing, "are in this detector alone and would be random"),
        (unexpected, "are in the file alone"),
        (broken, "have NaN or infinite values"),
    )
    for names, fault in faults:
        if names:
            raise RuntimeError(
                f"the weights that were loaded are not of this {type(model).__name__}: "
                f"{len(names)} tensors {fault} ({examples(names)}). Give the configuration that "
                "they were trained with; lite_focus_detr.Predictor also loads published files"
            )
    return LoadedWeights()


def training_only_prefixes(model: nn.Module) -> tuple[str, ...]:
    """How the names of those parameters begin that inference does not use.

    They are those of denoising and of the submodules that the encoder names in ``training_only``.
    """
    encoder = getattr(model, "encoder", None)
    names = getattr(encoder, "training_only", ())
    return ("denoising.", *(f"encoder.{name}." for name in names))


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    A sum is finite only if all that it adds is, and it takes a tenth of the time of a look at every
    element; only where the sum itself overflows that is needed.
    """
    if not tensor.is_floating_point():
        return True
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def examples(names: Sequence[str]) -> str:
    """The first three of many names."""
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
