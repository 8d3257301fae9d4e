"""Detection in images and videos of one's own."""

import json
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from lite_focus_detr.data.video import VideoReader, VideoWriter
from lite_focus_detr.engine.detector_record import Classes, DetectorRecord
from lite_focus_detr.predictor import Predictor
from lite_focus_detr.tools import demo
from lite_focus_detr.tools.demo import Demo, Selection
from lite_focus_detr.tools.demo_inputs import Source, find_sources
from lite_focus_detr.tools.output_folder import OutputFolder

NAMES = ("rectangle", "ellipse", "triangle")


def two_objects():
    """A sure one and an unsure one."""
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[5.0, 6.0, 25.0, 36.0], [0.0, 0.0, 9.0, 9.0]]))
    instances.scores = torch.tensor([0.9, 0.2])
    instances.pred_classes = torch.tensor([2, 0])
    return instances


class FixedPredictor:
    """Finds two objects in every image."""

    class_names = NAMES
    metadata = SimpleNamespace(get={"thing_classes": NAMES}.get)
    description = SimpleNamespace(category_ids=(1, 2, 3))
    model = SimpleNamespace(encoder=SimpleNamespace(keep_ratios=(), modules=list))

    def __call__(self, image):
        self.last = image
        return two_objects()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def clip(tmp_path):
    pytest.importorskip("av")
    with VideoWriter(str(tmp_path / "clip.mp4"), Fraction(5)) as video:
        for number in range(4):
            video.write(np.full((40, 60, 3), 50 * number, np.uint8))
    return str(tmp_path / "clip.mp4")


def run(sources, output, selection=Selection(0.5), kinds=("json",), predictor=None):  # noqa: B008
    output.mkdir(exist_ok=True)
    names = [f"{x.stem}{'.mp4' if x.is_video else '.png'}" for x in sources]
    detection = Demo(predictor or FixedPredictor(), OutputFolder(output), selection)
    unreadable = detection.run(sources, names)
    detection.finish(kinds)
    return unreadable


def test_pictures_have_the_names_of_the_photos_and_predictions_are_written(
    images, tmp_path, capsys
):
    sources = find_sources([str(images)])
    assert run(sources, tmp_path / "out") == 0
    assert sorted(x.name for x in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert predictions == [
        {
            "file_name": source.place,
            "category_id": 2,
            "category": "triangle",
            "bbox": [5.0, 6.0, 20.0, 30.0],
            "score": pytest.approx(0.9),
        }
        for source in sources
    ]
    printed = capsys.readouterr().out
    assert "a.png: 1 object, at least 50%" in printed
    assert "2 images, 2 objects" in printed
    assert "images per second" in printed


def test_the_picture_has_the_colours_of_the_image(tmp_path):
    Image.new("RGB", (60, 40), (200, 30, 90)).save(tmp_path / "a.png")
    run([Source(str(tmp_path / "a.png"))], tmp_path / "out")
    (picture,) = (tmp_path / "out").glob("*.png")
    # The lower right corner is outside of the box.
    assert np.asarray(Image.open(picture))[-5, -5].tolist() == [200, 30, 90]


def test_an_unreadable_image_is_told_and_the_others_are_done(images, tmp_path, capsys):
    (images / "c.png").write_bytes(b"no image")
    assert run(find_sources([str(images)]), tmp_path / "out") == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert "c.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "threshold", "top"),
    [
        ((None, None, None), 0.0, 20),
        ((None, None, 0.31), 0.31, None),
        ((0.4, None, 0.31), 0.4, None),
        ((None, 5, 0.31), 0.0, 5),
        ((0.4, 5, None), 0.4, 5),
    ],
)
def test_what_counts_follows_the_command_line_then_the_weights(given, threshold, top):
    assert Selection.of(*given) == Selection(threshold, top)


@pytest.mark.parametrize("given", [(30.0, None), (-0.1, None), (None, 0)])
def test_thresholds_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match=r"--(confidence-threshold|top)"):
        Selection.of(*given, None)


@pytest.mark.parametrize(
    ("selection", "scores", "line"),
    [
        (Selection(0.5), [0.9], "1 object, at least 50%"),
        (Selection(0.95), [], "no object of at least 95%, the best has 90%"),
        (Selection(top=20), [0.9, 0.2], "the best 2, 90% to 20%"),
        (Selection(0.1, 1), [0.9], "the best 1, 90% to 90%"),
        (Selection(0.95, 3), [], "no object of at least 95%, the best has 90%"),
    ],
)
def test_the_line_of_an_image_says_what_was_chosen(selection, scores, line):
    assert selection.choose(two_objects()).scores.tolist() == pytest.approx(scores)
    assert selection.describe(two_objects()) == line


def test_a_video_becomes_a_video(clip, tmp_path, capsys):
    run([Source(clip, is_video=True)], tmp_path / "out", kinds=("json", "csv", "coco"))
    with VideoReader(str(tmp_path / "out/clip.mp4")) as video:
        assert video.rate == 5
        frames = [frame.image for frame in video]
    assert len(frames) == 4
    assert min(frames[0].shape[:2]) > 40  # enlarged, as pictures are
    # The lower right corner is outside of the boxes.
    assert [int(frame[-9, -9, 0]) for frame in frames] == pytest.approx([0, 50, 100, 150], abs=6)
    predictions = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [(x["frame"], x["seconds"]) for x in predictions] == [
        *((0, 0.0), (1, 0.2), (2, 0.4), (3, 0.6))
    ]
    assert "4 frames, 4 objects" in capsys.readouterr().out


def test_frames_reach_the_detector_in_bgr_order(tmp_path):
    pytest.importorskip("av")
    with VideoWriter(str(tmp_path / "red.mp4"), Fraction(5)) as video:
        video.write(np.full((40, 60, 3), (255, 0, 0), np.uint8))
    predictor = FixedPredictor()
    run([Source(str(tmp_path / "red.mp4"), is_video=True)], tmp_path / "out", predictor=predictor)
    assert predictor.last[20, 30].tolist() == pytest.approx([0, 0, 255], abs=12)


def test_what_was_detected_before_ctrl_c_is_kept(clip, images, tmp_path, capsys):
    class Interrupted(FixedPredictor):
        calls = 0

        def __call__(self, image):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return two_objects()

    sources = [Source(clip, is_video=True), *find_sources([str(images)])]
    run(sources, tmp_path / "out", predictor=Interrupted())
    with VideoReader(str(tmp_path / "out/clip.mp4")) as video:
        assert len(list(video)) == 2
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 2
    assert "stopped" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_an_exit_code(tmp_path, capsys):
    arguments = ["--config-file", "/no/such.yaml", "--input", str(tmp_path), "--output", "x"]
    with pytest.raises(SystemExit) as exit_info:
        demo.main(arguments)
    assert "/no/such.yaml" in str(exit_info.value.code)


@pytest.fixture
def trained(small_config, tmp_path):
    """A checkpoint of a training; its threshold is above all scores."""
    torch.manual_seed(0)
    record = DetectorRecord(small_config, classes=Classes(NAMES), iteration=lambda: 7)
    record.note_evaluation({"bbox": {"AP": 12.3, "threshold": 0.875}})
    path = tmp_path / "trained.pth"
    model = build_model(small_config)
    torch.save({"model": model.state_dict(), "detector": record.state_dict()}, path)
    return str(path)


@pytest.mark.parametrize("broken", [False, True])
def test_weights_input_and_output_are_enough(trained, images, tmp_path, capsys, broken):
    if broken:
        (images / "c.png").write_bytes(b"no image")
    out = tmp_path / "out"
    code = demo.main(["--weights", trained, "--input", str(images), "--output", str(out)])
    # It also says whether all images could be read.
    assert code == int(broken)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "trained.pth: DeformableDETR, 3 classes rectangle ellipse triangle, iteration 7, AP 12.3, "
        "threshold 0.88"
    )
    assert any("a.png: no object of at least 88%, the best has" in line for line in lines)
    assert json.loads((out / "predictions.json").read_text()) == []


def test_an_optimised_detector_detects_the_same(trained, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    precisions, found = [], []

    def predictor(cfg):
        precisions.append(cfg.TEST.OPTIMIZE)
        return Predictor(cfg)

    monkeypatch.setattr(demo, "Predictor", predictor)
    for name, options in (("plain", []), ("optimised", ["--optimize"])):
        places = ["--input", str(tmp_path / "noise.png"), "--output", str(tmp_path / name)]
        assert demo.main(["--weights", trained, "--top", "10", *places, *options]) == 0
        found.append(json.loads((tmp_path / name / "predictions.json").read_text()))
    assert precisions == ["none", "float32"]
    plain, optimised = found
    assert len(plain) == 10
    for one, other in zip(plain, optimised, strict=True):
        assert other["score"] == pytest.approx(one["score"], abs=1e-4)
        assert other["bbox"] == pytest.approx(one["bbox"], abs=1e-3)
        assert other["file_name"] == one["file_name"]


def test_pictures_of_others_are_not_overwritten(trained, images):
    before = (images / "b.png").read_bytes()
    arguments = ["--weights", trained, "--input", str(images), "--top", "3"]
    with pytest.raises(SystemExit, match=r"b\.png: would be overwritten, .* another --output"):
        demo.main([*arguments, "--output", str(images)])
    assert (images / "b.png").read_bytes() == before
    for _ in range(2):  # those of its own are
        assert demo.main([*arguments, "--output", str(images / "out")]) == 0
    assert len(json.loads((images / "out/predictions.json").read_text())) == 6


@pytest.mark.parametrize(
    ("text", "seconds"), [("300ms", 0.3), ("0.3s", 0.3), ("2s", 2.0), (" .5s ", 0.5)]
)
def test_a_latency_has_a_unit(text, seconds):
    assert demo.parse_latency(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["300", "fast", "0ms", "-1s", "3m"])
def test_a_latency_without_a_unit_is_explained(text, capsys):
    with pytest.raises(SystemExit):
        demo.main(["--input", "y", "--output", "z", f"--latency={text}"])
    assert "is no time such as 300ms or 0.3s" in capsys.readouterr().err


class BudgetPredictor:
    """Takes as many seconds as its encoder keeps of the tokens."""

    def __init__(self, clock):
        self.clock = clock
        self.model = self

    def set_budget(self, keep_ratio):
        self.keep_ratio = keep_ratio

    def __call__(self, image):
        self.clock[0] += self.keep_ratio


@pytest.mark.parametrize(
    ("limit", "keep_ratio", "too_slow"), [(0.45, 0.4, False), (0.01, 0.05, True)]
)
def test_the_budget_follows_the_latency(monkeypatch, capsys, limit, keep_ratio, too_slow):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    predictor = BudgetPredictor(clock)
    demo.keep_within(predictor, Source("image.png"), limit)
    assert predictor.keep_ratio == keep_ratio
    assert ("No keep ratio takes at most" in capsys.readouterr().out) == too_slow


def test_the_latency_is_that_of_the_first_frame_of_a_video(clip):
    class Looking(BudgetPredictor):
        def __call__(self, image):
            assert image.shape == (40, 60, 3)

    demo.keep_within(Looking([0.0]), Source(clip, is_video=True), 1.0)


def test_an_image_that_cannot_be_timed_is_an_error_of_the_user():
    class Unreadable(BudgetPredictor):
        def __call__(self, image):
            raise RuntimeError(f"{image} cannot be read")

    with pytest.raises(ValueError, match=r"--latency: image.png cannot be read"):
        demo.keep_within(Unreadable([0.0]), Source("image.png"), 1.0)
