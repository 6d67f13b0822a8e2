"""What is given to be read: files, looked at before they are opened, pipes, and values in memory."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

import av
import av.error
import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.atomic import is_address


def check_file(path: str | Path, what: str) -> Path:
    """The path, if it is a readable file with something in it, or a pipe.

    Raises:
        UserError: if it is missing, a folder, empty, or may not be read; ``what`` names it in the sentence.
    """
    path = Path(path)
    try:
        if is_address(path):
            raise UserError(f"The {what} {path} is an address: download it and give the file.")
        if path.is_dir():
            raise UserError(f"The {what} {path} is a folder: give the path of a file.")
        if not path.exists():
            if str(path) == "-":
                raise UserError(f"The {what} - does not exist: standard input is /dev/stdin.")
            raise UserError(f"The {what} {path} does not exist: check the path.")
        if path.stat().st_size == 0 and path.is_file():
            raise UserError(f"The {what} {path} is empty (0 bytes): give another file.")
        if not path.is_file():  # a pipe, which :func:`spool` reads; to open it would be to begin
            return path
        with path.open("rb"):
            return path
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read ({error.strerror}): check its permissions.") from error


def open_media(path: Path, what: str) -> Any:
    """An open input container. Only local files are opened, so that a playlist cannot make us fetch addresses."""
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"The {what} {path} is damaged, or is none: give a file that a media player plays.") from error


def spool(given: Any, what: str) -> tuple[IO[bytes], str] | None:
    """A copy, gone when it is closed, of a file that has no path or can be read but once, and what to call it: of what
    comes out of a pipe, such as ``/dev/stdin``, of bytes, and of an open file, from its beginning if it has one.
    ``None`` of all else.

    Raises:
        UserError: if nothing comes, or it can't be kept.
    """
    name = str(given) if isinstance(given, str | Path) else "given"
    try:
        if (opened := _opened(given)) is None:
            return None
        copy = tempfile.NamedTemporaryFile(suffix=Path(name).suffix)  # noqa: SIM115 - whoever reads it closes it
        with opened as source:
            shutil.copyfileobj(source, copy)
        copy.flush()
    except OSError as error:
        raise UserError(
            f"The {what} {name} cannot be read or copied ({error.strerror or error}): give a file."
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"The {what} {name} cannot be read ({error}): open it as open(path, 'rb') does.") from error
    if not copy.tell():
        raise UserError(f"The {what} {name} is empty (0 bytes): give another file.")
    return copy, name


def _opened(given: Any) -> contextlib.AbstractContextManager[IO[bytes]] | None:
    if isinstance(given, str | Path):
        path = Path(given)
        return None if path.is_file() or path.is_dir() or not path.exists() else path.open("rb")
    if isinstance(given, bytes | bytearray | memoryview):
        return io.BytesIO(given)
    if not hasattr(given, "read"):
        return None
    if given.seekable():
        given.seek(0)
    return contextlib.nullcontext(given)


def array_of(values: Any, what: str) -> np.ndarray:
    """An array of what has values: a tensor of any device and type, a list, an array."""
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.float() if values.dtype.is_floating_point else values  # NumPy knows no bfloat16
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} can't be made of a {type(values).__name__}: give an array.") from error
