"""A trained detector as a function of an image file."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from lite_focus_detr.data import DetrDatasetMapper
from lite_focus_detr.predictor import Predictor, load_inference_config, load_metadata


def save_random_weights(cfg, path):
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return str(path)


def test_a_prediction_is_that_of_the_loaded_model(small_config, small_config_file, tmp_path):
    weights = save_random_weights(small_config, tmp_path / "w.pth")
    cfg = load_inference_config(small_config_file, ["MODEL.WEIGHTS", weights])
    record = DatasetCatalog.get("shapes_val")[0]
    instances = Predictor(cfg)(record["file_name"])

    model = build_model(small_config).eval()
    model.load_state_dict(torch.load(weights)["model"])
    batch = [DetrDatasetMapper(small_config, is_train=False)(record)]
    with torch.no_grad():
        expected = model(batch)[0]["instances"]
    assert len(instances) > 0
    assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(instances.scores, expected.scores)


def test_without_weights_there_is_no_prediction(small_config_file):
    cfg = load_inference_config(small_config_file, [])
    with pytest.raises(ValueError, match="name a checkpoint"):
        Predictor(cfg)


def test_weights_for_other_classes_give_no_prediction(small_config, small_config_file, tmp_path):
    weights = save_random_weights(small_config, tmp_path / "w.pth")
    options = ["MODEL.WEIGHTS", weights, "MODEL.DETR.NUM_CLASSES", "7"]
    cfg = load_inference_config(small_config_file, options)
    with pytest.raises(ValueError, match=r"has 3 classes, .* set MODEL.DETR.NUM_CLASSES 3"):
        Predictor(cfg)


def test_class_names_are_those_of_the_test_set(small_config_file):
    cfg = load_inference_config(small_config_file, [])
    assert load_metadata(cfg).thing_classes == ["rectangle", "ellipse", "triangle"]


def test_without_a_test_set_classes_have_no_names(small_config_file):
    cfg = load_inference_config(small_config_file, ["DATASETS.TEST", "()"])
    assert load_metadata(cfg).get("thing_classes") is None


def test_class_names_do_not_need_the_training_set(small_config_file):
    options = ["DATASETS.TRAIN", "('no_such_data_set',)"]
    metadata = load_metadata(load_inference_config(small_config_file, options))
    assert metadata.thing_classes == ["rectangle", "ellipse", "triangle"]
