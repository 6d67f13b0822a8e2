"""What is compared: clips, as video files or in a corpus, read at 25 frames a second, and the real ones."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asymtalker import corpus
from asymtalker.errors import UserError
from asymtalker.evaluate.baselines import RECORD, read_pairs
from asymtalker.media import read_audio, read_picture
from asymtalker.timeline import FPS
from asymtalker.video import VideoInfo, decode_frames, probe_video

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
BLOCK = 100
"""Frames of a corpus's clip that are decoded at once."""


class Clip(Protocol):
    """One video with its sound. Everything that reads it may raise a :class:`UserError` about this clip."""

    @property
    def name(self) -> str: ...

    @property
    def framed(self) -> bool:
        """Whether the picture is the square around a face that generation makes, or else any picture with a face."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def frames(self) -> Iterator[np.ndarray]:
        """``(H, W, 3)`` uint8 RGB, 25 a second."""
        ...

    def sound(self) -> np.ndarray:
        """``(n,)`` float32 at 16 kHz; no samples if there is no sound."""
        ...

    def stamp(self) -> list[Any]:
        """What changes when the clip does."""
        ...

    def notes(self) -> list[str]:
        """What was converted."""
        ...


@dataclass(frozen=True)
class FileClip:
    """A video file.

    Attributes:
        path: the file.
        framed: see :class:`Clip`.
        crop: left, top, width and height in pixels of what counts of the picture; ``None`` for all of it.
    """

    path: Path
    framed: bool = False
    crop: tuple[int, int, int, int] | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def _info(self) -> VideoInfo:
        return probe_video(self.path)

    @property
    def size(self) -> tuple[int, int]:
        return (self.crop[3], self.crop[2]) if self.crop else (self._info.height, self._info.width)

    def frames(self) -> Iterator[np.ndarray]:
        left, top, width, height = self.crop or (0, 0, self._info.width, self._info.height)
        for frame in decode_frames(self.path, in_step=True):
            yield frame[top : top + height, left : left + width]

    def sound(self) -> np.ndarray:
        return np.zeros(0, np.float32) if self._info.audio_rate is None else read_audio(self.path)

    def stamp(self) -> list[Any]:
        state = self.path.stat()
        return [str(self.path.resolve()), state.st_size, state.st_mtime_ns, self.framed, self.crop]

    def notes(self) -> list[str]:
        rate = self._info.fps
        return [] if abs(rate - FPS) < 0.01 else [f"{rate:.5g} frames a second, read at {FPS}"]


@dataclass(frozen=True)
class CorpusClip:
    """A clip of a corpus."""

    clip: corpus.Clip
    framed: bool = True

    @property
    def name(self) -> str:
        return self.clip.row.key

    @property
    def size(self) -> tuple[int, int]:
        return self.clip.row.height, self.clip.row.width

    def frames(self) -> Iterator[np.ndarray]:
        for start in range(0, self.clip.num_frames, BLOCK):
            yield from self.clip.frames(start, min(start + BLOCK, self.clip.num_frames))

    def sound(self) -> np.ndarray:
        return self.clip.audio()

    def stamp(self) -> list[Any]:
        state = self.clip.shard.stat()
        return [str(self.clip.shard.resolve()), self.name, state.st_size, state.st_mtime_ns]

    def notes(self) -> list[str]:
        return []

    @property
    def truth(self) -> dict[str, Any] | None:
        """The ground truth of a synthetic clip."""
        return self.clip.info.get("ground_truth")


@dataclass(frozen=True)
class Method:
    """Videos of one method.

    Attributes:
        name: as it stands in the report.
        clips: by name.
        chunk: frames, of 25 a second, of a video's first chunk and of each later one, if that is known.
        about: what ``method.json`` beside the videos says: settings, seconds, failures.
    """

    name: str
    clips: dict[str, Clip]
    chunk: tuple[int, int] | None = None
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """Real clips, by name, and the picture that each name's video was made from.

    Attributes:
        clips: by name.
        portraits: picture files by name; where there is none, the first frame of the real clip is the picture.
        size: height and width that most clips have, and that all clips are measured at.
    """

    clips: dict[str, Clip]
    portraits: dict[str, Path]
    size: tuple[int, int]

    def portrait(self, name: str) -> np.ndarray | None:
        """The picture a video of this name is to keep the face of, ``(H, W, 3)`` uint8; ``None`` if there is none."""
        if name in self.portraits:
            return read_picture(self.portraits[name])
        if name in self.clips:
            return next(self.clips[name].frames(), None)
        return None


def open_reference(path: Path) -> Reference:
    """A corpus (its held-out clips), a prepared benchmark (``pairs.tsv`` and ``videos/``), or a folder of videos.

    Pictures of the names of the videos are the portraits; in a prepared benchmark, those of ``pairs.tsv``.

    Raises:
        UserError: if it is none of these, or has no clip.
    """
    if (path / corpus.MANIFEST).is_file():
        rows = [row for row in corpus.read_manifest(path) if row.split == "test" and not row.rejected_by]
        if not rows:
            raise UserError(f"The corpus {path} has no held-out clips (split test): make a larger one.")
        clips: dict[str, Clip] = {row.key: CorpusClip(corpus.open_clip(path, row.key)) for row in rows}
        return Reference(clips, {}, _usual_size(clips))
    clips = _videos(path / "videos" if (path / "videos").is_dir() else path, framed=False)
    if (path / "pairs.tsv").is_file():
        portraits = {pair.name: pair.image for pair in read_pairs(path / "pairs.tsv")}
    else:
        portraits = {file.stem: file for file in sorted(path.iterdir()) if file.suffix.lower() in PICTURES}
    return Reference(clips, portraits, _usual_size(clips))


def open_method(name: str, path: Path, reference: Reference) -> Method:
    """The videos of a folder, and what its ``method.json`` says of them.

    Raises:
        UserError: if there is no video, or ``method.json`` is damaged.
    """
    framed = any(isinstance(clip, CorpusClip) for clip in reference.clips.values())
    about: dict[str, Any] = {}
    crop = chunk = None
    if (path / RECORD).is_file():
        try:
            about = json.loads((path / RECORD).read_text(encoding="utf-8"))
            if place := about.get("crop"):
                crop = tuple(int(place[key]) for key in ("left", "top", "width", "height"))
            if pieces := about.get("chunk"):
                chunk = tuple(round(int(pieces[key]) * FPS / about.get("fps", FPS)) for key in ("first", "step"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path / RECORD} is damaged ({error}): write it again or remove it.") from error
    return Method(name, _videos(path, framed, crop), chunk, about)


def _videos(folder: Path, framed: bool, crop: Any = None) -> dict[str, Clip]:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give a folder of videos.")
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in VIDEOS and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder} has no videos ({', '.join(VIDEOS)}): give a folder of videos.")
    if double := [name for name, count in Counter(file.stem for file in files).items() if count > 1]:
        raise UserError(f"{folder} has two videos called {double[0]}: keep one.")
    return {file.stem: FileClip(file, framed, crop) for file in files}


def _usual_size(clips: dict[str, Clip]) -> tuple[int, int]:
    """The size most clips have; those that can't be read have none."""
    sizes: Counter[tuple[int, int]] = Counter()
    for clip in clips.values():
        try:
            sizes[clip.size] += 1
        except UserError:
            continue
    if not sizes:
        raise UserError("None of the reference videos can be read: give others.")
    return sizes.most_common(1)[0][0]
