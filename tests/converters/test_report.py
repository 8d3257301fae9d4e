from lite_focus_detr.converters import ConversionReport

REPORT = ConversionReport(
    format="dino",
    used={"label_enc.weight": ("denoising.label_enc.weight",), "a": ("b.0", "b.1")},
    unused={"class_embed.1.bias": "alias of class_embed.0.bias"},
    missing=["decoder.norm.bias"],
    unplaced=[],
    differences=["Set it to 3."],
    notes=["Class rows changed."],
)


def test_summary_counts_tensors_and_ends_with_differences_and_notes():
    first, difference, note = REPORT.summary().splitlines()

    assert first == (
        "format dino: 2 tensors of the file fill 3 of the model, 1 are not used, "
        "1 of the model are not in the file"
    )
    assert difference == "Set it to 3."
    assert note == "Class rows changed."


def test_table_says_for_every_tensor_where_it_went():
    rows = [line.split("  ") for line in REPORT.table().splitlines()]

    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[1:] == [
        ["label_enc.weight", "denoising.label_enc.weight"],
        ["a", "b.0, b.1"],
        ["class_embed.1.bias", "not used: alias of class_embed.0.bias"],
        ["not in the file", "decoder.norm.bias"],
    ]


def test_what_stays_untrained_is_one_line_that_counts_tensors_by_module():
    missing = ["encoder.layers.1.norm22.weight", "encoder.layers.3.norm22.weight", "alpha.bias"]
    report = REPORT._replace(missing=missing)
    expected = "Not in the file, so untrained: encoder.layers.*.norm22 (2), alpha (1)"
    assert report.untrained() == expected
    assert REPORT._replace(missing=[]).untrained() == ""
