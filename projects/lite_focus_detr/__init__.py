"""Efficient DETR encoders for detectron2, and their operators for any PyTorch.

The names below are imported when they are first used, so that :mod:`lite_focus_detr.ops` needs
nothing but PyTorch. Adding the configuration imports :mod:`lite_focus_detr.modeling`, which
registers the detectors with detectron2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import model_zoo, modeling, ops
    from .config import add_lite_focus_detr_config, validate_config
    from .optimization import optimize_for_inference
    from .predictor import Predictor

__version__ = "0.2.0"

__all__ = [
    "Predictor",
    "__version__",
    "add_lite_focus_detr_config",
    "model_zoo",
    "modeling",
    "ops",
    "optimize_for_inference",
    "validate_config",
]

#: Where each public name is, "" for a module of that name.
_PLACES = {
    "Predictor": "predictor",
    "add_lite_focus_detr_config": "config",
    "model_zoo": "",
    "modeling": "",
    "ops": "",
    "optimize_for_inference": "optimization",
    "validate_config": "config",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES[name]
    try:
        module = import_module(f".{place or name}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise
        raise ImportError(
            f"lite_focus_detr.{name} needs detectron2, which is not installed; run "
            "python -m lite_focus_detr.tools.check_env"
        ) from error
    found = getattr(module, name) if place else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
