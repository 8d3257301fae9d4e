"""What a user may have meant by a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a sentence that offers the known names most like a misspelt one, or all of a few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known are {', '.join(known)}" if len(known) <= 10 else ""
