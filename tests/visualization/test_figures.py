"""Figures of several panels."""

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lite_focus_detr.visualization import figures
from lite_focus_detr.visualization.style import Caption


def test_a_figure_says_what_it_shows_and_keeps_its_panels_below():
    figure = figures.new_captioned_figure(6, 3, Caption("kept tokens", "FocusDETR · a.jpg"))
    assert isinstance(figure, Figure)
    panel = figure.subplots()
    figures.set_panel_title(panel, "stride 8")
    figure.draw_without_rendering()
    texts = {text.get_text(): text.get_window_extent() for text in figure.texts}
    assert set(texts) == {"kept tokens", "FocusDETR · a.jpg"}
    assert panel.get_title(loc="left") == "stride 8"
    assert panel.get_tightbbox().y1 < min(extent.y0 for extent in texts.values())
    assert max(extent.x1 for extent in texts.values()) <= 600


def test_a_legend_and_a_bar_leave_the_panels_uncovered():
    figure = figures.new_captioned_figure(6, 3, Caption("kept tokens"), legend=True)
    panels = figure.subplots(1, 2)
    heat = panels[0].imshow([[0.0, 1.0]])
    figures.add_color_bar(heat, panels, "probability")
    figures.add_legend(figure, [Patch(label="kept"), Patch(label="dropped")])
    figure.draw_without_rendering()
    *_, bar = figure.axes
    assert bar.get_ylabel() == "probability"
    (legend,) = figure.legends
    bottom = min(panel.get_tightbbox().y0 for panel in panels)
    assert 0 <= legend.get_window_extent().y0 <= legend.get_window_extent().y1 <= bottom
    assert max(panel.get_tightbbox().x1 for panel in panels) <= bar.get_tightbbox().x0
    assert bar.get_tightbbox().x1 <= 600


def test_a_long_title_of_a_row_leaves_its_panels_alike():
    figure = figures.new_captioned_figure(6, 3, Caption("attention samples"))
    panels = figure.subplots(1, 3)
    for panel in panels:
        panel.imshow([[0.0, 1.0]])
        figures.set_panel_title(panel, "stride 8")
    figures.set_row_title(panels, "a name that is much longer than one of these panels is wide")
    figure.draw_without_rendering()
    widths = [panel.get_window_extent().width for panel in panels]
    assert max(widths) - min(widths) < 1
    (title,) = panels[0].texts
    caption = min(text.get_window_extent().y0 for text in figure.texts)
    top = panels[0].get_window_extent().y1
    assert top < title.get_window_extent().y0 < title.get_window_extent().y1 <= caption
