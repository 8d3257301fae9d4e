"""Images that are in two splits: what a detector has seen it finds more easily."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np

from .findings import Finding, Level
from .images import Thumbnail

#: Two images are nearly the same if their thumbnails differ by less, in grey values of 255 (root
#: mean square), and by less than this share of their own contrast. Copies that were compressed
#: again or resized differ by less than 1, photographs of the same kind by 8 and more.
MAX_DIFFERENCE = 3.0
MAX_SHARE = 0.25
# Images whose thumbnails are compared with all others at once.
CHUNK = 1000


def find_near_duplicates(thumbnails: Mapping[str, Mapping[str, Thumbnail]]) -> Iterator[Finding]:
    """Compare all images of each split with those of the others.

    Args:
        thumbnails: by split and file name.
    """
    for first, second in combinations(thumbnails, 2):
        pairs = list(near_duplicates(thumbnails[first], thumbnails[second]))
        if pairs:
            text = f"images of {second} nearly the same as one of {first}"
            examples = (f"{other} and {one}" for one, other in pairs)
            yield Finding.of(Level.WARNING, "duplicates", text, examples)


def near_duplicates(
    first: Mapping[str, Thumbnail], second: Mapping[str, Thumbnail]
) -> Iterator[tuple[str, str]]:
    """Pairs of names: for each image of ``second`` the most similar one of ``first``, if it is
    nearly the same.

    Args:
        first: thumbnails by the names of their images.
        second: likewise.
    """
    if not first or not second:
        return
    names, others = list(first), list(second)
    known, asked = np.stack(list(first.values())), np.stack(list(second.values()))
    for start in range(0, len(others), CHUNK):
        part = asked[start : start + CHUNK]
        # The mean square of the differences, without an array of all of them.
        squares = (known**2).mean(1) + (part**2).mean(1)[:, None]
        squares -= 2 / known.shape[1] * part @ known.T
        nearest = squares.argmin(1)
        for offset, place in enumerate(nearest):
            difference = np.sqrt(max(squares[offset, place], 0))
            if difference < min(MAX_DIFFERENCE, MAX_SHARE * part[offset].std()):
                yield names[place], others[start + offset]
