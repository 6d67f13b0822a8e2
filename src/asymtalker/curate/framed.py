"""A clip as stage 4 leaves it, which the stages after it read and write beside."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.curate.recipe import Recipe
from asymtalker.curate.work import done, once, settings_of
from asymtalker.media.atomic import clear_unfinished
from asymtalker.media.sound import window
from asymtalker.media.video import decode_frames
from asymtalker.media.wav import decode_wav, read_wav
from asymtalker.timeline import SAMPLES_PER_FRAME


@dataclass(frozen=True)
class FramedClip:
    """A folder with ``clip.mp4`` (square, 25 FPS), ``clip.wav`` and ``points.npy``.

    Attributes:
        folder: see above.
        whole: the sound of the video it was cut from, a WAV file, and the sample at which it begins there.
    """

    folder: Path
    whole: tuple[Path, int] | None = None

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames, each ``(S, S, 3)`` uint8; a few are in memory at a time."""
        return decode_frames(self.folder / "clip.mp4")

    @functools.cached_property
    def points(self) -> np.ndarray:
        """Its face's mesh ``(F, 478, 3)`` float32 in pixels, NaN where it was lost."""
        return np.load(self.folder / "points.npy")

    @functools.cached_property
    def filled(self) -> np.ndarray:
        """The same, linear between where it was lost."""
        points = self.points.reshape(len(self.points), -1)
        known = np.flatnonzero(~np.isnan(points[:, 0]))
        if len(known) == len(points):
            return self.points
        low = np.clip(np.searchsorted(known, np.arange(len(points)), "right") - 1, 0, len(known) - 1)
        high = np.minimum(low + 1, len(known) - 1)
        span = np.maximum(known[high] - known[low], 1)
        share = np.clip((np.arange(len(points)) - known[low]) / span, 0, 1)[:, None]
        filled = points[known[low]] * (1 - share) + points[known[high]] * share
        return filled.reshape(self.points.shape).astype(np.float32)

    @functools.cached_property
    def sound(self) -> np.ndarray:
        """``(640 F,)`` float32 at 16 kHz, as it is in the video."""
        return decode_wav((self.folder / "clip.wav").read_bytes())

    def moved_sound(self, late: float) -> np.ndarray:
        """The same of sound that came ``late`` frames after the picture: so much later in the video."""
        shift = round(SAMPLES_PER_FRAME * late)
        if self.whole is None:
            return window(self.sound, shift, shift + len(self.sound))
        path, first = self.whole
        return read_wav(path, first + shift, first + shift + len(self.sound))


@dataclass(frozen=True)
class ClipStage:
    """A stage of one clip: ``work(clip, recipe, late)`` returns scores and may write files into the clip's folder.

    Attributes:
        name: of its record.
        work: see above.
        settings: fields of the recipe that its result depends on.
        version: of how it measures; what another one measured is measured again.
        at_hand: whether there is what it needs; done without, it is done again when there is.
        moves: whether it depends on ``late``, the frames by which the video's sound is late.
    """

    name: str
    work: Callable[[FramedClip, Recipe, float], dict[str, Any]]
    settings: tuple[str, ...] = ()
    moves: bool = False
    version: int = 0
    at_hand: Callable[[], bool] | None = None

    def made_by(self, recipe: Recipe, late: float) -> dict[str, Any]:
        """The settings in its record."""
        settings = settings_of(recipe, self.settings) | ({"late": round(late, 3)} if self.moves else {})
        settings |= {"version": self.version} if self.version else {}
        return settings | ({"at_hand": self.at_hand()} if self.at_hand else {})

    def record(self, folder: Path, recipe: Recipe, late: float) -> dict[str, Any] | None:
        """Its record for the clip in a folder, if it is done."""
        return done(folder / f"{self.name}.json", self.made_by(recipe, late))

    def __call__(self, clip: FramedClip, recipe: Recipe, late: float) -> None:
        """Do it unless it is done."""
        if self.record(clip.folder, recipe, late) is None:
            clear_unfinished(clip.folder)
            record = clip.folder / f"{self.name}.json"
            once(record, self.made_by(recipe, late), lambda: {"scores": self.work(clip, recipe, round(late, 3))})
