"""The weights that this project has trained and brings along, by name."""

from __future__ import annotations

from pathlib import Path

#: Each file beside its card; their names are those of configurations.
FOLDER = Path(__file__).parents[1] / "checkpoints"


def trained_names() -> list[str]:
    """The configurations that there are trained weights for."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def trained_weights_file(name: str) -> str:
    """Path of the trained weights of one of :func:`trained_names`.

    Raises:
        KeyError: there are none of that name.
        FileNotFoundError: they are not installed, as by the wheel that has to be small.
    """
    if name not in trained_names():
        raise KeyError(name)
    path = FOLDER / f"{name}.pth"
    if not path.is_file():
        raise FileNotFoundError(
            f"the trained weights {path.name} are not in this wheel: take the file from "
            "projects/lite_focus_detr/checkpoints in the repository or the source distribution, "
            f"put it beside {path.with_suffix('.md')} or name its path"
        )
    return str(path)
