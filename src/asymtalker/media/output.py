"""The file of a video that is being written: kept apart from what killed writers left, and finished on a full disk."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from asymtalker.media.atomic import FULL_DISK

DISK_RESERVE = 8 << 20  # bytes: the index of several hours of video, so that a full disk still leaves a playable file
JUST_BEGUN = 60.0  # seconds


class OutputFile:
    """The file being written, with some room kept back so that a disk that fills up still leaves a playable file."""

    def __init__(self, path: Path):
        # The MP4 muxer reopens the file by this name to move its index to the front; without the protocol FFmpeg
        # would take the part of a name before a colon for one.
        self.name = f"file:{path}"
        self.path = path
        self._reserve = Path(f"{path}.reserve")
        self.full: OSError | None = None
        self.error: OSError | None = None
        self._file = path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed, or its process is gone
        try:
            with self._reserve.open("wb") as reserve:
                reserve.write(os.urandom(DISK_RESERVE))  # zeros would take no room where the disk compresses
        except OSError:
            self.remove()
            raise

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                if self.full or error.errno not in FULL_DISK:
                    self.error = error
                    raise
                self.full = error
                self._reserve.unlink(missing_ok=True)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        self._reserve.unlink(missing_ok=True)

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


def clear_unfinished_videos(folder: Path) -> None:
    """Remove what killed processes of this or another machine have left in a folder of videos: parts that nobody has
    locked. Those of the last minute stay, as they may not be locked yet."""
    for part in folder.glob(".*.mp4.part"):
        with contextlib.suppress(OSError):  # somebody writes it, or has just removed it
            if time.time() - part.stat().st_mtime < JUST_BEGUN:
                continue
            with part.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
                Path(f"{part}.reserve").unlink(missing_ok=True)
