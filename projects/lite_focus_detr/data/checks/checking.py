"""All checks of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from ..folders import DataFolder, read_data_folder
from ..folders.coco import read_coco_folder
from .classes import check_classes
from .duplicates import find_near_duplicates
from .findings import Finding, Level
from .images import ImageCheck, Progress, Thumbnail, check_images
from .splits import Split, read_split
from .suggestion import Suggestion, suggest, suggest_config


@dataclass(frozen=True)
class CheckedData:
    """A data set, what was found, and what to train with."""

    format: str  #: COCO, YOLO or Pascal VOC
    class_names: tuple[str, ...]
    splits: tuple[Split, ...]  #: the training split first, if there is one
    findings: tuple[Finding, ...]  #: the worst first
    suggestion: Suggestion

    @property
    def level(self) -> Level:
        """That of the worst finding."""
        return worst_level(self.findings)


def worst_level(findings: Iterable[Finding]) -> Level:
    """That of the worst of some findings; a note without any."""
    return max((finding.level for finding in findings), default=Level.NOTE)


def read_data(path: str | Path, cache_dir: str | Path) -> DataFolder:
    """Read a data folder, or a single COCO annotation file as the training split.

    Args:
        path: of the folder or file; the images of a file are looked for around it.
        cache_dir: for annotation files that are written.

    Raises:
        ValueError: it is of no known format, or malformed.
    """
    path = Path(path)
    if not path.is_file():
        return read_data_folder(path, cache_dir)
    folder = path.parent.parent if path.parent.name == "annotations" else path.parent
    splits, names = read_coco_folder(folder, {"train": path})
    return DataFolder("COCO", splits["train"], None, None, names)


def check_data(
    data: DataFolder,
    load_config: Callable[[str], CfgNode],
    config: str | None = None,
    progress: Progress[ImageCheck] = lambda checks, total: checks,
) -> CheckedData:
    """Check everything.

    Args:
        data: of :func:`read_data`.
        load_config: gives a configuration by its name or path.
        config: to train with; None: what fits.
        progress: shows how many images of a split are done.

    Raises:
        ValueError: an annotation file is malformed, or there is no such configuration.
    """
    cfg = None if config is None else load_config(config)
    findings: list[Finding] = []
    splits: list[Split] = []
    thumbnails: dict[str, dict[str, Thumbnail]] = {}
    for name, source in data.splits.items():
        split, found = read_split(name, source)
        wrong, thumbnails[name] = check_images(split, progress)
        splits.append(split)
        findings += [*wrong, *found]
    if data.train is None:
        text = f"no training split, only {', '.join(data.splits)}"
        findings.append(Finding(Level.ERROR, "files", text, 1))
    elif data.val is None:
        text = "no validation split: name a folder instead of a file, or split the images"
        findings.append(Finding(Level.WARNING, "files", text, 1))
    findings += check_classes(splits)
    findings += find_near_duplicates(thumbnails)
    config = config or suggest_config(splits)
    suggestion, crowded = suggest(config, cfg or load_config(config), splits)
    findings += crowded
    findings.sort(key=lambda finding: -finding.level)
    return CheckedData(data.format, data.class_names, tuple(splits), tuple(findings), suggestion)
