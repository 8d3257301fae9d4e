"""The DETR input pipeline."""

import copy
import logging

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from lite_focus_detr.config import add_lite_focus_detr_config
from lite_focus_detr.data import DetrDatasetMapper, read_image
from lite_focus_detr.data.dataset_mapper import ResizeShortestEdgeDown, build_augmentation


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (80,)
    cfg.INPUT.MAX_SIZE_TRAIN = 1000
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.MIN_SIZE_TEST = 80
    return cfg


@pytest.fixture
def record(tmp_path):
    """An image of 60 x 40 whose red channel is the column and whose green channel is the row."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 0] = np.arange(60)
    image[..., 1] = np.arange(40)[:, None]
    Image.fromarray(image).save(tmp_path / "a.png")
    boxes = [[10, 5, 20, 30], [0, 0, 10, 10]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    size = {"height": 40, "width": 60}
    return {"file_name": str(tmp_path / "a.png"), **size, "annotations": annotations}


def test_boxes_are_scaled_with_the_image(cfg, record):
    mapped = DetrDatasetMapper(cfg, is_train=True)(record)
    assert mapped["image"].shape == (3, 80, 120)
    assert (mapped["height"], mapped["width"]) == (40, 60)
    expected = torch.tensor([[20.0, 10.0, 60.0, 70.0], [0.0, 0.0, 20.0, 20.0]])
    assert torch.equal(mapped["instances"].gt_boxes.tensor, expected)
    assert mapped["instances"].gt_classes.tolist() == [0, 1]


def test_whole_numbers_become_fractions_where_the_size_asks_for_it(cfg, record):
    cfg.INPUT.MIN_SIZE_TRAIN = (50,)
    mapped = DetrDatasetMapper(cfg, is_train=True)(record)
    expected = torch.tensor([[12.5, 6.25, 37.5, 43.75], [0.0, 0.0, 12.5, 12.5]])
    assert torch.equal(mapped["instances"].gt_boxes.tensor, expected)


@pytest.mark.parametrize(("is_train", "size"), [(True, (60, 90)), (False, (50, 75))])
def test_training_and_inference_have_their_own_greatest_size(cfg, record, is_train, size):
    cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TEST = 90, 75
    image = DetrDatasetMapper(cfg, is_train=is_train)(record)["image"]
    assert image.shape == (3, *size)


@pytest.mark.parametrize(("image_format", "channel"), [("RGB", 0), ("BGR", 2)])
def test_the_image_has_the_configured_order_of_channels(cfg, record, image_format, channel):
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = image_format, 40
    image = DetrDatasetMapper(cfg, is_train=False)(record)["image"]
    # The column is red and the row is green.
    assert image[:, 7, 31].tolist() == [31, 7, 0][:: 1 if channel == 0 else -1]


def test_the_record_is_not_modified(cfg, record):
    before = copy.deepcopy(record)
    DetrDatasetMapper(cfg, is_train=True)(record)
    assert record == before


def test_crowds_are_left_out(cfg, record):
    record["annotations"][0]["iscrowd"] = 1
    mapped = DetrDatasetMapper(cfg, is_train=True)(record)
    assert mapped["instances"].gt_classes.tolist() == [1]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("mode", "bbox", "reason"),
    [
        (BoxMode.XYWH_ABS, [30, 30, -10, -10], "zero or negative size"),
        (BoxMode.XYWH_ABS, [10, 5, 20, 0], "zero or negative size"),
        (BoxMode.XYXY_ABS, [30, 30, 20, 20], "zero or negative size"),
        (BoxMode.XYXY_ABS, [30, 20, 20, 30], "zero or negative size"),
        (BoxMode.XYXY_ABS, [10, NAN, 20, 30], "not finite"),
        (BoxMode.XYWH_ABS, [10, 5, INF, 30], "not finite"),
    ],
)
def test_a_box_that_cannot_be_one_never_becomes_one(cfg, record, caplog, mode, bbox, reason):
    record["annotations"][0].update(bbox=bbox, bbox_mode=mode)
    mapper = DetrDatasetMapper(cfg, is_train=True)
    with caplog.at_level(logging.WARNING, logger="lite_focus_detr"):
        for _ in range(3):
            assert mapper(record)["instances"].gt_classes.tolist() == [1]
    [message] = [r.getMessage() for r in caplog.records if r.name.startswith("lite_focus_detr")]
    assert reason in message
    assert record["file_name"] in message


@pytest.mark.parametrize(
    ("bbox", "classes"), [([50, 5, 8, 8], [0, 1]), ([5, 45, 8, 8], [1]), ([65, 5, 8, 8], [1])]
)
def test_a_box_to_the_right_of_the_height_is_inside_and_one_below_it_is_not(
    cfg, record, caplog, bbox, classes
):
    record["annotations"][0]["bbox"] = bbox
    mapped = DetrDatasetMapper(cfg, is_train=True)(record)
    assert mapped["instances"].gt_classes.tolist() == classes
    assert ("outside" in caplog.text) == (classes == [1])


def test_an_image_whose_boxes_all_cannot_be_one_has_no_objects(cfg, record):
    for annotation in record["annotations"]:
        annotation["bbox"] = [30, 30, -10, -10]
    instances = DetrDatasetMapper(cfg, is_train=True)(record)["instances"]
    assert instances.gt_boxes.tensor.shape == (0, 4)


def test_flipping_mirrors_the_boxes(cfg, record):
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    mapper = DetrDatasetMapper(cfg, is_train=True)
    first_boxes = set()
    for _ in range(30):
        mapped = mapper(record)
        first_boxes.add(tuple(mapped["instances"].gt_boxes.tensor[0].tolist()))
    assert first_boxes == {(20.0, 10.0, 60.0, 70.0), (60.0, 10.0, 100.0, 70.0)}


def test_half_of_the_images_are_cropped_and_boxes_follow_the_content(cfg, record):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.RESIZE = [40]
    cfg.INPUT.CROP.SIZE = [20, 30]
    mapper = DetrDatasetMapper(cfg, is_train=True)
    np.random.seed(0)
    cropped = 0
    for _ in range(200):
        mapped = mapper(record)
        image, instances = mapped["image"].float(), mapped["instances"]
        assert (instances.gt_boxes.tensor[:, 2:] > instances.gt_boxes.tensor[:, :2]).all()
        if image.shape == (3, 80, 120) and image[0, 0, -1] == 59:
            continue
        cropped += 1
        for box, label in zip(instances.gt_boxes.tensor, instances.gt_classes, strict=True):
            x0, y0, w, h = record["annotations"][int(label)]["bbox"]
            left, top, right, bottom = (int(v) for v in box)
            inside = image[:2, top:bottom, left:right].reshape(2, -1)
            # The content of the box comes from inside the box of the file, up to interpolation.
            assert x0 - 1 <= inside[0].min()
            assert inside[0].max() <= x0 + w
            assert y0 - 1 <= inside[1].min()
            assert inside[1].max() <= y0 + h
    assert 75 <= cropped <= 125


def test_inference_gives_the_resized_image_without_annotations(cfg, record):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    mapped = DetrDatasetMapper(cfg, is_train=False)(record)
    assert mapped["image"].shape == (3, 80, 120)
    assert mapped["image"][0, 0, 0] == 0
    assert "annotations" not in mapped
    assert "instances" not in mapped


def test_inference_needs_a_file_name_only(cfg, record):
    mapped = DetrDatasetMapper(cfg, is_train=False)({"file_name": record["file_name"]})
    assert (mapped["height"], mapped["width"]) == (40, 60)


# (height, width, short edge, maximum) and the sizes by the rule of the original code, worked out
# by hand: 375 x 500 at 800 is 1066.67 wide; 400 x 650 is limited by 1333 to a short side of
# round(1333 * 400 / 650) = round(820.3).
SIZES = [
    ((375, 500, 800, 1333), (800, 1066)),
    ((500, 375, 800, 1333), (1066, 800)),
    ((480, 640, 480, 1333), (480, 640)),
    ((400, 650, 850, 1333), (820, 1332)),
    ((30, 3000, 800, 1333), (13, 1300)),
    ((428, 640, 800, 1000), (669, 1000)),  # The short side is 668.75.
    ((1, 5000, 800, 1333), (1, 5000)),  # It is 0.27, and an image has at least one row.
]


@pytest.mark.parametrize(("arguments", "size"), SIZES)
def test_rounding_down_follows_the_original_code(arguments, size):
    assert ResizeShortestEdgeDown.get_output_shape(*arguments) == size
    height, width, short, limit = arguments
    transform = ResizeShortestEdgeDown(short, limit).get_transform(np.zeros((height, width, 3)))
    assert (transform.new_h, transform.new_w) == size


@pytest.mark.parametrize(("rounding", "width"), [("nearest", 107), ("down", 106)])
def test_the_rounding_is_chosen_by_the_configuration(cfg, rounding, width):
    cfg.INPUT.RESIZE_ROUNDING = rounding
    for is_train in (True, False):
        augmented = T.AugInput(np.zeros((375, 500, 3), np.uint8))
        T.AugmentationList(build_augmentation(cfg, is_train))(augmented)
        assert augmented.image.shape == (80, width, 3)


def test_channels_come_in_the_configured_order(record):
    rgb, bgr = read_image(record["file_name"], "RGB"), read_image(record["file_name"], "BGR")
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])
    assert rgb[0, 59].tolist() == [59, 0, 0]


@pytest.mark.fault(area="images", expected="survived")
@pytest.mark.parametrize("low_bits", [0, 100, 255])
def test_sixteen_bits_are_scaled_not_saturated(tmp_path, low_bits):
    values = (256 * np.arange(256) + low_bits).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_image(str(tmp_path / "deep.png"), "RGB")
    np.testing.assert_array_equal(image[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_becomes_three_channels(tmp_path, mode):
    Image.new("RGB", (6, 4), "white").convert(mode).save(tmp_path / "a.tif")
    image = read_image(str(tmp_path / "a.tif"), "RGB")
    assert image.shape == (4, 6, 3)
    assert (image == 255).all()


@pytest.mark.fault(area="images", expected="survived")
def test_a_turned_photograph_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(str(tmp_path / "a.jpg"), "RGB").shape == (6, 4, 3)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated"])
def test_an_image_that_cannot_be_read_is_named(cfg, tmp_path, record, kind):
    path = tmp_path / "broken.png"
    content = {"empty": b"", "text": b"hello"}.get(kind)
    if kind == "truncated":
        with open(record["file_name"], "rb") as file:
            content = file.read()[:-40]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"cannot read image .*broken\.png"):
        DetrDatasetMapper(cfg, is_train=False)({"file_name": str(path)})
