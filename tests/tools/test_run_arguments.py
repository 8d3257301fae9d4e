"""Options of ``train`` and ``eval`` as those of detectron2."""

import argparse

from lite_focus_detr.tools import run_arguments


def parse(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights")
    run_arguments.add_run_arguments(parser, config_help="")
    return parser.parse_args(arguments)


def test_named_options_beat_keys():
    args = parse("--weights", "w.pth", "--opts", "MODEL.WEIGHTS", "v.pth", "OUTPUT_DIR", "a")
    options = run_arguments.run_options(args, "b")
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        "MODEL.WEIGHTS": "w.pth",
        "OUTPUT_DIR": "b",
    }
    assert run_arguments.run_options(parse(), None) == []


def test_arguments_of_detectron2_have_the_path_of_a_named_configuration():
    args = run_arguments.detectron2_arguments("dino_shapes", ["SEED", "1"], resume=True)
    assert args.config_file.endswith("quick_schedules/dino_shapes.yaml")
    assert (args.opts, args.resume, args.eval_only, args.num_gpus) == (
        ["SEED", "1"],
        True,
        False,
        1,
    )
