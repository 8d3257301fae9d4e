"""Annotation files with something wrong, through ``train_net.py``."""

import re

import pytest

STRUCTURE = {
    "a list": (b"[]", "holds a list instead of a COCO object with the keys"),
    "null": (b"null", "holds a NoneType instead of a COCO object"),
    "an empty file": (b"", "is not valid JSON at byte 0 of 0"),
    "UTF-16 text": ('{"images": []}'.encode("utf-16"), "is not UTF-8 text at byte 0"),
    "a truncated file": (b'{"images": [{"id": 1, "file_na', "is not valid JSON at byte 22 of 30 .*truncated"),
}


@pytest.mark.fault(area="annotations", expected="refused")
@pytest.mark.parametrize("fault", STRUCTURE)
def test_a_file_that_is_not_coco_json_is_named_with_the_byte_or_the_type(
    train, coco, tmp_path, fault
):
    content, pattern = STRUCTURE[fault]
    coco.json_file.write_bytes(content)
    assert re.search(f"data.json {pattern}", train(*coco.options()).refusal())
    assert not list((tmp_path / "out").glob("*.pth"))
