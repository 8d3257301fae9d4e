"""Loading of the compiled kernels, once, and the account of which path runs and why."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from . import registration

ENVIRONMENT_VARIABLE = "LITE_FOCUS_DETR_OPS"
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_LIBRARIES = {"cpu": "_cpu", "cuda": "_cuda"}

logger = logging.getLogger(__name__)


def _load(stem: str) -> str | None:
    """Load the library ``stem``; None when it is usable, else the reason why it is not."""
    files = sorted(Path(__file__).parent.glob(f"{stem}.*so"))
    if not files:
        return f"{stem}.so has not been built"
    try:
        torch.ops.load_library(str(files[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{files[0].name} does not load: {error.__cause__ or error}"
    return None


def load_libraries() -> dict[str, str | None]:
    """Load what is built; per device type None, or why the kernels cannot run there."""
    reasons = {"cpu": _load(_LIBRARIES["cpu"])}
    if reasons["cpu"] is not None:
        reasons["cuda"] = reasons["cpu"]
    elif torch.version.cuda is None:
        reasons["cuda"] = "this PyTorch has no CUDA"
    else:
        reasons["cuda"] = _load(_LIBRARIES["cuda"])
    if reasons["cpu"] is None:
        registration.register()
    else:
        logger.warning(
            "The compiled attention kernels are not available (%s); the slower PyTorch reference "
            "takes over. `pip install -e . --no-build-isolation` builds them.",
            reasons["cpu"],
        )
    return reasons


_REASONS = load_libraries()


def unavailable_reason(device: torch.device | str) -> str | None:
    """Why the reference runs on ``device``, or None when the native kernels do."""
    if os.environ.get(ENVIRONMENT_VARIABLE) == "reference":
        return f"{ENVIRONMENT_VARIABLE}=reference"
    kind = torch.device(device).type
    return _REASONS.get(kind, f"there are no kernels for {kind}")


def backend(device: torch.device | str) -> str:
    """The path that the operators take for tensors on ``device``: cuda, cpu or reference."""
    kind = torch.device(device).type
    return kind if unavailable_reason(kind) is None else "reference"


def supports(value: torch.Tensor) -> bool:
    """Whether the native kernels run for tensors like ``value``."""
    return value.dtype in _DTYPES and unavailable_reason(value.device) is None
