"""What curves over the frames of one clip say: identity and colour over time, seams, head motion, blinks.

Pure formulas on arrays; :mod:`asymtalker.evaluate.measure.features` measures the curves. Times are in
seconds, frames 25 a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asymtalker.timeline import FPS

SAME_PERSON = 0.4
"""ArcFace cosine similarity under which two pictures are commonly taken for two people."""
SAME_BY_DLIB = 0.6
"""Distance of dlib's embeddings from which on its makers take two pictures for two people."""
BLINK_SHARE = 0.6
"""Share of their usual opening under which lids must fall to count as a blink: in 19 clips of GRID speakers they fall
to less than half of it, or not under 0.9."""
LONGEST_BLINK = 0.6
"""Seconds; what stays closed longer is a look down or closed eyes."""

SLIDE = 5
"""Frames of a head's way past a seam: one that is drawn from where it was to where it is to be slides, and no single
frame differs much from the one before."""
LEAST_CHANGE = 0.01
"""Grey levels of 255, or Delta E, under which a step from one frame to the next is none."""
LEAST_SLIDE = 0.001
"""Distances of the eyes under which a head stands still."""


@dataclass(frozen=True)
class Drift:
    """How a curve moves over a clip.

    Attributes:
        mean: of all samples.
        per_minute: slope of the least-squares line from the second second on, per minute, as a real clip begins with
            its portrait; NaN for a clip under three seconds.
        first_lost: start of the first second whose mean is beyond the threshold; NaN if there is none.
    """

    mean: float
    per_minute: float
    first_lost: float


def drift(times: np.ndarray, values: np.ndarray, threshold: float, above: bool = False) -> Drift:
    """The drift of ``values`` (n,) at ``times`` (n,), of which there is at least one.

    Beyond the threshold is under it, or ``above`` it.
    """
    seconds, means = per_second(times, values)
    slope = float("nan")
    if len(seconds) > 2:
        late = times >= 1
        centred = times[late] - times[late].mean()
        slope = 60 * float((centred * (values[late] - values[late].mean())).sum() / (centred**2).sum())
    lost = np.flatnonzero(means > threshold if above else means < threshold)
    return Drift(float(values.mean()), slope, float(seconds[lost[0]]) if len(lost) else float("nan"))


def per_second(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the seconds that have samples, and the means ``(s, ...)`` of ``values`` (n, ...) in them."""
    seconds, place = np.unique(np.floor(times).astype(int), return_inverse=True)
    sums = np.zeros((len(seconds), *values.shape[1:]))
    np.add.at(sums, place, values)
    counts = np.bincount(place).reshape(-1, *[1] * (values.ndim - 1))
    return seconds, sums / counts


def colour_drift(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far colour moves from the first second of a clip.

    Args:
        lab: per frame mean and standard deviation of the three channels of CIE Lab, ``(F, 6)``.

    Returns:
        Starts of the whole seconds, the distance of each one's mean colour from the first one's (Delta E of 1976),
        and the ratio of its contrast (root of the summed variances) to the first one's; nothing for a clip under two
        seconds.
    """
    lab = lab[: len(lab) // FPS * FPS]
    if len(lab) < 2 * FPS:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    seconds, means = per_second(np.arange(len(lab)) / FPS, lab.astype(np.float64))
    contrast = np.sqrt((means[:, 3:] ** 2).sum(1))
    return seconds, np.linalg.norm(means[:, :3] - means[0, :3], axis=1), contrast / max(contrast[0], 1e-9)


@dataclass(frozen=True)
class Seam:
    """Change at chunk boundaries over change elsewhere, medians; 1 is no seam at all, ``None`` where nothing changes.

    Attributes:
        motion: of the mean absolute difference of consecutive frames.
        colour: of the distance of their mean colours in Lab.
        head: of how far the eyes come within ``SLIDE`` frames.
    """

    motion: float | None
    colour: float | None
    head: float | None = None


def seams(
    change: np.ndarray, lab: np.ndarray, boundaries: Sequence[int], eyes: np.ndarray | None = None
) -> Seam | None:
    """Discontinuity where chunks meet.

    Args:
        change: mean absolute difference of each frame from the one before, ``(F,)``; the first is not used.
        lab: as for :func:`colour_drift`.
        boundaries: numbers of the frames that begin a chunk.
        eyes: where they are, see :func:`head_slides`, if a face was found.

    Returns:
        ``None`` for a clip without a boundary, or one that stands still.
    """
    inside = np.ones(len(change), bool)
    inside[0] = False
    at = [frame for frame in boundaries if 0 < frame < len(change)]
    inside[at] = False
    colour = np.concatenate([[0.0], np.linalg.norm(np.diff(lab[:, :3], axis=0), axis=1)])
    if not at or not inside.any():
        return None
    motion, step = (_ratio(float(np.median(steps[at])), float(np.median(steps[inside]))) for steps in (change, colour))
    if motion is None and step is None:
        return None
    return Seam(motion, step, None if eyes is None else slide_at_seams(eyes, boundaries))


def slide_at_seams(eyes: np.ndarray, boundaries: Sequence[int]) -> float | None:
    """How much farther a head comes within ``SLIDE`` frames across chunk boundaries than elsewhere, see
    :func:`head_slides`; 1 is no slide."""
    slides = head_slides(eyes, boundaries)
    return slides and slides[0] / max(slides[1], LEAST_SLIDE)


def head_slides(eyes: np.ndarray, boundaries: Sequence[int]) -> tuple[float, float] | None:
    """How far a head comes within ``SLIDE`` frames across chunk boundaries, and anywhere else: medians, in distances
    of its eyes.

    Args:
        eyes: their middle and how far they are apart ``(F, 3)``, in pixels.
        boundaries: numbers of the frames that begin a chunk.

    Returns:
        ``None`` where a clip has no boundary with so many frames after it, or no such stretch without one.
    """
    way = np.linalg.norm(eyes[SLIDE:, :2] - eyes[:-SLIDE, :2], axis=1) / np.median(eyes[:, 2])
    at = [frame - 1 for frame in boundaries if 0 < frame <= len(way)]
    elsewhere = np.ones(len(way), bool)
    for first in at:
        elsewhere[max(0, first - SLIDE + 1) : first + SLIDE] = False
    if not at or not elsewhere.any():
        return None
    return float(np.median(way[at])), float(np.median(way[elsewhere]))


def _ratio(at: float, elsewhere: float) -> float | None:
    """A picture that freezes between its seams has a large ratio, not an endless one."""
    return at / max(elsewhere, LEAST_CHANGE) if max(at, elsewhere) > 0 else None


def chunk_boundaries(num_frames: int, first: float, step: float) -> list[int]:
    """Frames that begin a chunk, of a video whose first chunk lasts ``first`` frames and each later one ``step``.

    Those of a system with another frame rate are no whole numbers of frames here, and are rounded one by one.
    """
    count = max(0, math.ceil((num_frames - first) / step))
    return [frame for index in range(count) if (frame := round(first + index * step)) < num_frames]


def head_motion(angles: np.ndarray) -> float:
    """How much a head moves in a clip, in degrees: root mean square distance of ``angles`` (F, 3) from their mean."""
    return float(np.sqrt(((angles - angles.mean(0)) ** 2).sum(1).mean()))


def motion_diversity(clips: Sequence[np.ndarray]) -> float:
    """How differently heads move in different clips, in degrees; 0 if all move alike, or not at all.

    The mean over pairs of clips of the root mean square difference of their angles ``(F_i, 3)``, each counted from
    the clip's own mean, over the frames both have. NaN for fewer than two clips.
    """
    centred = [angles - angles.mean(0) for angles in clips]
    distances = []
    for i, one in enumerate(centred):
        for other in centred[:i]:
            common = min(len(one), len(other))
            distances.append(np.sqrt(((one[:common] - other[:common]) ** 2).sum(1).mean()))
    return float(np.mean(distances)) if distances else float("nan")


def blink_times(opening: np.ndarray) -> np.ndarray:
    """Seconds at which lids begin to blink.

    A blink is a run of frames, no longer than ``LONGEST_BLINK``, in which the lids are open by less than
    ``BLINK_SHARE`` of their median over the clip.

    Args:
        opening: how far the lids are open, ``(F,)``, the mean of both eyes.
    """
    shut = np.concatenate([[False], opening < BLINK_SHARE * np.median(opening), [False]])
    starts, stops = np.flatnonzero(~shut[:-1] & shut[1:]), np.flatnonzero(shut[:-1] & ~shut[1:])
    return starts[stops - starts <= LONGEST_BLINK * FPS] / FPS
