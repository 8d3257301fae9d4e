"""Frames of videos and webcams, and videos of pictures, by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import UnreadableImage

SUFFIXES = frozenset(
    (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
)
#: Where a webcam does not say how many frames a second has.
_DEFAULT_RATE = Fraction(30)
# The best of them that the library was built with; players know both.
_CODECS = ("libx264", "mpeg4")


class Frame(NamedTuple):
    """An image of a video."""

    image: npt.NDArray[np.uint8]  #: (H, W, 3) in BGR order, upright
    number: int  #: from 0
    seconds: float  #: since the first one


class VideoReader:
    """The frames of a video file or of a webcam, in the order in which they are shown.

    A context manager; iterating yields a :class:`Frame` each.
    """

    def __init__(self, source: str) -> None:
        """Open it.

        Args:
            source: path of a file, or the number of a webcam, ``0`` for ``/dev/video0``.

        Raises:
            ValueError: PyAV is not installed.
            UnreadableImage: there is no such file or webcam, or it is no video.
        """
        av = import_av()
        self.source = source
        webcam = is_webcam(source)
        with self._naming():
            self.container = (
                av.open(f"/dev/video{source}", format="v4l2") if webcam else av.open(source)
            )
            videos = self.container.streams.video
            if not videos:
                raise UnreadableImage(f"cannot read video {source}: it has no pictures")
        self._stream = videos[0]
        self._stream.thread_type = "AUTO"
        #: Frames per second.
        self.rate: Fraction = self._stream.average_rate or _DEFAULT_RATE
        #: How many there are as far as the file knows, 0: unknown.
        self.count: int = self._stream.frames

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Decode.

        Raises:
            UnreadableImage: the rest of it is damaged.
        """
        start: float | None = None
        with self._naming():
            for number, frame in enumerate(self.container.decode(self._stream)):
                time = float(number / self.rate) if frame.time is None else frame.time
                start = time if start is None else start
                image = turn_upright(frame.to_ndarray(format="bgr24"), frame.rotation)
                yield Frame(image, number, time - start)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        what = f"webcam {self.source}" if is_webcam(self.source) else f"video {self.source}"
        try:
            yield
        except import_av().error.FFmpegError as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableImage(f"cannot read {what}: {reason}") from error


class VideoWriter:
    """A video of pictures of one size; a context manager."""

    def __init__(self, path: str, rate: Fraction) -> None:
        """Create a file.

        Args:
            path: ends with .mp4.
            rate: frames per second.

        Raises:
            OSError: it cannot be written.
        """
        self._av = import_av()
        self._path = path
        self._rate = rate
        self._stream: Any = None
        with self._naming():
            self.container = self._av.open(path, "w")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._naming():
            if self._stream is not None:
                self.container.mux(self._stream.encode())
            self.container.close()

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Append a picture.

        Args:
            picture: (H, W, 3) in RGB order; a last odd row or column is left out.

        Raises:
            OSError: it cannot be written.
        """
        height, width = (2 * (side // 2) for side in picture.shape[:2])
        if self._stream is None:
            self._stream = self.container.add_stream(_codec(self._av), rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
        pixels = np.ascontiguousarray(picture[:height, :width])
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        with self._naming():
            self.container.mux(self._stream.encode(frame))

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except self._av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror, self._path) from error


def is_webcam(source: str) -> bool:
    """Whether a source is the number of a webcam."""
    return source.isascii() and source.isdecimal()


def import_av() -> Any:
    """PyAV.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(
            "videos and webcams need PyAV: pip install 'lite-focus-detr[video]'"
        ) from error
    return av


def _codec(av: Any) -> str:
    return next(name for name in _CODECS if name in av.codecs_available)


def turn_upright(image: npt.NDArray[np.uint8], rotation: float) -> npt.NDArray[np.uint8]:
    """An image as it is to be shown; telephones store it as the sensor lies.

    Args:
        image: (H, W, 3).
        rotation: degrees, counterclockwise.
    """
    turned: npt.NDArray[np.uint8] = np.rot90(image, round(rotation / 90))
    return np.ascontiguousarray(turned)
