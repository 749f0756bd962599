"""Downloads, from a server on this machine: mirrors, hashes, the cache, and what is said without a network."""

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from fcjax.datasets import DataError, load, mnist
from fcjax.datasets.download import RemoteFile, cache_folder, fetch

CONTENT = b"seven bytes, give or take"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/file"  # the discard port: nothing listens there


class Handler(BaseHTTPRequestHandler):
    """Serves ``CONTENT`` at /good, something else at /bad, half of it at /cut, and nothing anywhere else."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = {"/good": CONTENT, "/bad": b"other bytes", "/cut": CONTENT[:9]}.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(CONTENT if self.path == "/cut" else body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("FCJAX_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Handler.asked.clear()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_download_is_kept_and_not_repeated(server: str, tmp_path: Path) -> None:
    file = RemoteFile("file", SHA256, (server + "/good",))
    path = fetch(file, "set")
    assert path == tmp_path / "cache" / "set" / "file"
    assert path.read_bytes() == CONTENT
    fetch(file, "set")
    assert Handler.asked == ["/good"]


def test_a_cached_file_needs_no_network(server: str, tmp_path: Path) -> None:
    fetch(RemoteFile("file", SHA256, (server + "/good",)), "set")
    assert fetch(RemoteFile("file", SHA256, (NOWHERE,)), "set").read_bytes() == CONTENT


@pytest.mark.parametrize("first", ["/bad", "/cut", "/missing"])
def test_a_mirror_that_fails_is_passed_over(server: str, first: str) -> None:
    assert fetch(RemoteFile("file", SHA256, (server + first, server + "/good")), "set").read_bytes() == CONTENT
    assert Handler.asked == [first, "/good"]


def test_a_damaged_file_in_the_cache_is_fetched_again(server: str) -> None:
    file = RemoteFile("file", SHA256, (server + "/good",))
    fetch(file, "set").write_bytes(CONTENT[:5])
    assert fetch(file, "set").read_bytes() == CONTENT


def test_when_every_mirror_fails_one_sentence_says_all(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(RemoteFile("file", SHA256, (NOWHERE, server + "/missing", server + "/bad")), "set")
    assert str(caught.value) == (
        f"set: file can't be downloaded from {NOWHERE} (no connection) or {server}/missing (HTTP status 404) or "
        f"{server}/bad (its sha256 is not the expected one): put it into the cache folder {tmp_path}/cache/set, or "
        f"name a folder that holds it with --data-dir"
    )
    assert list((tmp_path / "cache" / "set").iterdir()) == []  # nothing half-done stays


def test_a_cache_folder_that_cant_be_written(server: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(DataError, match=r"cache folder .* can't be written .*set FCJAX_DATA"):
        fetch(RemoteFile("file", SHA256, (server + "/good",)), "set")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCJAX_DATA", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("FCJAX_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().name == "fcjax"


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_loading_asks_the_mirrors_in_their_order(server: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(mnist.MIRRORS, name, (server + "/first/", server + "/second/"))
    with pytest.raises(
        DataError, match=rf"{name}: train-images-idx3-ubyte.gz can't be downloaded from {server}/first/"
    ):
        load(name)
    assert Handler.asked == ["/first/train-images-idx3-ubyte.gz", "/second/train-images-idx3-ubyte.gz"]


def test_every_file_has_a_hash_of_its_own() -> None:
    names = {name for files in mnist.FILES.values() for name in files}
    assert all(set(hashes) == names for hashes in mnist.SHA256.values())
    hashes = [value for table in mnist.SHA256.values() for value in table.values()]
    assert len(set(hashes)) == 8
    assert all(len(bytes.fromhex(value)) == 32 for value in hashes)


@pytest.mark.data
def test_the_hashes_are_those_of_the_original_files() -> None:
    root = os.environ.get("FCJAX_TEST_DATA")
    if not root or not (Path(root) / "mnist").is_dir():
        pytest.skip("FCJAX_TEST_DATA names no folder with mnist/ in it")
    for name, sha256 in mnist.SHA256["mnist"].items():
        assert hashlib.sha256((Path(root) / "mnist" / name).read_bytes()).hexdigest() == sha256
