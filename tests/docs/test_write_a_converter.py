"""The example of docs/write_a_converter.md converts what it says it converts."""

import gzip
import json
import re
import types
from pathlib import Path

import pytest
import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.converters import conversion, convert_state_dict, detect_format
from lite_focus_detr.converters.formats import PUBLISHED_FORMATS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lateral_dino():
    document = (ROOT / "docs" / "write_a_converter.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    module = types.ModuleType("lateral_dino")
    exec(compile(source, "docs/write_a_converter.md", "exec"), module.__dict__)
    return module.LATERAL_DINO


@pytest.fixture(scope="module")
def original():
    """Stand-in for the published DINO: every tensor has a value of its own, aliases the same."""
    path = ROOT / "tests/golden/manifests/dino_4scale_ideaofficial.json.gz"
    manifest = json.loads(gzip.decompress(path.read_bytes()))
    tensors = {
        key: torch.tensor(float(index)).expand(shape)
        for index, (key, shape) in enumerate(manifest["tensors"].items())
    }
    return tensors | {key: tensors[other] for key, other in manifest["aliases"].items()}


def published_under_other_names(original):
    renamed = {}
    for key, tensor in original.items():
        if key == "transformer.level_embed":
            name = "detr.scale_embed"
        elif key.startswith("input_proj."):
            name = "lateral." + key[len("input_proj.") :]
        elif key.startswith("transformer."):
            name = "detr." + key[len("transformer.") :]
        else:
            name = key
        renamed[name] = tensor
    return renamed


def test_the_example_places_every_tensor_where_the_original_goes(
    lateral_dino, original, monkeypatch
):
    cfg = model_zoo.get_config("deformable_detr/dino_r50_36ep")
    expected, account = convert_state_dict(original, cfg)
    assert account.format == "dino"
    monkeypatch.setattr(conversion, "FORMATS", (lateral_dino, *conversion.FORMATS))
    file = published_under_other_names(original)
    converted, report = convert_state_dict(file, cfg, expected)
    assert report.format == "lateral_dino"
    assert not report.unplaced
    assert not report.missing
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_the_example_names_the_setting_that_contradicts_its_weights(
    lateral_dino, original, monkeypatch
):
    monkeypatch.setattr(conversion, "FORMATS", (lateral_dino, *conversion.FORMATS))
    cfg = model_zoo.get_config("deformable_detr/dino_r50_36ep")
    assert cfg.MODEL.DETR.POSITION.TEMPERATURE == 20.0
    file = published_under_other_names(original)
    report = convert_state_dict(file, cfg, expected=[]).report
    (difference,) = report.differences
    assert "MODEL.DETR.POSITION.TEMPERATURE 10000.0" in difference


def test_no_published_format_takes_the_file_of_the_example(lateral_dino, original):
    file = published_under_other_names(original)
    assert lateral_dino.recognises(file)
    assert not lateral_dino.recognises(original)
    assert not any(known.recognises(file) for known in PUBLISHED_FORMATS)
    with pytest.raises(ValueError, match="unknown model"):
        detect_format(file)
