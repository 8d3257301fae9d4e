import functools
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler

import numpy as np
import pytest
from PIL import Image

from lite_focus_detr.data import UnreadableImage, read_image
from lite_focus_detr.tools import demo_inputs
from lite_focus_detr.tools.demo_inputs import Source, find_sources, local_file


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg", "c.PNG"):  # the last as cameras name them
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "clip.mp4").write_bytes(b"")
    return tmp_path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(folder):
    """Address of a server of the folder."""
    handler = functools.partial(Quiet, directory=str(folder))
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_folders_give_their_images_in_order_and_videos_are_named(folder):
    found = find_sources([str(folder), str(folder / "clip.mp4"), "0"])
    assert [(x.stem, x.is_video) for x in found] == [
        *(("a", False), ("b", False), ("c", False), ("clip", True), ("webcam_0", True))
    ]


def test_a_file_whose_name_is_a_number_is_no_webcam(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "0").write_bytes((folder / "b.png").read_bytes())
    assert find_sources(["0"]) == [Source("0")]
    assert Source("0").stem == "0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing", "input .*missing does not exist"),
        ("empty", "no images in .*empty"),
        ("ftp://host/a.jpg", "ftp://host/a.jpg is no address of an image"),
        ("file:///etc/passwd", "file:///etc/passwd is no address"),
        ("https://host/clip.mp4?x=1", "is a video: download it"),
    ],
)
def test_what_is_no_input_is_explained(tmp_path, text, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        find_sources([text if ":" in text else str(tmp_path / text)])


def test_an_address_is_an_image_for_as_long_as_it_is_needed(folder, server):
    (source,) = find_sources([f"{server}/b.png?size=full"])
    assert source.stem == "b"
    with local_file(source) as path:
        assert read_image(path, "RGB").shape == (40, 60, 3)
    with pytest.raises(UnreadableImage):
        read_image(path, "RGB")


@pytest.mark.fault(area="images", expected="refused")
@pytest.mark.parametrize("fault", ["missing", "no server", "too large", "no image"])
def test_downloads_that_are_no_image_are_named(folder, server, monkeypatch, fault):
    address = {
        "missing": f"{server}/gone.png",
        "no server": "http://127.0.0.1:1/a.png",
        "too large": f"{server}/large.png",
        "no image": f"{server}/notes.txt",
    }[fault]
    monkeypatch.setattr(demo_inputs, "MAX_DOWNLOAD", 1 << 20)
    (folder / "large.png").write_bytes(bytes(3 << 20))

    def read():
        with local_file(Source(address)) as path:
            read_image(path, "RGB")

    with pytest.raises(UnreadableImage, match=f"cannot (download|read image) {address}"):
        read()


def test_names_in_addresses_are_decoded():
    assert Source("https://host/my%20photo.jpg").stem == "my photo"
    assert Source("https://host/").stem == "image"
