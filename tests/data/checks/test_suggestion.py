import pytest

from lite_focus_detr import model_zoo
from lite_focus_detr.data.checks import suggestion
from lite_focus_detr.data.checks.suggestion import SMALL_CONFIG, suggest, suggest_config


@pytest.fixture(scope="module")
def cfg():
    return model_zoo.get_config(SMALL_CONFIG)


def fit(cfg, *splits):
    return suggest(SMALL_CONFIG, cfg, splits)


def options(found):
    return dict(zip(found.options[::2], found.options[1::2], strict=True))


def test_large_objects_need_no_change(make_split, cfg):
    split, _ = make_split("train", [[(0, (10, 10, 40, 40))]])
    found, findings = fit(cfg, split)
    assert (found.num_classes, found.image_size, found.options) == (2, 240, ())
    assert findings == []


def test_small_objects_get_larger_images(make_split, cfg):
    # 20 of 1000 pixels: 16 pixels need a short side of 800.
    split, _ = make_split("train", [[(0, (10, 10, 20, 20))]], size=(2000, 1000))
    found, _ = fit(cfg, split)
    assert found.image_size == 800
    changed = options(found)
    assert changed["INPUT.MIN_SIZE_TEST"] == "800"
    assert changed["INPUT.MAX_SIZE_TEST"] == "1600"
    # Those of the configuration are 208 to 272 around 240.
    assert changed["INPUT.MIN_SIZE_TRAIN"] == "(696, 752, 800, 856, 912)"


def test_images_are_not_enlarged_beyond_their_pixels(make_split, cfg):
    split, _ = make_split("train", [[(0, (10, 10, 4, 4))]], size=(600, 400))
    found, _ = fit(cfg, split)
    assert found.image_size == 416


def test_more_objects_than_queries_get_more_queries(make_split, cfg):
    many = [(0, (10, 10, 40, 40))] * 150
    train, _ = make_split("train", [many[:3]])
    val, _ = make_split("val", [many, many[:120], many[:100]])
    found, (finding,) = fit(cfg, train, val)
    assert found.num_queries == 200  # 150 and a tenth, in steps of 50
    assert options(found)["MODEL.DETR.NUM_QUERIES"] == "200"
    assert finding.count == 2
    assert finding.text.startswith("images of val with more objects than the 100 queries")
    assert [x.rpartition("/")[2] for x in finding.examples] == ["val1.png 150", "val2.png 120"]


def test_the_number_of_images_decides(make_split, monkeypatch):
    monkeypatch.setattr(suggestion, "SMALL_DATA", 2)
    small, _ = make_split("train", [[], []])
    large, _ = make_split("val", [[], [], []])
    assert suggest_config([small]) == SMALL_CONFIG
    name = suggest_config([large])
    assert name != SMALL_CONFIG
    assert model_zoo.get_config_file(name)


def test_a_split_without_objects_keeps_the_size(make_split, cfg):
    split, _ = make_split("train", [[]])
    assert fit(cfg, split)[0].image_size == 240
