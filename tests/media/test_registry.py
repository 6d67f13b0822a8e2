"""Downloads: whole, resumed, from a second mirror, of wrong contents, without a network, and the shipped table."""

import hashlib
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asymtalker.errors import UserError
from asymtalker.media import registry
from asymtalker.media.registry import Entry

CONTENT = {"a/first.bin": bytes(range(256)) * 1000, "second.bin": b"second"}


class Server(ThreadingHTTPServer):
    """Serves ``content`` and notes every request's ``Range``; hangs up after ``cut`` bytes."""

    def __init__(self, content, *, ranges=True, cut=None):
        self.content, self.ranges, self.cut, self.requests = content, ranges, cut, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/files"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        content = self.server.content.get(self.path.removeprefix("/files/"))
        if content is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if self.server.cut is None else content[start : start + self.server.cut])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(content=CONTENT, **settings):
        server = Server(content, **settings)
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def register(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYMTALKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")

    def add(*mirrors):
        lines = [f"{path}\t{len(data)}\t{hashlib.sha256(data).hexdigest()}" for path, data in CONTENT.items()]
        table = tmp_path / "table.tsv"
        table.write_text("\n".join(["path\tsize\tsha256", *lines, ""]))
        monkeypatch.setitem(registry.REGISTRY, "small", Entry(mirrors, table, "CC0-1.0", "this test"))
        return tmp_path / "cache" / "small"

    return add


def assert_complete(folder):
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found.pop("LICENCE.txt").decode().startswith("CC0-1.0\nthis test\nhttp://127.0.0.1")
    assert found == CONTENT  # and no partial file beside them


def test_fetch_gives_every_file_once(serve, register, capsys):
    server = serve()
    folder = register(server.url)
    assert registry.fetch("small") == folder
    assert_complete(folder)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "download small" in captured.err
    registry.fetch("small")
    assert len(server.requests) == len(CONTENT)
    assert capsys.readouterr().err == ""


def test_cut_download_goes_on_where_it_stopped(serve, register):
    folder = register(serve(cut=100_000).url)
    with pytest.raises(UserError, match="connection ended after 100000 of 256000 bytes"):
        registry.fetch("small")
    assert (folder / "a" / "first.bin.part").stat().st_size == 100_000
    assert not (folder / "a" / "first.bin").exists()
    server = serve()
    register(server.url)
    registry.fetch("small")
    assert_complete(folder)
    assert ("/files/a/first.bin", "bytes=100000-") in server.requests


@pytest.mark.parametrize("ranges", [True, False])
def test_damaged_or_unwanted_beginning_is_thrown_away(ranges, serve, register):
    server = serve(ranges=ranges)
    folder = register(server.url)
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "first.bin.part").write_bytes(b"rubbish")
    (folder / "second.bin.part").write_bytes(b"longer than the file itself")
    registry.fetch("small")
    assert_complete(folder)


def test_second_mirror_helps_out(serve, register):
    wrong = serve({path: data[::-1] for path, data in CONTENT.items()})
    folder = register(serve({}).url, wrong.url, serve().url)
    registry.fetch("small")
    assert_complete(folder)


def test_wrong_contents_are_refused_and_not_kept(serve, register):
    folder = register(serve({path: data[::-1] for path, data in CONTENT.items()}).url)
    with pytest.raises(UserError, match="other contents than registered"):
        registry.fetch("small")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["LICENCE.txt"]


def test_two_processes_do_not_write_into_each_other(serve, register):
    server = serve()
    folder = register(server.url)
    fetches = [threading.Thread(target=registry.fetch, args=("small",)) for _ in range(4)]
    for fetch in fetches:
        fetch.start()
    for fetch in fetches:
        fetch.join()
    assert_complete(folder)
    assert len(server.requests) == len(CONTENT)


def test_portraits_are_a_folder_or_the_registered_set(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "fetch", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert registry.named_portraits(Path("mine")) == Path("mine")
    assert registry.named_portraits(Path("cc0")) == tmp_path / "cc0_portraits"
    (tmp_path / "cc0").mkdir()
    assert registry.named_portraits(Path("cc0")) == Path("cc0")


def test_no_network_is_one_sentence(serve, register):
    server = serve()
    url = server.url
    server.shutdown()
    server.server_close()
    register(url)
    with pytest.raises(UserError, match=r"cannot download .* check the connection") as caught:
        registry.fetch("small")
    assert "\n" not in str(caught.value)


def test_unwritable_cache_is_one_sentence(serve, register, tmp_path):
    register(serve().url)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot keep the download of small"):
        registry.fetch("small")


def test_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match="cc0_portraits"):
        registry.fetch("nothing")


def test_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ASYMTALKER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert registry.cache_dir() == tmp_path / "asymtalker"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert registry.cache_dir() == tmp_path / "home" / ".cache" / "asymtalker"


@pytest.mark.parametrize("name", sorted(registry.REGISTRY))
def test_entries_are_pinned(name):
    entry = registry.REGISTRY[name]
    files = entry.files()
    assert files
    assert len({file.path for file in files}) == len(files)
    assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256) and file.size > 0 for file in files)
    assert not any(file.path.startswith("/") or ".." in file.path for file in files)
    assert all(mirror.startswith("https://") and not mirror.endswith("/") for mirror in entry.mirrors)
    assert entry.licence
    assert entry.origin


@pytest.mark.network
def test_one_real_portrait_is_as_registered(tmp_path, monkeypatch):
    entry = registry.REGISTRY["cc0_portraits"]
    table = tmp_path / "table.tsv"
    table.write_text("\n".join(entry.listed.read_text().splitlines()[:2]))
    for index, mirror in enumerate(entry.mirrors):
        monkeypatch.setenv("ASYMTALKER_CACHE", str(tmp_path / str(index)))
        monkeypatch.setitem(registry.REGISTRY, "one", Entry((mirror,), table, entry.licence, entry.origin))
        assert len(list(registry.fetch("one").rglob("*.jpg"))) == 1
