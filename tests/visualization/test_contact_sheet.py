import numpy as np

from lite_focus_detr.visualization.contact_sheet import CELL, draw_contact_sheet
from lite_focus_detr.visualization.style import Caption


def cell(color, shape=(30, 40)):
    return np.full((*shape, 3), color, np.uint8)


def count(sheet, color):
    return int((sheet == np.array(color)).all(-1).sum())


def test_every_picture_is_in_the_sheet_as_large_as_its_cell_or_the_file():
    cells = [("red", cell((255, 0, 0), (600, 800))), ("tall", cell((0, 0, 255), (900, 100)))]
    cells += [(str(i), cell((0, 255, 0))) for i in range(3)]
    sheet = draw_contact_sheet(cells, Caption("annotations"), [("cell 4", (200, 10, 10))])
    width, height = CELL
    assert count(sheet, (255, 0, 0)) == width * height
    assert count(sheet, (0, 255, 0)) == 3 * 30 * 40
    blue = np.argwhere((sheet == (0, 0, 255)).all(-1))
    assert np.ptp(blue, 0).tolist() == [height - 1, round(height / 9) - 1]
    # Four columns and two rows.
    assert sheet.shape[1] > 4 * width
    assert sheet.shape[0] > 2 * height


def test_no_picture_is_an_empty_sheet():
    assert draw_contact_sheet([], Caption("annotations"), []).ndim == 3
