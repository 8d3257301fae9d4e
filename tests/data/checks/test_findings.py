from lite_focus_detr.data.checks.findings import MAX_EXAMPLES, Finding, Level


def test_a_finding_counts_all_and_keeps_the_first():
    finding = Finding.of(Level.WARNING, "boxes", "text", map(str, range(100)))
    assert finding.count == 100
    assert finding.examples == tuple(map(str, range(MAX_EXAMPLES)))


def test_levels_are_exit_statuses():
    assert [int(level) for level in (Level.NOTE, Level.WARNING, Level.ERROR)] == [0, 1, 2]
