"""Efficient DETR encoders for detectron2: importing the package registers its detectors."""

from __future__ import annotations

__version__ = "0.2.0"

__all__ = ["__version__", "add_lite_focus_detr_config", "modeling", "validate_config"]

try:
    from . import modeling
    from .config import add_lite_focus_detr_config, validate_config
except ModuleNotFoundError as error:
    # Without detectron2 only lite_focus_detr.tools.check_env can run, which says how to get it.
    if (error.name or "").split(".")[0] != "detectron2":
        raise

    def __getattr__(name: str) -> None:
        raise ImportError(
            f"lite_focus_detr.{name} needs detectron2, which is not installed; run "
            "python -m lite_focus_detr.tools.check_env"
        )
