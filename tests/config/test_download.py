"""Downloads from a server in this process."""

import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lite_focus_detr.config.download import download, known_hash

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Sends its content; from /short less than announced, from /empty nothing."""

    def __init__(self, *arguments, state):
        self.state = state
        super().__init__(*arguments)

    def do_GET(self):
        self.state["requests"] += 1
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        content = b"" if self.path.startswith("/empty") else self.state["content"]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:-1] if self.path.startswith("/short") else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """``server.url``, and ``server.state`` with its content and the number of requests."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    state = {"content": CONTENT, "requests": 0}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, state=state)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.state, server.url = state, f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


def kept(tmp_path):
    return [x for x in tmp_path.rglob("*") if x.is_file() and x.suffix != ".lock"]


def read(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("name", ["w.pth", f"w-{SHA256[:8]}.pth", f"w.pth#sha256={SHA256}"])
def test_a_right_file_is_downloaded_once(server, tmp_path, name):
    for _ in range(2):
        path = download(f"{server.url}/{name}")
        assert read(path) == CONTENT
    assert path.endswith(name.partition("#")[0])
    assert server.state["requests"] == 1


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("name", ["short/w.pth", "empty/w.pth", "missing/w.pth"])
def test_an_incomplete_file_is_not_kept(server, tmp_path, name):
    with pytest.raises(OSError, match=r"bytes arrived|404"):
        download(f"{server.url}/{name}")
    assert kept(tmp_path) == []


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("name", ["w-0123abcd.pth", f"w.pth#sha256={'0' * 64}"])
def test_a_file_with_another_hash_is_not_kept(server, tmp_path, name):
    with pytest.raises(ValueError, match=f"SHA-256 {SHA256}, not 0"):
        download(f"{server.url}/{name}")
    assert kept(tmp_path) == []


@pytest.mark.fault(area="security", expected="refused")
def test_a_file_that_its_reader_refuses_is_not_kept(server, tmp_path):
    def refuse(path):
        assert read(path) == CONTENT
        raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        download(f"{server.url}/w.pth", refuse)
    assert kept(tmp_path) == []


@pytest.mark.fault(area="security", expected="repaired")
def test_a_copy_that_has_changed_since_is_downloaded_again(server):
    url = f"{server.url}/w.pth#sha256={SHA256}"
    path = download(url)
    with open(path, "wb") as file:
        file.write(b"other")
    assert read(download(url)) == CONTENT


@pytest.mark.fault(area="security", expected="survived")
def test_files_of_one_name_on_two_servers_are_two_files(server):
    first = download(f"{server.url}/a/w.pth")
    server.state["content"] = b"other"
    second = download(f"{server.url.replace('127.0.0.1', 'localhost')}/a/w.pth")
    assert (read(first), read(second)) == (CONTENT, b"other")


@pytest.mark.fault(area="security", expected="survived")
@pytest.mark.parametrize("path", ["/../../../../w.pth", "/a/../../../w.pth", "/%2e%2e/w.pth"])
def test_no_path_of_a_url_leaves_the_folder_of_downloads(server, tmp_path, path):
    download(server.url + path)
    (file,) = kept(tmp_path)
    assert file.relative_to(tmp_path / "cache").parts[1:] == ("w.pth",)


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("url", ["http://h/", "http://h/..", "file:///etc/passwd", "ftp://h/w.pth"])
def test_only_addresses_of_files_are_downloaded(url, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="is not the address of a file"):
        download(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/resnet50-0676ba61.pth", "0676ba61"),
        ("https://h/swin_tiny_patch4_window7_224.pth", ""),
        ("https://h/model-20220101.pth", ""),  # a date
        ("https://h/model-final.pth", ""),
        (f"https://h/w.pth#sha256={SHA256}", SHA256),
    ],
)
def test_hashes_are_those_that_addresses_name(url, expected):
    assert known_hash(url) == expected


def test_a_fragment_that_is_no_hash_is_refused():
    with pytest.raises(ValueError, match=r"must end with #sha256= and the 64 digits"):
        known_hash("https://h/w.pth#sha256=12")
