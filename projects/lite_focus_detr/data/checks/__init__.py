"""Checks of a data set before anybody trains on it."""

from .checking import CheckedData, check_data, read_data, worst_level
from .findings import Finding, Level
from .splits import Split
from .suggestion import Suggestion

__all__ = [
    "CheckedData",
    "Finding",
    "Level",
    "Split",
    "Suggestion",
    "check_data",
    "read_data",
    "worst_level",
]
