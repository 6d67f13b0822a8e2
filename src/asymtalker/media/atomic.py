"""Files and folders that appear whole: written under another name beside their place, then moved there."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

from asymtalker.errors import UserError

FULL_DISK = (ENOSPC, EDQUOT, EFBIG)
LONGEST_NAME = 255
"""Bytes, of all usual file systems."""
SHOWN = 80
"""Bytes of a file's name, and characters of a machine's, in the name of what is to become it."""
WRITER = r"\d+(?:-[0-9a-f]+)?"
"""Of :func:`beside`, as a regular expression."""


def check_writable(path: Path, folder: bool = False) -> None:
    """Make the folder that a file, or a ``folder``, is going to be written into, before the work whose result it is.

    Raises:
        UserError: if ``path`` is there and is something else, its name is too long, or its folder can't be made or
            written to.
    """
    if is_address(path):
        raise UserError(f"The output {path} is an address: give the path of a file and upload that.")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"The name of the output {path} is too long: give a shorter one.")
    path = written_through(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"The output {path} is a pipe or a device: give the name of a file.")
    if path.is_dir() and not folder:
        raise UserError(f"The output {path} is a folder: give the name of a file in it.")
    if path.is_file() and folder:
        raise UserError(f"The output {path} is a file: give the name of a folder.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {path.parent} ({error.strerror}): choose another output.") from error
    trial = beside(path, "part")  # rights say nothing of a file system that holds no files, such as /proc
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise UserError(
            f"The folder {path.parent} may not be written to ({error.strerror}): choose another output."
        ) from error


def is_address(path: str | Path) -> bool:
    """Whether a path is what is left of an address on the net, such as ``https://...``."""
    return re.search(r"(^|/)[a-z][a-z\d]+:/", str(path)) is not None


def written_through(path: Path) -> Path:
    """Where a link leads, so that what it points to is replaced and not the link itself; other paths as they are."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def beside(path: Path, ending: str) -> Path:
    """A hidden name beside ``path`` for what is to take its place, which no other thread, process or machine uses."""
    shown = os.fsencode(path.name)[:SHOWN].decode(
        sys.getfilesystemencoding(), errors="ignore"
    )  # or long names would become too long
    writer = f"{socket.gethostname().split('.')[0][:SHOWN]}.{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{shown}.{writer}.{ending}")


def disk_is_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error, so that going on with the next file is of no use."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL_DISK:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def write_error(path: Path, error: OSError) -> UserError:
    """The sentence for an error of the disk while ``path`` was written."""
    return UserError(f"Cannot write {path} ({reason_of(error)}): make room or choose another place.")


def reason_of(error: Exception) -> str:
    """What is wrong with the disk, in a few words, of the system's error or FFmpeg's."""
    full = getattr(error, "errno", None) in FULL_DISK
    return "the disk is full" if full else getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write a file or a folder under, which takes ``path``'s place at the end of the block.

    An exception leaves ``path`` as it was and nothing beside it; what a kill leaves, :func:`clear_unfinished` undoes.

    Raises:
        UserError: if the disk is full or ``path`` can't be written; other errors of the block pass through.
    """
    path = written_through(path)
    partial, old = beside(path, "part"), beside(path, "old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield partial
        if partial.is_dir() and path.exists():
            os.replace(path, old)  # no file system swaps two folders everywhere
        os.replace(partial, path)
    except BaseException as error:
        _remove(partial)
        if old.exists() and not path.exists():
            os.replace(old, path)
        if problem := _problem_of_disk(error, partial):
            raise write_error(path, problem) from error
        raise
    _remove(old)


def _problem_of_disk(error: BaseException, partial: Path) -> OSError | None:
    """The disk's part in an error of :func:`atomic_path`, if it had one; a block may read other files too."""
    # PyTorch raises another error on top of the file's own, safetensors' only tells its number
    for cause in (error, error.__context__):
        if isinstance(cause, OSError) and (
            cause.errno in FULL_DISK or str(cause.filename or "").startswith(str(partial))
        ):
            return cause
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def clear_unfinished(folder: Path) -> None:
    """Undo what killed writers left unfinished in a folder, if there is one; nobody may be writing there.

    What was to be replaced takes its place again where nothing has taken it, and all else that is left goes.
    """
    for left in list(folder.glob(".*")):
        if old := re.fullmatch(rf"\.(.+)\.[^.]+\.{WRITER}\.old", left.name):
            path = folder / old[1]
            _remove(left) if path.exists() else os.replace(left, path)
        elif re.fullmatch(rf"\..+(\.{WRITER}(\.mp4)?\.part(\.reserve)?|\.part\.mp4)", left.name):
            _remove(left)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file; see :func:`atomic_path`."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_atomic(folder: Path, save: Callable[[Path], object]) -> None:
    """Let ``save``, such as a model's ``save_pretrained``, fill a new folder; see :func:`atomic_path`."""
    with atomic_path(folder) as partial:
        save(partial)
