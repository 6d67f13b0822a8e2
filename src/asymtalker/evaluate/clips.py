"""What is compared: clips, as video files or in a corpus, read at 25 frames a second, and the real ones."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asymtalker.dataset import corpus
from asymtalker.errors import UserError
from asymtalker.evaluate.pairs import PAIRS, read_pairs
from asymtalker.evaluate.record import RECORD, read_record
from asymtalker.media.picture import PICTURE_SUFFIXES, read_picture
from asymtalker.media.sound import read_audio
from asymtalker.media.video import VIDEO_SUFFIXES, VideoInfo, decode_frames, probe_video
from asymtalker.timeline import FPS, SAMPLE_RATE

REFERENCE = "reference"
"""What the real clips are called among the methods."""
BLOCK = 100
"""Frames of a corpus's clip that are decoded at once."""


class Clip(Protocol):
    """One video with its sound. Everything that reads it may raise a :class:`UserError` about this clip."""

    @property
    def name(self) -> str: ...

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
        crop: left, top, width and height in pixels of what counts of the picture; ``None`` for all of it.
    """

    path: Path
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
        if left + width > self._info.width or top + height > self._info.height:
            shown = f"{self._info.width}x{self._info.height}"
            raise UserError(f"{self.path} is {shown}, but {RECORD} says that {width}x{height} at {left},{top} count.")
        for frame in decode_frames(self.path, resample=True):
            yield frame[top : top + height, left : left + width]

    def sound(self) -> np.ndarray:
        if self._info.audio_rate is None:
            return np.zeros(0, np.float32)
        silence = np.zeros(max(0, round(self._info.audio_delay * SAMPLE_RATE)), np.float32)
        return np.concatenate([silence, read_audio(self.path)])

    def stamp(self) -> list[Any]:
        return [*_state(self.path), self.crop]

    def notes(self) -> list[str]:
        rate = self._info.fps
        notes = [] if abs(rate - FPS) < 0.01 else [f"{rate:.5g} frames a second, read at {FPS}"]
        return notes if self._info.audio_rate else [*notes, "no sound"]


@dataclass(frozen=True)
class CorpusClip:
    """A held-out clip of the corpus in ``folder``; its shard is opened when something of it is read."""

    folder: Path
    row: corpus.ManifestRow

    @cached_property
    def clip(self) -> corpus.Clip:
        return corpus.open_clip(self.folder, self.name)

    @property
    def name(self) -> str:
        return self.row.key

    @property
    def size(self) -> tuple[int, int]:
        return self.row.height, self.row.width

    def frames(self) -> Iterator[np.ndarray]:
        for start in range(0, self.clip.num_frames, BLOCK):
            yield from self.clip.frames(start, min(start + BLOCK, self.clip.num_frames))

    def sound(self) -> np.ndarray:
        return self.clip.audio()

    def stamp(self) -> list[Any]:
        return [self.name, *_state(self.clip.shard)]

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
        chunk: how long a video's first chunk and each later one are, in frames of 25 a second, if that is known.
        about: what ``method.json`` beside the videos says: settings, seconds, failures.
    """

    name: str
    clips: dict[str, Clip]
    chunk: tuple[float, float] | None = None
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
            clip = self.clips[name]
            return clip.clip.frames(0, 1)[0] if isinstance(clip, CorpusClip) else next(clip.frames(), None)
        return None

    def stamp(self, name: str) -> list[Any]:
        """What changes when the portrait or the real clip of a name does."""
        if name in self.portraits:
            return _state(self.portraits[name])
        return self.clips[name].stamp() if name in self.clips else []


def _state(file: Path) -> list[Any]:
    """What changes when a file does; of one that is not there, its path alone."""
    try:
        state = file.stat()
    except OSError:
        return [str(file)]
    return [str(file.resolve()), state.st_size, state.st_mtime_ns]


def held_out(folder: Path) -> list[corpus.ManifestRow]:
    """The clips of a corpus that no training sees.

    Raises:
        UserError: if it is no corpus or has none.
    """
    rows = [row for row in corpus.read_manifest(folder) if row.split == "test" and not row.rejected_by]
    if not rows:
        raise UserError(f"The corpus {folder} has no held-out clips (split test): make a larger one.")
    return rows


def open_reference(path: Path) -> Reference:
    """A corpus (its held-out clips), a prepared benchmark (``pairs.tsv`` and ``videos/``), or a folder of videos.

    Pictures of the names of the videos are the portraits; in a prepared benchmark, those of ``pairs.tsv``.

    Raises:
        UserError: if it is none of these, or has no clip.
    """
    if (path / corpus.MANIFEST).is_file():
        clips: dict[str, Clip] = {row.key: CorpusClip(path, row) for row in held_out(path)}
        return Reference(clips, {}, _usual_size(clips))
    folder = path / "videos" if (path / "videos").is_dir() else path
    clips = _videos(folder)
    if (path / PAIRS).is_file():
        portraits = {pair.name: pair.image for pair in read_pairs(path / PAIRS)}
    else:
        portraits = {file.stem: file for file in sorted(path.iterdir()) if file.suffix.lower() in PICTURE_SUFFIXES}
    return Reference(clips, portraits, _usual_size(clips))


def open_method(name: str, path: Path, names: Collection[str] | None = None) -> Method:
    """The videos of a folder, and what its ``method.json`` says of them.

    Args:
        name: of the method.
        path: the folder.
        names: of the videos that count; all by default.

    Raises:
        UserError: if there is no video, or ``method.json`` is damaged.
    """
    about = read_record(path)
    place, pieces = about.get("crop"), about.get("chunk")
    crop = place and tuple(place[key] for key in ("left", "top", "width", "height"))
    chunk = pieces and tuple(pieces[key] * FPS / about.get("fps", FPS) for key in ("first", "step"))
    clips = _videos(path, crop)
    return Method(name, {key: clip for key, clip in clips.items() if names is None or key in names}, chunk, about)


def _videos(folder: Path, crop: Any = None) -> dict[str, Clip]:
    if not folder.is_dir():
        there = f"{folder} is a file" if folder.exists() else f"There is no folder {folder}"
        raise UserError(f"{there}: give a folder of videos.")
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder} has no videos ({', '.join(VIDEO_SUFFIXES)}): give a folder of videos.")
    if double := [name for name, count in Counter(file.stem for file in files).items() if count > 1]:
        raise UserError(f"{folder} has two videos called {double[0]}: keep one.")
    return {file.stem: FileClip(file, crop) for file in files}


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
