"""What ``demo`` detects in: images, folders of them, addresses, videos and webcams."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from PIL import Image

from ..config.download import fetch
from ..data import UnreadableImage
from ..data.video import SUFFIXES, is_webcam

#: Of an image that is downloaded.
MAX_DOWNLOAD = 64 << 20


class Source(NamedTuple):
    """An image, or a video of many."""

    place: str  #: path, address, or number of a webcam
    is_video: bool = False

    @property
    def stem(self) -> str:
        """Name of what is made of it, without a suffix."""
        if is_webcam(self.place) and self.is_video:
            return f"webcam_{self.place}"
        path = unquote(urlsplit(self.place).path) if _is_address(self.place) else self.place
        return Path(path).stem or "image"


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The images among the given files, addresses and, sorted, in the given folders; the videos.

    Args:
        inputs: paths, addresses of images, or the number of a webcam.

    Raises:
        ValueError: a path does not exist, an address is of something else, or there is no image.
    """
    found: list[Source] = []
    for text in inputs:
        path = Path(text)
        if _is_address(text):
            found.append(_address(text))
        elif path.is_dir():
            suffixes = set(Image.registered_extensions())
            files = (file for file in path.iterdir() if file.suffix.lower() in suffixes)
            found += [Source(str(file)) for file in sorted(files)]
        elif path.is_file():
            found.append(Source(text, path.suffix.lower() in SUFFIXES))
        elif is_webcam(text):
            found.append(Source(text, is_video=True))
        else:
            raise ValueError(f"input {text} does not exist")
    if not found:
        raise ValueError(f"no images in {', '.join(inputs)}")
    return found


@contextmanager
def local_file(source: Source) -> Iterator[str]:
    """Path of the file of an image, which is downloaded for as long as it is needed.

    Raises:
        UnreadableImage: it cannot be downloaded.
    """
    if not _is_address(source.place):
        yield source.place
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "image"))
        try:
            fetch(source.place, path, MAX_DOWNLOAD)
        except (OSError, HTTPException, ValueError) as error:
            raise UnreadableImage(f"cannot download {source.place}: {error}") from error
        try:
            yield path
        except UnreadableImage as error:
            raise UnreadableImage(str(error).replace(path, source.place)) from error


def _is_address(text: str) -> bool:
    return "://" in text


def _address(text: str) -> Source:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"input {text} is no address of an image, https://host/path/image.jpg")
    if Path(parts.path).suffix.lower() in SUFFIXES:
        raise ValueError(f"input {text} is a video: download it and give the file")
    return Source(text)
