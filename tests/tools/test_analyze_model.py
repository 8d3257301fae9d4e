import pytest

from lite_focus_detr.tools import analyze_model


def numbers(line):
    return [float(word) for word in line.split() if word.replace(".", "").isdigit()]


def test_the_rows_of_the_table_add_up_to_its_total(small_config_file, capsys):
    analyze_model.main(["--config-file", small_config_file, "--image-size", "64", "64"])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("backbone"))
    rows = [numbers(line) for line in lines[start : start + 6]]
    assert [len(row) for row in rows] == [3] * 6
    for column in zip(*rows, strict=True):
        assert sum(column[:-1]) == pytest.approx(column[-1], abs=0.05)


def test_the_plot_shows_every_configuration(small_config_file, tmp_path, capsys):
    path = tmp_path / "layouts.png"
    arguments = ["--config-file", small_config_file, "--config-file", "lite_dino_shapes"]
    analyze_model.main([*arguments, "--image-size", "64", "64", "--plot", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bars_are_as_long_as_the_sum_of_their_parts():
    flops = {row: 1e9 * (index + 1) for index, row in enumerate(analyze_model.ROWS)}
    figure = analyze_model.plot({"one": {**flops, "total": 15e9}})
    bars = figure.axes[0].patches
    assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(15)


def test_an_unknown_configuration_ends_with_one_line():
    with pytest.raises(SystemExit, match="not in the model zoo"):
        analyze_model.main(["--config-file", "no_such_model"])


def test_without_a_configuration_the_user_is_told_what_to_give():
    with pytest.raises(SystemExit, match="--config-file"):
        analyze_model.main([])


def test_the_table_is_in_millions_and_billions():
    parts = dict.fromkeys(analyze_model.ROWS, 0.0)
    analysis = analyze_model.Analysis(
        {**parts, "total": 2e6}, {**parts, "total": 3e9}, {**parts, "total": 4e6}
    )
    assert numbers(analyze_model.table(analysis).splitlines()[-1]) == [2.0, 3.0, 4.0]
