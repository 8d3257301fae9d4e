import argparse
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from lite_focus_detr import model_zoo
from lite_focus_detr.config import SavedConfig
from lite_focus_detr.engine.detector_record import Classes, DetectorRecord
from lite_focus_detr.tools import command_line


def parse(*arguments):
    parser = argparse.ArgumentParser()
    command_line.add_config_arguments(parser)
    return parser.parse_args(arguments)


def test_every_kind_of_encoder_is_compared_and_the_dense_one_comes_first():
    names = command_line.encoder_configs()
    architectures = [model_zoo.get_config(name).MODEL.META_ARCHITECTURE for name in names]
    assert architectures[0] == "DeformableDETR"
    assert set(architectures) >= {"DeformableDETR", "LiteDETR", "FocusDETR", "SparseDETR"}
    assert architectures.count("DeformableDETR") == 1
    assert architectures.count("LiteDETR") == 8
    assert len(set(names)) == len(names)


def test_the_compared_encoders_have_the_same_size_and_detector():
    def detector(name):
        cfg = model_zoo.get_config(name)
        return cfg.MODEL.DETR.ENCODER.FFN_DIM, cfg.MODEL.DETR.QUERY_SELECTION, cfg.MODEL.RESNETS

    names = command_line.encoder_configs()
    assert all(detector(name) == detector(names[0]) for name in names)


def test_weights_win_over_the_options():
    args = parse("--config-file", "a", "--weights", "w.pth", "--opts", "MODEL.WEIGHTS", "v.pth")
    assert command_line.options_with_weights(args) == [
        *("MODEL.WEIGHTS", "v.pth"),
        *("MODEL.WEIGHTS", "w.pth"),
    ]


def test_without_weights_the_options_are_what_is_given():
    assert command_line.options_with_weights(parse("--config-file", "a")) == []
    args = parse("--config-file", "a", "--opts", "MODEL.DEVICE", "cpu")
    assert command_line.options_with_weights(args) == ["MODEL.DEVICE", "cpu"]


@pytest.fixture
def trained(small_config, tmp_path):
    """A checkpoint that holds its configuration, and one that does not."""
    record = DetectorRecord(small_config, classes=Classes(("a", "b", "c")), iteration=lambda: 7)
    model = {"model": build_model(small_config).state_dict()}
    torch.save({**model, "detector": record.state_dict()}, tmp_path / "with.pth")
    torch.save(model, tmp_path / "without.pth")
    return SimpleNamespace(
        weights=str(tmp_path / "with.pth"), without=str(tmp_path / "without.pth")
    )


@pytest.mark.parametrize("option", ["--weights", "MODEL.WEIGHTS"])
def test_weights_alone_are_enough(trained, option, small_config):
    first = [] if option == "--weights" else ["--opts"]
    more = [*(["--opts"] if not first else []), "TEST.DETECTIONS_PER_IMAGE", "5"]
    cfg = command_line.inference_config(parse(*first, option, trained.weights, *more))
    assert trained.weights == cfg.MODEL.WEIGHTS
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 5
    assert cfg.MODEL.RESNETS.DEPTH == small_config.MODEL.RESNETS.DEPTH == 18
    assert cfg.OUTPUT_DIR == "./output"  # that of the training is of another machine


def test_a_configuration_file_beats_that_of_the_weights(trained, small_config, tmp_path):
    small_config.TEST.DETECTIONS_PER_IMAGE = 3
    (tmp_path / "other.yaml").write_text(small_config.dump())
    args = parse("--weights", trained.weights, "--config-file", str(tmp_path / "other.yaml"))
    assert command_line.inference_config(args).TEST.DETECTIONS_PER_IMAGE == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --weights, or --config-file, or both"),
        (("--weights", "no/such.pth"), "no/such.pth does not exist"),
        (("--weights", "without"), r"without.pth holds no configuration: .* --config-file"),
    ],
)
def test_without_any_configuration_it_is_asked_for(trained, arguments, message):
    arguments = [trained.without if x == "without" else x for x in arguments]
    with pytest.raises((ValueError, OSError), match=message):
        command_line.inference_config(parse(*arguments))


def parse_models(*arguments):
    parser = argparse.ArgumentParser()
    command_line.add_models_arguments(parser)
    return parser.parse_args(arguments)


def test_several_models_have_one_configuration_each_one_for_all_or_their_own(
    trained, small_config_file
):
    both, each = ["--weights", trained.weights, trained.without], ["--weights", trained.weights]
    first, second = command_line.load_predictors(
        parse_models(*both, "--config-file", small_config_file)
    )
    assert trained.weights == first.cfg.MODEL.WEIGHTS
    assert trained.without == second.cfg.MODEL.WEIGHTS
    assert len(command_line.load_predictors(parse_models(*each, *each))) == 2
    files = ["--config-file", small_config_file, small_config_file]
    with pytest.raises(ValueError, match="one name for all of --weights, or one for each"):
        command_line.load_predictors(parse_models(*each, *files))


def run_args(*arguments):
    parser = default_argument_parser()
    command_line.add_weights_arguments(parser)
    return parser.parse_args(arguments)


def test_an_evaluation_finds_its_configuration_in_the_weights(trained):
    for options in (["--weights", trained.weights], ["MODEL.WEIGHTS", trained.weights]):
        args = run_args("--eval-only", *options)
        config = command_line.run_config(args)
        assert isinstance(config, SavedConfig)
        assert args.opts == ["MODEL.WEIGHTS", trained.weights]
        cfg = model_zoo.get_config(config, args.opts)
        assert cfg.MODEL.DETR.NUM_CLASSES == 3
    args = default_argument_parser().parse_args(["--eval-only", "MODEL.WEIGHTS", trained.weights])
    assert isinstance(command_line.run_config(args), SavedConfig)


def test_a_training_takes_weights_but_not_their_configuration(trained):
    args = run_args("--weights", trained.weights, "SEED", "3")
    assert command_line.run_config(args) == ""
    assert args.opts == ["SEED", "3", "MODEL.WEIGHTS", trained.weights]
    args = run_args("--eval-only", "--config-file", "a.yaml", "--weights", trained.weights)
    assert command_line.run_config(args) == "a.yaml"


@pytest.mark.parametrize(
    ("given", "known", "expected"),
    [
        (0.7, [0.4], 0.7),
        (0.0, [0.4], 0.0),
        (None, [0.4, 0.5], 0.4),
        (None, [None, 0.5], 0.5),
        (None, [None], command_line.DEFAULT_THRESHOLD),
    ],
)
def test_the_threshold_is_that_of_the_command_line_or_of_the_weights(given, known, expected):
    predictors = [SimpleNamespace(threshold=threshold) for threshold in known]
    assert command_line.choose_threshold(given, predictors) == expected


@pytest.mark.parametrize("given", [-0.1, 30.0])
def test_a_threshold_that_is_no_score_is_refused(given):
    with pytest.raises(ValueError, match=r"--confidence-threshold .* is not in \[0, 1\]"):
        command_line.choose_threshold(given, [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["--optimize"], ["TEST.OPTIMIZE", "float32"]),
        (["--optimize", "bfloat16"], ["TEST.OPTIMIZE", "bfloat16"]),
        (["--optimize", "int8"], ["TEST.OPTIMIZE", "int8"]),
    ],
)
def test_optimize_is_a_key_of_the_configuration(words, expected):
    parser = argparse.ArgumentParser()
    command_line.add_optimize_argument(parser)
    command_line.add_config_arguments(parser)
    args = parser.parse_args([*words, "--weights", "a.pth"])
    assert command_line.options_with_weights(args) == ["MODEL.WEIGHTS", "a.pth", *expected]


def test_a_file_to_write_is_left_as_it_was(tmp_path):
    (tmp_path / "old.html").write_text("old")
    assert command_line.output_file(str(tmp_path / "old.html")).read_text() == "old"
    assert not command_line.output_file(str(tmp_path / "new/page.html")).exists()
    assert (tmp_path / "new").is_dir()
    with pytest.raises(SystemExit, match=r"--output: cannot write .*Is a directory"):
        command_line.output_file(str(tmp_path))
