"""A trained detector as a function of an image."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr import Predictor
from lite_focus_detr.data import DetrDatasetMapper, read_image, register_datasets
from lite_focus_detr.engine import DetrTrainer
from lite_focus_detr.engine.checkpoint_io import read_checkpoint, write_checkpoint
from lite_focus_detr.engine.detector_record import Classes, DetectorRecord
from lite_focus_detr.predictor import load_inference_config, load_metadata

NAMES = ("rectangle", "ellipse", "triangle")


def save_random_weights(cfg, path, **more):
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict(), **more}, path)
    return str(path)


def record_of(cfg, **changes):
    record = DetectorRecord(cfg, classes=Classes(NAMES, (1, 2, 3)), iteration=lambda: 100)
    record.note_evaluation({"bbox": {"AP": 50.0, "threshold": 0.25}})
    return {**record.state_dict(), **changes}


@pytest.fixture
def trained(small_config, tmp_path):
    """A checkpoint as a training writes it: nothing else of the training is there."""
    return save_random_weights(small_config, tmp_path / "w.pth", detector=record_of(small_config))


@pytest.fixture
def picture(tmp_path):
    """A file whose pixels are different everywhere, so that its order matters."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def same(first, second):
    return (
        torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
        and torch.equal(first.scores, second.scores)
        and torch.equal(first.pred_classes, second.pred_classes)
    )


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


def test_a_checkpoint_of_a_training_needs_nothing_else(
    trained, small_config, small_config_file, picture
):
    alone = Predictor(trained)
    assert alone.class_names == NAMES
    assert alone.threshold == 0.25
    assert alone.metadata.thing_classes == list(NAMES)
    assert str(alone.description) == (
        "w.pth: DeformableDETR, 3 classes rectangle ellipse triangle, iteration 100, AP 50.0, "
        "threshold 0.25"
    )
    expected = Predictor(trained, config=small_config_file)(picture)
    assert len(expected) > 0
    assert same(alone(picture), expected)
    small_config.MODEL.WEIGHTS = trained
    assert same(Predictor(small_config)(picture), expected)


def test_a_checkpoint_that_was_moved_draws_the_same_without_the_data(
    setup_of_train_net, small_config_file, picture, tmp_path
):
    folder = tmp_path / "training"
    cfg = setup_of_train_net(
        small_config_file,
        *("OUTPUT_DIR", str(folder), "DATASETS.SHAPES.ROOT", str(folder / "data")),
        *("SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "1", "DATASETS.SHAPES.NUM_TRAIN", "1"),
        *("SOLVER.STEPS", "()", "SOLVER.EPOCHS", "0", "DATALOADER.NUM_WORKERS", "0"),
    )
    trainer = DetrTrainer(cfg)
    trainer.train()
    expected = trainer.model.eval()([DetrDatasetMapper(cfg, False)({"file_name": picture})])
    (folder / "model_final.pth").rename(tmp_path / "moved.pth")
    # Neither the data nor the outputs of the training are there any more.
    folder.rename(tmp_path / "gone")
    for name in ("shapes_train", "shapes_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)

    predictor = Predictor(tmp_path / "moved.pth")
    assert predictor.class_names == NAMES
    assert predictor.description.iteration == 1
    assert same(predictor(picture), expected[0]["instances"])
    assert not folder.exists()


def test_paths_arrays_and_images_of_pillow_are_one(trained, picture):
    predictor = Predictor(trained)
    expected = predictor(picture)
    image = Image.open(picture)
    bgr = np.asarray(image)[..., ::-1]
    assert same(predictor(bgr), expected)
    assert same(predictor(image), expected)
    several = predictor([picture, bgr, image])
    assert len(several) == 3
    assert all(same(one, expected) for one in several)
    assert predictor([]) == []


def test_models_of_bgr_images_get_the_same_array(small_config, picture, tmp_path):
    small_config.INPUT.FORMAT = "BGR"
    record = record_of(small_config)
    predictor = Predictor(save_random_weights(small_config, tmp_path / "w.pth", detector=record))
    assert same(predictor(read_image(picture, "BGR")), predictor(picture))


def test_images_that_lie_on_a_side_are_turned_upright(trained, picture, tmp_path):
    upright = Image.open(picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "lying.png", exif=exif)
    predictor = Predictor(trained)
    expected = predictor(picture)
    assert expected.image_size == (40, 60)
    assert same(predictor(str(tmp_path / "lying.png")), expected)
    assert same(predictor(Image.open(tmp_path / "lying.png")), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"the shape \(4, 5\).*of a grey one np.repeat"),
        (np.zeros((4, 5, 4), np.uint8), r"the shape \(4, 5, 4\).*of BGRA image\[..., :3\]"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"\(2, 4, 5, 3\); .* a list of such arrays"),
        (np.zeros((0, 5, 3), np.uint8), r"the shape \(0, 5, 3\)"),
        (np.zeros((4, 5, 3)), r"an array of float64; give uint8"),
        (torch.zeros(3, 4, 5), r"is a Tensor; give a path, a NumPy array"),
        (None, r"is a NoneType; give a path"),  # what cv2.imread returns
    ],
)
def test_what_is_no_image_is_explained(trained, image, message):
    with pytest.raises(ValueError, match=message):
        Predictor(trained)(image)


def test_grey_images_of_pillow_are_taken(trained, picture):
    predictor = Predictor(trained)
    grey = Image.open(picture).convert("L")
    bgr = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert same(predictor(grey), predictor(bgr))


def test_options_change_the_configuration_of_the_checkpoint(trained, picture):
    predictor = Predictor(trained, opts=["TEST.DETECTIONS_PER_IMAGE", "4"], device="cpu")
    assert len(predictor(picture)) == 4
    assert predictor.cfg.MODEL.DEVICE == "cpu"


@pytest.mark.fault(area="security", expected="refused")
def test_modules_that_a_checkpoint_names_are_not_imported(small_config, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = "IMPORTS: [evil_module]\n" + small_config.dump().replace("IMPORTS: []\n", "")
    record = record_of(small_config, config=config)
    weights = save_random_weights(small_config, tmp_path / "w.pth", detector=record)
    with pytest.raises(ValueError, match=r"w\.pth needs the modules evil_module .*--trust-imports"):
        Predictor(weights)
    with pytest.raises(SystemError, match="imported"):
        Predictor(weights, trust_imports=True)


@pytest.mark.fault(area="security", expected="refused")
def test_the_configuration_of_a_checkpoint_names_no_other_file(small_config, tmp_path):
    config = f"_BASE_: {tmp_path}/base.yaml\n" + small_config.dump()
    record = record_of(small_config, config=config)
    weights = save_random_weights(small_config, tmp_path / "w.pth", detector=record)
    with pytest.raises(ValueError, match=r"unknown configuration key _BASE_ in .*w\.pth"):
        Predictor(weights)


@pytest.mark.fault(area="security", expected="survived")
def test_the_places_of_the_training_are_not_touched(small_config, picture, tmp_path):
    missing = tmp_path / "missing"
    small_config.MODEL.WEIGHTS = str(missing / "start.pth")
    small_config.OUTPUT_DIR = str(missing / "out")
    small_config.MODEL.DEVICE = "cuda:7"
    small_config.MODEL.TIMM.PRETRAINED = True
    small_config.DATASETS.COCO = [["cells", str(missing / "a.json"), str(missing / "images")]]
    small_config.DATASETS.TRAIN = small_config.DATASETS.TEST = ("cells",)
    record = record_of(small_config)
    small_config.MODEL.DEVICE = "cpu"
    predictor = Predictor(save_random_weights(small_config, tmp_path / "w.pth", detector=record))
    assert len(predictor(picture)) > 0
    assert predictor.class_names == NAMES
    assert predictor.cfg.MODEL.TIMM.PRETRAINED is False
    assert not missing.exists()


def test_checkpoints_of_before_the_record_are_taken_with_their_configuration(
    small_config, tmp_path, picture
):
    trainer = {"config": small_config.dump()}
    weights = save_random_weights(small_config, tmp_path / "w.pth", trainer=trainer)
    register_datasets(small_config)
    predictor = Predictor(weights)
    assert len(predictor(picture)) > 0
    assert predictor.threshold is None
    # Those of its test set, which is there.
    assert predictor.class_names == NAMES


def test_without_a_record_and_data_classes_have_no_names(small_config, tmp_path):
    small_config.DATASETS.COCO = [["cells", str(tmp_path / "a.json"), str(tmp_path)]]
    small_config.DATASETS.TEST = ("cells",)
    predictor = Predictor(
        save_random_weights(small_config, tmp_path / "w.pth"), config=small_config
    )
    assert predictor.class_names is None
    assert predictor.metadata.get("thing_classes") is None


def test_a_file_without_a_configuration_says_what_to_give(small_config, tmp_path):
    weights = save_random_weights(small_config, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds no configuration: .* config=NAME"):
        Predictor(weights)


def test_a_changed_record_is_found(trained):
    contents = read_checkpoint(trained)
    contents["detector"]["config"] = "MODEL: {NO_SUCH_KEY: 1}"
    write_checkpoint(trained, contents)
    with pytest.raises(
        ValueError, match=r"unknown configuration key MODEL.NO_SUCH_KEY in .*w\.pth"
    ):
        Predictor(trained)


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
    assert load_metadata(cfg).thing_classes == list(NAMES)


def test_without_a_test_set_classes_have_no_names(small_config_file):
    cfg = load_inference_config(small_config_file, ["DATASETS.TEST", "()"])
    assert load_metadata(cfg).get("thing_classes") is None


def test_class_names_do_not_need_the_training_set(small_config_file):
    options = ["DATASETS.TRAIN", "('no_such_data_set',)"]
    metadata = load_metadata(load_inference_config(small_config_file, options))
    assert metadata.thing_classes == list(NAMES)
