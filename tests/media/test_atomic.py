"""Files and folders appear whole or not at all, and a disk that refuses them is one sentence."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path, check_writable, clear_unfinished, save_atomic, write_atomic
from asymtalker.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def small_disk():
    """No file of this process can grow beyond 4 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fill(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)


def test_a_file_or_folder_takes_the_place_of_the_old_one(tmp_path):
    for text in ("old", "new"):
        write_atomic(tmp_path / "deep" / "file", text)
        save_atomic(tmp_path / "deep" / "folder", lambda folder, text=text: fill(folder, **{text: text}))
    assert (tmp_path / "deep" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["new"]
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, FileNotFoundError(2, "no picture", "a.png")])
def test_an_error_leaves_the_old_one_and_nothing_beside_it(tmp_path, error):
    write_atomic(tmp_path / "file", "old")

    def write_half():
        with atomic_path(tmp_path / "file") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error if isinstance(error, type) else FileNotFoundError):
        write_half()
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_kill_between_the_two_moves_left_is_put_back(tmp_path, monkeypatch):
    save_atomic(tmp_path / "run.1", lambda folder: fill(folder, file="old"))
    move = os.replace

    class KilledError(BaseException):
        pass

    def killed(source, target):
        move(source, target)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("asymtalker.media.atomic.os.replace", killed)
        patch.setattr("asymtalker.media.atomic._remove", lambda _: None)  # which a killed process does not come to
        patch.setattr("asymtalker.media.atomic.Path.exists", lambda path: path.name == "run.1")
        with pytest.raises(KilledError):
            save_atomic(tmp_path / "run.1", lambda folder: fill(folder, file="new"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert sorted(name.rsplit(".", 1)[1] for name in left) == ["old", "part"]
    clear_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.1"]
    assert (tmp_path / "run.1" / "file").read_text() == "old"


@pytest.mark.usefixtures("small_disk")
def test_full_disk_is_one_sentence_whoever_writes(tmp_path):
    weights = torch.nn.Linear(100, 100)

    def save(folder):
        folder.mkdir()
        save_file(weights.state_dict(), folder / "weights.safetensors")

    for write in (
        lambda: write_atomic(tmp_path / "a", "x" * 10_000),
        lambda: save_atomic(tmp_path / "a", save),
        lambda: save_checkpoint(tmp_path / "a", 1, {"weights": weights}),
    ):
        with pytest.raises(UserError, match=r"Cannot write .*a \(the disk is full\)"):
            write()
        assert list(tmp_path.iterdir()) == []


def test_an_address_is_no_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("https://a.b/c.mp4", "s3://a/c.mp4"):
        with pytest.raises(UserError, match="is an address"):
            check_writable(Path(address))
    check_writable(Path("12:30.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a"):
        with pytest.raises(UserError, match="folder"):
            check_writable(path)
    with pytest.raises(UserError, match="Cannot write"):
        write_atomic(tmp_path / "file" / "a", "text")
    with pytest.raises(OSError, match="full") as error, atomic_path(tmp_path / "b"):
        raise OSError(errno.EIO, "reading another file, which is full of holes")
    assert not isinstance(error.value, UserError)


@pytest.mark.parametrize(("size", "files"), [(10**9, 1), (1, 3)])
def test_a_checkpoint_is_read_back(tmp_path, monkeypatch, size, files):
    monkeypatch.setattr("asymtalker.training.checkpoint.FILE_BYTES", size)
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    save_checkpoint(tmp_path / "run" / "checkpoint", 7, {"weights": first})
    assert len(list((tmp_path / "run" / "checkpoint").iterdir())) == files
    assert load_checkpoint(tmp_path / "run" / "checkpoint", {"weights": second}) == 7
    assert torch.equal(first.weight, second.weight)
