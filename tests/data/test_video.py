import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from lite_focus_detr.data import UnreadableImage
from lite_focus_detr.data.video import VideoReader, VideoWriter, is_webcam, turn_upright


@pytest.fixture
def clip(tmp_path):
    """A video of 6 grey frames of 64 x 48 pixels, brighter and brighter, with a red square."""
    pytest.importorskip("av")
    path = str(tmp_path / "clip.mp4")
    with VideoWriter(path, Fraction(10)) as video:
        for number in range(6):
            picture = np.full((49, 65, 3), 40 * number, np.uint8)
            picture[8:24, 8:24] = (255, 0, 0)
            video.write(picture)
    return path


def test_frames_come_back_in_their_order_with_their_time(clip):
    with VideoReader(clip) as video:
        assert (video.rate, video.count) == (10, 6)
        frames = list(video)
    assert [frame.number for frame in frames] == list(range(6))
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    for number, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3)
        assert frame.image[40, 50].tolist() == pytest.approx([40 * number] * 3, abs=6)
        assert frame.image[16, 16].tolist() == pytest.approx([0, 0, 255], abs=12)  # BGR


@pytest.mark.fault(area="images", expected="refused")
@pytest.mark.parametrize("fault", ["missing", "text", "cut", "sound", "no webcam"])
def test_what_is_no_video_is_named(clip, tmp_path, fault):
    path = tmp_path / f"{fault}.mp4"
    if fault == "text":
        path.write_text("no video")
    elif fault == "cut":
        content = (tmp_path / "clip.mp4").read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif fault == "sound":
        write_sound(path)
    source = "97" if fault == "no webcam" else str(path)
    with pytest.raises(UnreadableImage, match=rf"cannot read (video|webcam) {source}: \S"):
        VideoReader(source)


def write_sound(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)


def test_a_video_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    pytest.importorskip("av")

    def write():
        with VideoWriter(str(tmp_path / "no/such/clip.mp4"), Fraction(10)) as video:
            video.write(np.zeros((48, 64, 3), np.uint8))

    with pytest.raises(OSError, match="No such file"):
        write()


def test_videos_of_telephones_are_turnedturn_upright():
    lying = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(turn_upright(lying, 0), lying)
    # 90 degrees counterclockwise: the right column becomes the first row.
    assert np.array_equal(turn_upright(lying, 90)[0], lying[:, 2])
    assert np.array_equal(turn_upright(lying, -90)[0], lying[::-1, 0])
    assert np.array_equal(turn_upright(lying, 180), lying[::-1, ::-1])


def test_a_webcam_is_a_number(monkeypatch):
    assert [is_webcam(x) for x in ("0", "12", "0.mp4", "", "-1", "²")] == [
        *(True, True, False, False, False, False)
    ]
    opened = []

    def refuse(*arguments, **options):
        opened.append((arguments, options))
        raise av.error.FFmpegError(13, "Permission denied")

    av = pytest.importorskip("av")
    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(UnreadableImage, match="cannot read webcam 3: Permission denied"):
        VideoReader("3")
    assert opened == [(("/dev/video3",), {"format": "v4l2"})]


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for make in (lambda: VideoReader("a.mp4"), lambda: VideoWriter("b.mp4", Fraction(1))):
        with pytest.raises(ValueError, match=r"pip install 'lite-focus-detr\[video\]'"):
            make()


def test_frames_without_a_time_are_counted(clip, monkeypatch):
    with VideoReader(clip) as video:
        frames = [
            SimpleNamespace(time=None, rotation=0, to_ndarray=lambda format: np.zeros((2, 2, 3)))
            for _ in range(3)
        ]
        container = SimpleNamespace(decode=lambda stream: frames, close=lambda: None)
        monkeypatch.setattr(video, "container", container)
        assert [frame.seconds for frame in video] == pytest.approx([0, 0.1, 0.2])
