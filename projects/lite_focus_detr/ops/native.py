"""Loading of the compiled kernels, once, and the account of which path runs and why."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

import torch

from . import library_file, registration
from .shared_library import library_fault

ENVIRONMENT_VARIABLE = "LITE_FOCUS_DETR_OPS"
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_LIBRARIES = {"cpu": "_cpu", "cuda": "_cuda"}
_BUILD = (
    "`pip install -v --no-build-isolation --editable .` in a checkout builds it and shows why not"
)
_BUILD_CUDA = f"FORCE_CUDA=1 {_BUILD}"

logger = logging.getLogger(__name__)


def _interface() -> str | None:
    """The digest of the sources that come with the package, None where there are none."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "kernels", package.parents[1] / "kernels"):
        if (folder / library_file.INTERFACE[0]).is_file():
            return library_file.interface_digest(folder)
    return None


def _find(stem: str) -> Path | None:
    files = sorted(Path(__file__).parent.glob(f"{stem}.*so"))
    return files[0] if files else None


def _load(stem: str) -> str | None:
    """Load the library ``stem``; None when it is usable, else the reason why it is not."""
    path = _find(stem)
    if path is None:
        return f"{stem}.so has not been built"
    try:
        fault = library_fault(str(path))
        if fault is not None:
            return f"{path.name} {fault}"
        stamp, interface = library_file.read_stamp(path), _interface()
        if interface is not None and (stamp is None or stamp.interface != interface):
            return f"{path.name} does not load: it was built from other sources, build it again"
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{path.name} does not load: {error.__cause__ or error}"
    missing = registration.missing_operators(stem.strip("_").upper())
    if missing:
        return (
            f"{path.name} is of another version or another project: it has no {', '.join(missing)}"
        )
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
            "takes over. %s.",
            reasons["cpu"],
            _BUILD,
        )
    return reasons


#: Per device type why the kernels cannot run, None where they can.
REASONS = load_libraries()


@cache
def uncovered_reason(index: int) -> str | None:
    """Why the CUDA library does not run on a GPU; None when it does."""
    path = _find(_LIBRARIES["cuda"])
    stamp = library_file.read_stamp(path) if path is not None else None
    capability = torch.cuda.get_device_capability(index)
    if stamp is None or library_file.covers(stamp.architectures, capability):
        return None
    name = ".".join(map(str, capability))
    return (
        f"the CUDA kernels are built for {', '.join(stamp.architectures)}, but GPU {index} has "
        f"compute capability {name}; TORCH_CUDA_ARCH_LIST={name} in a build covers it"
    )


@cache
def warn_once(reason: str) -> None:
    """Say that tensors on CUDA take the reference, the first time for each reason."""
    logger.warning(
        "Attention on CUDA takes the slower PyTorch reference: %s. %s.", reason, _BUILD_CUDA
    )


def unavailable_reason(device: torch.device | str) -> str | None:
    """Why the reference runs on ``device``, or None when the native kernels do."""
    if os.environ.get(ENVIRONMENT_VARIABLE) == "reference":
        return f"{ENVIRONMENT_VARIABLE}=reference"
    device = torch.device(device)
    reason = REASONS.get(device.type, f"there are no kernels for {device.type}")
    if reason is None and device.type == "cuda" and torch.cuda.is_available():
        index = torch.cuda.current_device() if device.index is None else device.index
        return uncovered_reason(index)
    return reason


def backend(device: torch.device | str) -> str:
    """The path that the operators take for tensors on ``device``: cuda, cpu or reference."""
    kind = torch.device(device).type
    return kind if unavailable_reason(device) is None else "reference"


def supports(value: torch.Tensor) -> bool:
    """Whether the native kernels run for tensors like ``value``; on CUDA warns once if not."""
    if value.dtype not in _DTYPES:
        return False
    reason = unavailable_reason(value.device)
    if reason is None:
        return True
    chosen = os.environ.get(ENVIRONMENT_VARIABLE) == "reference"
    if value.is_cuda and not chosen and not torch.compiler.is_compiling():
        warn_once(reason)
    return False
