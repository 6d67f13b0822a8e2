"""Uploads: kept under names of our own, decoded by a process that may be killed, gone after a stated time."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from asymtalker.serve.decoding import TOO_LARGE, UNUSABLE, RefusedError, Task, line_of
from asymtalker.serve.settings import Limits

BLOCK = 1 << 20  # bytes
BUSY = 503


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An upload that was decoded.

    Attributes:
        path: the PNG or WAV made of it.
        remarks: sentences for whoever sent it.
        width, height: of a picture.
        face: left, top, width and height of the face in it.
        samples: of a sound, at 16 kHz.
    """

    path: Path
    remarks: list[str] = field(default_factory=list)
    width: int = 0
    height: int = 0
    face: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    samples: int = 0


class Uploads:
    """The folder of uploads and what looks into them.

    Args:
        folder: of files that are being looked at, and of what was made of them.
        limits: what is refused.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder = folder
        self._limits = limits
        folder.mkdir(parents=True, exist_ok=True)
        self._free = threading.Semaphore(limits.decoders)
        self._lock = threading.Lock()
        self._spare: list[subprocess.Popen[str]] = []
        self._closed = False

    def new_path(self, suffix: str) -> Path:
        """A name that nobody can guess and nothing has yet."""
        return self.folder / f"{secrets.token_hex(16)}{suffix}"

    @contextlib.contextmanager
    def kept(self, source: IO[bytes]) -> Iterator[Path]:
        """A copy of an upload, for the length of the block.

        Raises:
            RefusedError: if it is larger than a request may be, or empty.
        """
        path, left = self.new_path(".upload"), int(self._limits.request_mb * BLOCK)
        try:
            with path.open("wb") as copy:
                while block := source.read(BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise RefusedError(f"A file of over {self._limits.request_mb:g} MB is not taken.", TOO_LARGE)
                    copy.write(block)
            if not path.stat().st_size:
                raise RefusedError("An empty file was sent: give a picture and a sound.")
            yield path
        finally:
            path.unlink(missing_ok=True)

    def picture(self, source: Path, face: int | None = None) -> Prepared:
        """A portrait, decoded and its face found; see :func:`asymtalker.serve.decoding.decode_picture`.

        Raises:
            RefusedError: if it can't be taken.
        """
        return self._decoded("picture", str(source), ".png", face=face)

    def sound(self, source: Path) -> Prepared:
        """A voice, decoded; see :func:`asymtalker.serve.decoding.decode_sound`.

        Raises:
            RefusedError: if it can't be taken.
        """
        return self._decoded("sound", str(source), ".wav")

    def spoken(self, text: str, voice: str) -> Prepared:
        """A text, spoken; see :func:`asymtalker.serve.decoding.speak_text`.

        Raises:
            RefusedError: if it can't be taken.
        """
        if len(text) > self._limits.text_characters:
            raise RefusedError(f"The text is too long: at most {self._limits.text_characters} characters.", TOO_LARGE)
        if not text.strip():
            raise RefusedError("There is nothing to say: give a text, or a recording.")
        return self._decoded("text", text, ".wav", voice=voice)

    def _decoded(self, kind: Literal["picture", "sound", "text"], source: str, suffix: str, **more: Any) -> Prepared:
        limits, target = self._limits, self.new_path(suffix)
        task = Task(
            kind=kind,
            source=source,
            target=str(target),
            megapixels=limits.megapixels,
            picture_side=limits.picture_side,
            video_side=limits.video_side,
            sound_seconds=limits.sound_seconds,
            decode_seconds=limits.decode_seconds,
            decode_mb=limits.decode_mb,
            **more,
        )
        if not self._free.acquire(timeout=2 * limits.decode_seconds):
            raise RefusedError("Too many uploads are being looked at: try again in a minute.", BUSY)
        try:
            found = self._ask(task)
        finally:
            self._free.release()
        if "error" in found:
            target.unlink(missing_ok=True)
            raise RefusedError(found["error"], found["status"])
        return Prepared(path=target, **found)

    def _ask(self, task: Task) -> dict[str, Any]:
        """What a process of its own says of a task; it is killed when it takes longer than it may."""
        process, begin = self._take(), time.monotonic()
        try:
            said, _ = process.communicate(line_of(task), timeout=2 * self._limits.decode_seconds)
        except subprocess.TimeoutExpired:
            return {"error": "This takes too long to decode: give a shorter or smaller file.", "status": TOO_LARGE}
        finally:
            process.kill()
            process.wait()
            self._prepare()
        if said:
            return json.loads(said)
        if time.monotonic() - begin > self._limits.decode_seconds / 2:
            return {"error": "This takes too long to decode: give a shorter or smaller file.", "status": TOO_LARGE}
        return {"error": "This can't be decoded: save it anew and give that file.", "status": UNUSABLE}

    def _take(self) -> subprocess.Popen[str]:
        """A process that is waiting, or a new one."""
        with self._lock:
            process = self._spare.pop() if self._spare else None
        if process is not None and process.poll() is None:
            return process
        return self._start()

    def _start(self) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        return subprocess.Popen(
            [sys.executable, "-m", "asymtalker.serve.decoding"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # threads would only take room, and no secret of ours concerns it
            env=kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def _prepare(self) -> None:
        """Start the next processes, whose imports are then done when they are needed."""
        with self._lock:
            while len(self._spare) < self._limits.decoders and not self._closed:
                self._spare.append(self._start())

    def warm_up(self) -> None:
        """Have processes wait before the first upload comes."""
        self._prepare()

    def clear(self, older_than: float = 0.0) -> None:
        """Delete what was uploaded or prepared more than so many seconds ago."""
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if path.is_file() and time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()

    def close(self) -> None:
        """End the processes that wait."""
        with self._lock:
            self._closed = True
            for process in self._spare:
                process.kill()
                process.wait()
            self._spare.clear()
