"""The weights that this project has trained and brings along, by name."""

from __future__ import annotations

from pathlib import Path

#: Each file beside its card; their names are those of configurations.
FOLDER = Path(__file__).parents[1] / "checkpoints"


def trained_names() -> list[str]:
    """The configurations that there are trained weights for."""
    return sorted(path.stem for path in FOLDER.glob("*.pth"))


def trained_weights_file(name: str) -> str:
    """Path of the trained weights of one of :func:`trained_names`.

    Raises:
        KeyError: there are none of that name.
    """
    if name not in trained_names():
        raise KeyError(name)
    return str(FOLDER / f"{name}.pth")
