import torch
from detectron2.structures import Boxes

from lite_focus_detr.modeling.structures import TokenSelection
from lite_focus_detr.modeling.training_picture import count_kept, draw_training


def test_tokens_count_on_every_pixel_of_their_cell_over_layers_and_levels():
    # Levels of 2 x 3 and 1 x 2 tokens in images of 8 x 12 pixels.
    first = TokenSelection(torch.tensor([[0, 5, 7], [1, 1, 1]]), None)
    within = torch.tensor([[True, False], [True, True]])
    second = TokenSelection(torch.tensor([[5, 0], [1, 1]]), within)
    counts = count_kept([first, second], ((2, 3), (1, 2)), (8, 12))
    expected = torch.zeros(8, 12)
    expected[:4, :4] += 1  # token 0 of the fine level, in the first layer only
    expected[4:, 8:] += 2  # token 5, in both
    expected[:, 6:] += 1  # token 1 of the coarse level
    torch.testing.assert_close(counts, expected)


def test_panels_are_side_by_side_and_kept_places_are_bright():
    image = torch.full((3, 10, 20), 100, dtype=torch.uint8)
    boxes = [Boxes(torch.tensor([[2.0, 3.0, 8.0, 9.0]])), Boxes(torch.zeros(0, 4))]
    kept = torch.zeros(10, 20)
    kept[:, 0], kept[:, 1] = 4, 2
    picture = draw_training(image, boxes, kept)
    assert picture.shape == (3, 10, 60)
    assert picture.dtype == torch.uint8
    assert picture[:, 3, 5].tolist() == [0, 255, 0]
    assert (picture[:, :, 20:40] == 100).all()  # no boxes
    assert picture[0, 0, 40:43].tolist() == [100, 60, 20]


def test_nothing_kept_is_dark_and_no_selection_is_no_panel():
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert (draw_training(image, [], torch.zeros(4, 4)) == 20).all()
    assert draw_training(image, [Boxes(torch.zeros(0, 4))]).shape == (3, 4, 4)
