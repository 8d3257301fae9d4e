"""The count of values that are not finite and had to be replaced."""

from __future__ import annotations

import logging
from collections import Counter

from detectron2.utils.events import get_event_storage, has_event_storage

logger = logging.getLogger(__name__)

#: How many of each kind there were in this process.
totals: Counter[str] = Counter()


def count_replaced(kind: str, number: int, event: str) -> None:
    """Add to ``totals``; log the first of a kind, and put the sum into the metrics of a training.

    Args:
        kind: name of the metric, ``nonfinite/<kind>``.
        number: of values, at least 0.
        event: what has happened to them, for the log.
    """
    if number == 0:
        return
    if not totals[kind]:
        logger.warning("%d %s; from now on they are only counted", number, event)
    totals[kind] += number
    if has_event_storage():
        get_event_storage().put_scalar(f"nonfinite/{kind}", totals[kind], smoothing_hint=False)
