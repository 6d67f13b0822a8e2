"""Stage 3: where a video is cut, and the spans between that become clips.

Scores of every frame are kept, so that other thresholds need no second look at the pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.curate.recipe import Recipe
from asymtalker.timeline import FPS

SEEN = 160
"""Width in pixels of the copies that are compared."""
MOVING = 0.1
"""Share of the pixels, those that change most, whose mean change counts as the picture's."""
AROUND = 12
"""Frames before and after, with which a frame's change is compared."""
STILL, STILL_SHARE, STILL_MOST = 0.35, 0.35, 1.1
"""Grey levels: a frame that changes less than that is the one before, encoded again; or than that share of what a
quarter of the frames change at least, but for no more than so many."""
MARGIN = 1
"""Frames left out on both sides of a cut, as encoders smear it."""


@dataclass(frozen=True)
class Changes:
    """How each frame (F,) differs from the one before, the first with 0.

    Attributes:
        content: PySceneDetect's content score.
        adaptive: its ratio to the neighbours', the adaptive detector's.
        moved: mean change of the pixels that change most, in grey levels.
    """

    content: np.ndarray
    adaptive: np.ndarray
    moved: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "Changes":
        """As :meth:`save` wrote them."""
        with np.load(path) as file:
            return cls(file["content"], file["adaptive"], file["moved"])

    def save(self, path: Path) -> None:
        """Write an npz."""
        with path.open("wb") as file:
            np.savez(file, content=self.content, adaptive=self.adaptive, moved=self.moved)


class ChangeScores:
    """Takes a video's frames in order; of them it keeps numbers alone."""

    def __init__(self) -> None:
        from scenedetect.detectors import AdaptiveDetector

        self._detector = AdaptiveDetector()
        self._scores = _scores_class()()
        self._detector.stats_manager = self._scores
        self._moved: list[float] = []
        self._before: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame ``(H, W, 3)`` uint8 RGB of 25 FPS."""
        import cv2
        from scenedetect.common import FrameTimecode

        height = max(16, round(SEEN * frame.shape[0] / frame.shape[1]))
        small = cv2.resize(frame, (SEEN, height), interpolation=cv2.INTER_AREA)
        self._detector.process_frame(FrameTimecode(len(self._moved), float(FPS)), small[..., ::-1])
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        self._moved.append(0.0 if self._before is None else most_moved(self._before, grey))
        self._before = grey

    def finish(self) -> Changes:
        """Scores of all frames taken."""
        content, adaptive = np.zeros((2, len(self._moved)), np.float32)
        for values, known in ((content, self._scores.content), (adaptive, self._scores.adaptive)):
            values[list(known)] = list(known.values())
        return Changes(content, adaptive, np.array(self._moved, np.float32))


@cache
def _scores_class() -> Any:
    """A StatsManager that keeps two of the numbers it is told."""
    from scenedetect.stats_manager import StatsManager

    class Scores(StatsManager):
        def __init__(self) -> None:
            super().__init__()
            self.content: dict[int, float] = {}
            self.adaptive: dict[int, float] = {}

        def set_metrics(self, timecode: Any, metric_kv_dict: Mapping[str, float]) -> None:
            for name, value in metric_kv_dict.items():
                if name == "content_val":
                    self.content[int(timecode.frame_num)] = value
                elif name.startswith("adaptive_ratio"):
                    self.adaptive[int(timecode.frame_num)] = value

    return Scores


def most_moved(before: np.ndarray, now: np.ndarray) -> float:
    """Mean change of those pixels of two grey pictures ``(H, W)`` that change most."""
    changes = np.abs(now.astype(np.float32) - before).ravel()
    count = max(1, round(MOVING * len(changes)))
    return float(np.partition(changes, -count)[-count:].mean())


def jump_ratios(moved: np.ndarray) -> np.ndarray:
    """By how much each frame (F,) moves more than those around it do at most times (their upper quartile)."""
    padded = np.pad(moved.astype(np.float64), AROUND, mode="reflect" if len(moved) > AROUND else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1)
    others = np.delete(windows, AROUND, axis=1)
    return moved / np.maximum(np.percentile(others, 75, axis=1), 1.0)


def cut_frames(changes: Changes, recipe: Recipe) -> np.ndarray:
    """Frames that begin something new: cuts and jump cuts."""
    cuts = (changes.adaptive >= recipe.cut_ratio) & (changes.content >= recipe.cut_change)
    jumps = (jump_ratios(changes.moved) >= recipe.jump_ratio) & (changes.moved >= recipe.jump_change)
    return np.flatnonzero(cuts | jumps)


def find_spans(
    changes: Changes, recipe: Recipe, given: tuple[float, float] | None = None
) -> list[tuple[int, int, bool]]:
    """Frames ``[start, stop)`` of a video's clips, and whether each is long enough.

    Args:
        changes: of all its frames.
        recipe: says what a cut is and how long a clip.
        given: seconds of a clip, which is taken for what it says; else the video is divided at its cuts.
    """
    count = len(changes.moved)
    if given is not None:
        start, stop = (round(min(second, count / FPS) * FPS) for second in given)
        if start == stop:
            return [(start, stop, False)]
        ranges = [(start, stop)]
    else:
        cuts = [0, *cut_frames(changes, recipe).tolist(), count]
        ranges = []
        for start, stop in pairwise(cuts):
            ranges.append((start + MARGIN * (start > 0), stop - MARGIN * (stop < count)))
    spans = []
    for start, stop in ranges:
        length = stop - start
        if length < 1:
            continue
        parts = -(-length // recipe.max_frames)
        edges = [start + length * part // parts for part in range(parts + 1)]
        spans += [(a, b, b - a >= recipe.min_frames) for a, b in pairwise(edges)]
    return spans


def frozen_seconds(moved: np.ndarray) -> float:
    """The longest time for which nothing moves, of how each frame differs from the one before, the first of which
    says nothing; single frames amid still ones count as still, as encoders refresh them."""
    changes = moved[1:]
    if not len(changes):
        return 0.0
    usual = STILL_SHARE * float(np.percentile(changes, 75))
    quiet = changes < np.clip(usual, STILL, STILL_MOST)
    amid = np.r_[False, quiet[:-1]] & np.r_[quiet[1:], False]
    longest = run = 0
    for still in (quiet | amid).tolist():
        run = run + 1 if still else 0
        longest = max(longest, run)
    return longest / FPS
