"""What is known of a data folder."""

from lite_focus_detr.data.folders import AnnotatedImages, DataFolder


def test_splits_are_those_that_there_are():
    val = AnnotatedImages("val.json", "images")
    assert DataFolder("COCO", None, val, None, ("cell",)).splits == {"val": val}
