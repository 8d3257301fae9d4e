"""Says what is installed, which path the attention operators take, and how to fix it.

    lite-focus-detr env
    python projects/lite_focus_detr/tools/check_env.py    where the package does not even import

The exit code is 1 if something is missing without which the package cannot work.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import NamedTuple

DISTRIBUTION = "lite-focus-detr"
# They have checks of their own: that they import, and that they fit each other.
IMPORTED = ("torch", "torchvision")
DETECTRON2_FIX = (
    "make env, or: pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'"
)
BUILD_FIX = "pip install -e . --no-build-isolation   (needs a C++ compiler; prints what fails)"
# A module made for other releases of its dependencies fails in any of these ways.
IMPORT_ERRORS = (ImportError, OSError, RuntimeError, AttributeError)
# Largest error of the operators against the closed form, relative to the values.
TOLERANCE = 1e-5


class Finding(NamedTuple):
    """One line of the report; ``problem`` and ``fix`` are empty where all is well."""

    name: str
    value: str
    problem: str = ""
    fix: str = ""
    fatal: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit code."""
    argparse.ArgumentParser(
        prog="lite-focus-detr env",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    # The report has its own lines for what these would say.
    logging.getLogger("lite_focus_detr").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    findings = list(run_checks())
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.name:{width}}  {finding.value}")
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        print(f"\n{'ERROR' if finding.fatal else 'note'}: {finding.problem}\n  fix: {finding.fix}")
    fatal = any(finding.fatal for finding in problems)
    print("\n" + ("Something needed is missing." if fatal else "All that is needed is there."))
    return int(fatal)


def run_checks() -> Iterator[Finding]:
    """Everything that is checked, in the order of the report."""
    yield Finding("python", sys.version.split()[0])
    yield _imports("torch", "make env, or: pip install torch torchvision")
    yield _torchvision()
    yield _imports("detectron2", DETECTRON2_FIX, "detectron2.modeling")
    yield _pkg_resources()
    yield from _requirements()
    yield _compiler()
    if find_spec("torch") is not None:
        yield from _devices()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _imports(name: str, fix: str, *submodules: str) -> Finding:
    """Whether a package and its submodules can be imported, with the loader's words if not."""
    module = name
    try:
        version = getattr(importlib.import_module(module), "__version__", "unknown version")
        for module in submodules:
            importlib.import_module(module)
    except IMPORT_ERRORS as error:
        problem = f"{module} does not import: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return Finding(name, "missing", problem, fix, fatal=True)
        # pip does not replace an installed release by another source of the same version.
        return Finding(name, "broken", problem, f"pip uninstall {name}, then {fix}", fatal=True)
    return Finding(name, version)


def _torchvision() -> Finding:
    finding = _imports("torchvision", "install the release made for this torch")
    needed, found = _torch_of_torchvision(), _version("torch")
    if needed is None or found is None or found.split("+")[0] == needed:
        return finding
    return Finding(
        finding.name,
        finding.value,
        f"torchvision {_version('torchvision')} is made for torch {needed}, not {found}",
        f"pip install torch=={needed}, or the torchvision release of torch {found}",
        fatal=True,
    )


def _torch_of_torchvision() -> str | None:
    """The torch release that the installed torchvision was built with."""
    requirements = metadata.requires("torchvision") if _version("torchvision") else None
    for requirement in requirements or ():
        if requirement.startswith("torch=="):
            return requirement.removeprefix("torch==").split(";")[0].strip()
    return None


def _pkg_resources() -> Finding:
    if find_spec("pkg_resources") is not None:
        return Finding("pkg_resources", "present")
    return Finding(
        "pkg_resources",
        "missing",
        "detectron2.model_zoo does not import without pkg_resources, which recent setuptools "
        "dropped; lite_focus_detr.model_zoo does not need it",
        "only for detectron2's own zoo: pip install 'setuptools<81'",
    )


def _requirements() -> Iterator[Finding]:
    """What the metadata of the installed package require, without the extras."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        problem = f"{DISTRIBUTION} is not installed, so that its requirements are not known"
        yield Finding(DISTRIBUTION, "not installed", problem, BUILD_FIX)
        return
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement)[0]
        if "extra ==" not in requirement and name not in IMPORTED:
            yield _installed(name)


def _installed(distribution: str) -> Finding:
    version = _version(distribution)
    if version is not None:
        return Finding(distribution, version)
    problem = f"{distribution} is not installed"
    return Finding(distribution, "missing", problem, f"pip install {distribution}", fatal=True)


def _compiler() -> Finding:
    found = [command for command in ("c++", "g++", "clang++", "nvcc") if shutil.which(command)]
    return Finding("compilers", ", ".join(found) or "none")


def _devices() -> Iterator[Finding]:
    import torch

    try:
        from lite_focus_detr import ops
    except IMPORT_ERRORS as error:
        problem = f"lite_focus_detr does not import: {error}"
        yield Finding("operators", "not checked", problem, "fix the errors above first", fatal=True)
        return
    available = torch.cuda.is_available()
    yield Finding("CUDA", torch.cuda.get_device_name() if available else "no device")
    for device in ("cpu", "cuda") if available else ("cpu",):
        reason = ops.unavailable_reason(device)
        value = ops.backend(device) + (f" ({reason})" if reason else "")
        problem = f"operators on {device} run in PyTorch, slower: {reason}" if reason else ""
        yield Finding(f"operators on {device}", value, problem, BUILD_FIX if reason else "")
        yield _self_test(device)


def _self_test(device: str) -> Finding:
    error = operator_error(device)
    value = f"largest relative error {error:.1e}"
    if error <= TOLERANCE:
        return Finding(f"self-test on {device}", value)
    problem = f"operators on {device} are wrong: {value}, more than {TOLERANCE:.0e}"
    fix = "LITE_FOCUS_DETR_OPS=reference in the environment, and report this output"
    return Finding(f"self-test on {device}", value, problem, fix, fatal=True)


def operator_error(device: str) -> float:
    """Largest relative error of the operators on maps for which the result is known.

    Bilinear interpolation of a linear ramp is exact, so a sample at (x, y) of a map of W x H
    pixels is ``x W - 1/2 + 2 (y H - 1/2)``. A zero query weights all samples alike.
    """
    import torch

    from lite_focus_detr import ops

    shapes = [(9, 7), (4, 5)]
    generator = torch.Generator().manual_seed(0)
    locations = 0.2 + 0.6 * torch.rand(2, 6, 2, len(shapes), 4, 2, generator=generator)
    weights = torch.rand(2, 6, 2, len(shapes), 4, generator=generator)
    ramps = [torch.arange(w).float() + 2.0 * torch.arange(h).float()[:, None] for h, w in shapes]
    value = torch.cat([ramp.flatten() for ramp in ramps])[None, :, None, None].repeat(2, 1, 2, 16)
    sizes = torch.tensor([(w, h) for h, w in shapes]).float()
    pixels = locations * sizes[:, None] - 0.5
    samples = pixels[..., 0] + 2.0 * pixels[..., 1]

    value, locations, query = (
        tensor.to(device) for tensor in (value, locations, torch.zeros(2, 6, 2, 16))
    )
    sampled = ops.multi_scale_deformable_attention(value, shapes, locations, weights.to(device))
    averaged = ops.key_aware_deformable_attention(query, None, value, shapes, locations)
    errors = [
        (result.cpu().reshape(2, 6, 2, 16) - expected[..., None]).abs().max() / expected.max()
        for result, expected in (
            (sampled, (weights * samples).sum((-1, -2))),
            (averaged, samples.mean((-1, -2))),
        )
    ]
    return float(max(errors))


if __name__ == "__main__":
    raise SystemExit(main())
