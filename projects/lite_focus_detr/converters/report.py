"""What became of every tensor of a converted file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from tabulate import tabulate


class ConversionReport(NamedTuple):
    """Account of a conversion. Every key of the file is in exactly one of ``used`` and ``unused``.

    Attributes:
        format: name of the recognised format.
        used: key of the file -> the names of the model that it fills.
        unused: key of the file -> why nothing takes it.
        missing: names of the model that the file does not fill, in the order of the model.
        unplaced: names of trained tensors for which the configured model has no place.
        differences: sentences that say which settings or classes are not those of the training of
            the weights.
        notes: further sentences for the user, such as on class rows.
    """

    format: str
    used: Mapping[str, tuple[str, ...]]
    unused: Mapping[str, str]
    missing: list[str]
    unplaced: list[str]
    differences: list[str]
    notes: list[str]

    def summary(self) -> str:
        """One line of counts, followed by the notes."""
        filled = sum(len(names) for names in self.used.values())
        counts = (
            f"format {self.format}: {len(self.used)} tensors of the file fill {filled} of the "
            f"model, {len(self.unused)} are not used, {len(self.missing)} of the model are not "
            "in the file"
        )
        return "\n".join([counts, *self.differences, *self.notes])

    def untrained(self) -> str:
        """One line that says what of the model the file does not fill; empty if it fills all."""
        modules = Counter(re.sub(r"\.\d+", ".*", x.rpartition(".")[0]) for x in self.missing)
        names = ", ".join(f"{module} ({count})" for module, count in modules.items())
        return f"Not in the file, so untrained: {names}" if names else ""

    def table(self) -> str:
        """One row per tensor of the file and per tensor of the model that stays unfilled."""
        rows = [(key, ", ".join(names)) for key, names in self.used.items()]
        rows += [(key, f"not used: {reason}") for key, reason in self.unused.items()]
        rows += [("not in the file", name) for name in self.missing]
        return str(tabulate(rows, headers=("file", "model"), tablefmt="plain"))
