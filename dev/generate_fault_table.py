"""``python dev/generate_fault_table.py`` writes the faults that tests try into docs/reliability.md.

A fault is a case of a test anywhere in ``tests/`` with the marker

    @pytest.mark.fault(area="images", expected="refused")

``area`` is one of ``AREAS`` and ``expected`` one of ``OUTCOMES``. The row of a parametrised case
has the id of its parameters, which describes the fault in words, and the name of its test, which is
a sentence about what happens; without parameters the name stands for both. A case that is marked
``xfail`` is listed as not handled. The tests are collected, not run; ``--check`` writes nothing
and exits with 1 if the page differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- Written by dev/generate_fault_table.py. -->\n"
END = "<!-- End of the table. -->\n"

#: Headings of the table, in their order.
AREAS = (
    "annotations",
    "images",
    "data sets",
    "configuration",
    "security",
    "checkpoints",
    "resuming",
    "signals",
    "processes",
    "training",
    "evaluation",
    "operators",
    "scale",
    "tools",
    "installation",
)
OUTCOMES = {
    "refused": "one line says what is wrong, where, and what to do; nothing has been changed",
    "stopped": "the run ends with the cause; what it had saved is whole, and it can go on from it",
    "repaired": "a line says what is wrong and how many are; the result is that without the fault",
    "survived": "the result is that without the fault",
}
NOT_HANDLED = "not handled"


class Fault(NamedTuple):
    """One row of the table."""

    area: str
    fault: str
    outcome: str
    sentence: str


class Collector:
    """A plugin of pytest that keeps the faults among the tests that it collects."""

    def __init__(self) -> None:
        """Begin with none."""
        self.faults: list[Fault] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the markers."""
        self.faults = [fault for item in session.items if (fault := fault_of(item)) is not None]


def fault_of(item: pytest.Item) -> Fault | None:
    """The row of a case, or None if it has no marker.

    Raises:
        ValueError: the marker has another area or outcome than those above.
    """
    marker = item.get_closest_marker("fault")
    if marker is None:
        return None
    area, outcome = marker.kwargs.get("area"), marker.kwargs.get("expected")
    if area not in AREAS or outcome not in OUTCOMES:
        known = f"area one of {', '.join(AREAS)}, expected one of {', '.join(OUTCOMES)}"
        raise ValueError(f"{item.nodeid}: the marker fault needs {known}")
    if item.get_closest_marker("xfail") is not None:
        outcome = NOT_HANDLED
    function = getattr(item, "originalname", item.name)
    sentence = function.removeprefix("test_").replace("_", " ")
    callspec = getattr(item, "callspec", None)
    return Fault(area, sentence if callspec is None else callspec.id, outcome, sentence)


def collect() -> list[Fault]:
    """The faults of all tests, by area and then in the order of the tests.

    Raises:
        RuntimeError: the tests cannot be collected.
    """
    collector, output = Collector(), io.StringIO()
    command = ["--collect-only", "-q", "-m", "fault", "--rootdir", str(ROOT), str(ROOT / "tests")]
    with contextlib.redirect_stdout(output):
        code = pytest.main([*command, "-p", "no:cacheprovider"], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"the tests cannot be collected:\n{output.getvalue()[-3000:]}")
    return sorted(collector.faults, key=lambda fault: AREAS.index(fault.area))


def table(faults: Iterable[Fault]) -> str:
    """The table of the page in Markdown."""
    faults = list(faults)
    counts = Counter(fault.outcome for fault in faults)
    parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)
    lines = [
        f"**{len(faults)} faults are tried: {parts}; {counts[NOT_HANDLED]} are silent or lose "
        "anything.**",
        "",
        *(f"- **{outcome}**: {meaning}." for outcome, meaning in OUTCOMES.items()),
    ]
    for area in AREAS:
        rows = [(n, fault) for n, fault in enumerate(faults, 1) if fault.area == area]
        if rows:
            heading = f"### {area[0].upper()}{area[1:]} ({len(rows)})"
            lines += ["", heading, "", "| # | fault | outcome | what a test asserts |"]
            lines.append("| --- | --- | --- | --- |")
            lines += [f"| {n} | {' | '.join(map(_cell, fault[1:]))} |" for n, fault in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    for character in "\\|*`<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def document(faults: Iterable[Fault]) -> str:
    """The page with this table in the place of its own."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table(faults)}\n{END}{after}"


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    written = document(collect())
    if check:
        return int(DOCUMENT.read_text() != written)
    DOCUMENT.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
