"""Installation of lite-focus-detr; the native attention kernels are built where that is possible.

Nothing that goes wrong in the native build stops the installation, and nothing that goes wrong with
CUDA or with ONNX Runtime costs the kernels for the CPU. PyTorch code takes their place, and the
reason is printed here and by ``lite_focus_detr.ops.unavailable_reason``. As in torchvision and
detectron2 the kernels for CUDA are built where a GPU can be seen, or with ``FORCE_CUDA=1`` in the
environment.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup

PACKAGE = "lite_focus_detr"
ROOT = Path(__file__).resolve().parent
KERNELS = ROOT / "kernels"
# The kernels use PyTorch's stable ABI, so that one build serves this and later releases.
MINIMUM_TORCH = "2.10"
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-fvisibility=hidden"]
# Python's own flags have -fwrapv or -fno-strict-overflow, which keep compilers from simplifying the
# arithmetic of indices.
FAST = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fstrict-overflow", "-fno-wrapv"]
COMPILE = ["-std=c++17", "-g0", *FAST, *STABLE_ABI]
# More flags for the CPU's library, behind all others; dev/sanitize_operators.sh has an example.
EXTRA = os.environ.get("LITE_FOCUS_DETR_CXXFLAGS", "").split()
# The header that the operators for ONNX Runtime need: dev/get_onnxruntime_header.py, or Debian.
ONNXRUNTIME_HEADER = "onnxruntime_c_api.h"
ONNXRUNTIME_FOLDERS = (ROOT / "build" / "onnxruntime", Path("/usr/include/onnxruntime"))
# What of kernels/cpu knows PyTorch.
PYTORCH_SOURCES = {"register.cpp", "torch_threads.cpp"}
# For every library.
OLD_LIBC = "kernels/cpu/old_libc.cpp"
# Registers and spills of nvcc are for dev/check_cuda_registers.py.
COMPILE_CUDA = ["-O3", "-std=c++17", "-Xptxas", "-v", STABLE_ABI[0], "-Xcompiler", STABLE_ABI[1]]
# Those that nvcc does not know are left out; the last one of the rest also gets PTX.
CUDA_ARCHITECTURES = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
# A missing or broken compiler shows as any of these.
BUILD_ERRORS = (RuntimeError, OSError, subprocess.SubprocessError)

logger = logging.getLogger(PACKAGE)


def _library_file() -> Any:
    """The module of the package, which cannot be imported before it is installed."""
    path = ROOT / "projects" / PACKAGE / "ops" / "library_file.py"
    specification = importlib.util.spec_from_file_location("library_file", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _stamp(architectures: list[str]) -> tuple[str, str]:
    """The macro with what a library says about itself."""
    library_file = _library_file()
    interface = library_file.interface_digest(KERNELS)
    return "LITE_FOCUS_STAMP", f'"{library_file.stamp_text(interface, architectures)}"'


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


def _why_no_cuda() -> str | None:
    """Why the kernels for CUDA are not built, None where they are."""
    import torch
    from torch.utils import cpp_extension

    if torch.version.cuda is None:
        return "this PyTorch has no CUDA"
    if cpp_extension.CUDA_HOME is None:
        return "there is no nvcc"
    if os.environ.get("FORCE_CUDA") != "1" and not torch.cuda.is_available():
        return "no GPU can be seen; FORCE_CUDA=1 in the environment builds them all the same"
    return None


def _known_to_nvcc(names: Iterable[str]) -> set[str]:
    """Those of the architectures that nvcc compiles for."""
    from torch.utils import cpp_extension

    nvcc = Path(cpp_extension.CUDA_HOME or "", "bin", "nvcc")
    try:
        listed = subprocess.run(
            [str(nvcc), "--list-gpu-arch"], capture_output=True, text=True, check=True
        ).stdout.split()
    except BUILD_ERRORS:
        return set()
    return {name for name in names if f"compute_{name.replace('.', '')}" in listed}


def _cuda_architectures() -> list[str]:
    """Those of ``TORCH_CUDA_ARCH_LIST``, else all that nvcc knows and those of the visible GPUs."""
    import torch

    given = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";")
    if given:
        return [name for name in given.split(";") if name]
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    visible = {".".join(map(str, torch.cuda.get_device_capability(index))) for index in devices}
    names = sorted(_known_to_nvcc({*CUDA_ARCHITECTURES, *visible}), key=float)
    # An nvcc that lists nothing fails later, where the failure costs the kernels for CUDA alone.
    return [*names[:-1], f"{names[-1]}+PTX"] if names else ["8.0", "9.0+PTX"]


def _onnxruntime_extensions() -> list[Extension]:
    """The operators for ONNX Runtime, without PyTorch and Python, where its header is."""
    given = os.environ.get("ONNXRUNTIME_INCLUDE")
    folders = [Path(given)] if given else ONNXRUNTIME_FOLDERS
    found = [folder for folder in folders if (folder / ONNXRUNTIME_HEADER).is_file()]
    if not found:
        logger.warning("Operators for ONNX Runtime are not built: no %s", ONNXRUNTIME_HEADER)
        return []
    sources = [x for x in _sources("kernels/cpu", ".cpp") if Path(x).name not in PYTORCH_SOURCES]
    exports = KERNELS / "onnxruntime" / "exports.map"
    return [
        Extension(
            f"{PACKAGE}.ops._onnxruntime",
            [*sources, *_sources("kernels/onnxruntime", ".cpp")],
            include_dirs=[str(KERNELS), str(found[0])],
            define_macros=[("LITE_FOCUS_INFERENCE", None)],
            extra_compile_args={"cxx": [*COMPILE, *EXTRA]},
            extra_link_args=[f"-Wl,--version-script={exports}"],
            py_limited_api=True,
            optional=True,
            language="c++",
        )
    ]


def _extensions() -> list[Extension]:
    """The libraries for the CPU, and the CUDA library where it is to be built."""
    from torch.utils import cpp_extension

    common = {"include_dirs": [str(KERNELS)], "py_limited_api": True, "optional": True}
    cpu = cpp_extension.CppExtension(
        f"{PACKAGE}.ops._cpu",
        _sources("kernels/cpu", ".cpp"),
        define_macros=[_stamp([])],
        extra_compile_args={"cxx": [*COMPILE, *EXTRA]},
        **common,
    )
    reason = _why_no_cuda()
    if reason is not None:
        logger.warning("CUDA kernels are not built: %s", reason)
        return [cpu, *_onnxruntime_extensions()]
    architectures = _cuda_architectures()
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(architectures)
    cuda = cpp_extension.CUDAExtension(
        f"{PACKAGE}.ops._cuda",
        [*_sources("kernels/cuda", ".cpp", ".cu"), OLD_LIBC],
        define_macros=[("USE_CUDA", None), _stamp(architectures)],
        extra_compile_args={"cxx": COMPILE, "nvcc": COMPILE_CUDA},
        **common,
    )
    return [cpu, cuda, *_onnxruntime_extensions()]


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

        def build_extensions(self) -> None:
            # One by one: PyTorch refuses them all where CUDA's version is not its own.
            extensions, folder = self.extensions, Path(self.build_temp)
            for extension in extensions:
                self.extensions = [extension]
                # Sources of two libraries are compiled for each of them.
                self.build_temp = str(folder / extension.name)
                try:
                    super().build_extensions()
                except BUILD_ERRORS as error:
                    logger.warning(
                        "%s is not built, PyTorch code takes its place: %s. The output of the "
                        "compiler is above (`pip install -v` shows it)",
                        extension.name,
                        error,
                    )
            self.extensions, self.build_temp = extensions, str(folder)

    return {"ext_modules": _extensions(), "cmdclass": {"build_ext": OptionalBuild}}


# All other metadata is in pyproject.toml.
setup(
    packages=[*find_packages("projects"), f"{PACKAGE}.configs", f"{PACKAGE}.kernels"],
    **_native_build(),
)
