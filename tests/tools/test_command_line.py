import argparse

from lite_focus_detr import model_zoo
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
