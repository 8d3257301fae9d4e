"""Installation of lite-focus-detr; the native attention kernels are built where that is possible.

Nothing that goes wrong in the native build stops the installation: the operators then run in
PyTorch, and the reason is printed here and by ``lite_focus_detr.ops.unavailable_reason``.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup

PACKAGE = "lite_focus_detr"
ROOT = Path(__file__).resolve().parent
# The kernels use PyTorch's stable ABI, so that one build serves this and later releases.
MINIMUM_TORCH = "2.10"
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
COMPILE = ["-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-g0", *STABLE_ABI]
CUDA_ARCHITECTURES = "8.0;9.0+PTX"
# A missing or broken compiler shows as any of these.
BUILD_ERRORS = (RuntimeError, OSError, subprocess.SubprocessError)

logger = logging.getLogger(PACKAGE)


def _find_cuda() -> None:
    """Tell PyTorch where the CUDA toolkit is: it trusts nvcc, which may be a link or a script."""
    nvcc = shutil.which("nvcc")
    folders = [Path(nvcc).resolve().parents[1]] if nvcc else []
    folders.append(Path("/usr/local/cuda"))
    found = [folder for folder in folders if (folder / "include/cuda_runtime_api.h").exists()]
    if found and not {"CUDA_HOME", "CUDA_PATH"} & os.environ.keys():
        os.environ["CUDA_HOME"] = str(found[0])


def _sources(folder: str, *suffixes: str) -> list[str]:
    files = sorted(path for suffix in suffixes for path in (ROOT / folder).glob(f"*{suffix}"))
    return [str(path.relative_to(ROOT)) for path in files]


def _extensions() -> list[Extension]:
    """The CPU library, and the CUDA library when the toolkit and a CUDA PyTorch are there."""
    import torch
    from torch.utils import cpp_extension

    common = {"include_dirs": [str(ROOT / "kernels")], "py_limited_api": True, "optional": True}
    cpu = cpp_extension.CppExtension(
        f"{PACKAGE}.ops._cpu",
        _sources("kernels/cpu", ".cpp"),
        extra_compile_args={"cxx": COMPILE},
        **common,
    )
    if torch.version.cuda is None or cpp_extension.CUDA_HOME is None:
        logger.warning("CUDA kernels are not built: they need a CUDA PyTorch and the CUDA toolkit")
        return [cpu]
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    cuda = cpp_extension.CUDAExtension(
        f"{PACKAGE}.ops._cuda",
        _sources("kernels/cuda", ".cpp", ".cu"),
        define_macros=[("USE_CUDA", None)],
        extra_compile_args={
            "cxx": COMPILE,
            # Registers and spills, for dev/check_cuda_registers.py.
            "nvcc": ["-O3", "-std=c++17", "-Xptxas", "-v", *STABLE_ABI],
        },
        **common,
    )
    return [cpu, cuda]


def _native_build() -> dict[str, Any]:
    """Arguments of ``setup`` that build the kernels, empty when that cannot be tried."""
    _find_cuda()
    try:
        import torch
        from packaging.version import Version
        from torch.utils.cpp_extension import BuildExtension
    except ImportError as error:
        logger.warning(
            "Native kernels are not built (%s). With PyTorch installed, `pip install -e . "
            "--no-build-isolation` builds them.",
            error,
        )
        return {}
    if Version(torch.__version__) < Version(MINIMUM_TORCH):
        logger.warning(
            "Native kernels are not built: they need PyTorch %s or later, found %s",
            MINIMUM_TORCH,
            torch.__version__,
        )
        return {}

    class OptionalBuild(BuildExtension):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, no_python_abi_suffix=True, **kwargs)

        def build_extension(self, ext: Extension) -> None:
            try:
                super().build_extension(ext)
            except BUILD_ERRORS as error:
                logger.warning("%s is not built, PyTorch code takes its place: %s", ext.name, error)

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except BUILD_ERRORS as error:
                logger.warning("Native kernels are not built: %s", error)

    return {"ext_modules": _extensions(), "cmdclass": {"build_ext": OptionalBuild}}


# All other metadata is in pyproject.toml.
setup(
    packages=[*find_packages("projects"), f"{PACKAGE}.configs", f"{PACKAGE}.kernels"],
    **_native_build(),
)
