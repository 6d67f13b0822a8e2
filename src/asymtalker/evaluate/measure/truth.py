"""Against what is true of a clip, made or read off the real one: do lips follow the sound, does the face do as it
should?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import correlate

from asymtalker.evaluate.measure.readings import ANGLES, APERTURE, GAZE, LIDS, READINGS, Truth
from asymtalker.timeline import FPS, SAMPLE_RATE

MAX_LAG = 5
"""Frames of lag searched on both sides; 5 frames are 200 ms."""
CLOSED = 0.02
"""Lip aperture up to which lips are shut: speakers of GRID open theirs to 0.10 to 0.24, and close them to 0.00 to
0.01."""
CLOSING = "pbm"
"""First letters of phonemes, after their stress marks, that shut lips make."""
MAX_DELAY = 1.0
"""Seconds by which a video's sound may come later or sooner than the real clip's."""
SAME_SOUND = 0.5
"""Least correlation of the loudness of two sounds that are one, however encoded."""
LEAST_SPREAD = 1e-6
"""Of an aperture that moves."""
LOUDNESS_RATE = 400
"""Values of loudness a second that sounds are aligned by: a tenth of a frame is two of them."""


@dataclass(frozen=True)
class LipScore:
    """How one aperture curve follows another.

    Attributes:
        correlation: Pearson correlation at the lag at which it is largest.
        lag: that lag in frames; positive where the measured lips come late, 0 where they do not move.
        amplitude: spread of the measured aperture over that of the true one; ``None`` where that does not move.
    """

    correlation: float
    lag: int
    amplitude: float | None


@dataclass(frozen=True)
class TruthScore:
    """What a clip's readings say against its ground truth.

    Attributes:
        lips: of the lip aperture.
        blendshape_error: mean absolute error of the weights (0 to 1) of those blendshapes that move in the truth.
        pose_error: root mean square angle between yaw, pitch and roll and the true ones, in degrees.
        closures: share of the phonemes made by shut lips at which they shut; ``None`` where none is known.

    Errors count from the clip's mean, as faces at rest differ.
    """

    lips: LipScore
    blendshape_error: float | None
    pose_error: float
    closures: float | None


def truth_score(readings: np.ndarray, truth: Truth, delay: float = 0.0) -> TruthScore:
    """Compare the :data:`~asymtalker.evaluate.measure.readings.READINGS` ``(F, n)`` of frames with what is true of
    the clip, over the frames both have.

    Args:
        readings: of generated or real frames.
        truth: the clip's own, or another's to know what chance gives.
        delay: of the sound beside the readings, in seconds; the truth is taken as much later.

    Raises:
        ValueError: if they have fewer than 11 frames in common, or lips or head are not known.
    """
    late = round(delay * FPS)
    closed = closures(readings[:, READINGS.index(APERTURE)], truth.phonemes, delay)
    readings, values = readings[max(0, late) :], truth.values[max(0, -late) :]
    common = min(len(readings), len(values))
    read: dict[str, np.ndarray] = dict(zip(READINGS, _from_mean(readings[:common]).T, strict=True))
    true = dict(zip(truth.names, _from_mean(values[:common]).T, strict=True))
    if missing := [name for name in (APERTURE, *ANGLES) if name not in true]:
        raise ValueError(f"{missing[0]} is not known")
    others = (APERTURE, *ANGLES, *LIDS, *GAZE)
    shapes = [name for name in true if name in read and name not in others and np.ptp(true[name]) > 0]
    angles = [(read[name] - true[name]) ** 2 for name in ANGLES]
    errors = [np.abs(read[name] - true[name]).mean() for name in shapes]
    return TruthScore(
        lips=lip_score(true[APERTURE], read[APERTURE]),
        blendshape_error=float(np.mean(errors)) if errors else None,
        pose_error=float(np.sqrt(np.sum(angles, axis=0).mean())),
        closures=closed,
    )


def _from_mean(curves: np.ndarray) -> np.ndarray:
    return curves - curves.mean(0) if len(curves) else curves


def sound_delay(sound: np.ndarray, real: np.ndarray) -> float | None:
    """How much later a video's sound is than that of the real clip it speaks, in seconds.

    Ground truth is in time with the real sound; what counts is whether lips are in time with the sound that is heard
    beside them.

    Args:
        sound: ``(n,)`` at 16 kHz.
        real: ``(m,)`` likewise.

    Returns:
        ``None`` if no delay up to ``MAX_DELAY`` makes them alike: the video says something else, or nothing.
    """
    one, other = _loudness(sound), _loudness(real)
    if min(len(one), len(other)) < 2 or not one.any() or not other.any():
        return None
    most = round(MAX_DELAY * LOUDNESS_RATE)
    likeness = correlate(one, other, method="fft") / np.sqrt((one**2).sum() * (other**2).sum())
    delays = np.arange(1 - len(other), len(one))
    near = np.abs(delays) <= most
    best = int(np.argmax(likeness[near]))
    return float(delays[near][best]) / LOUDNESS_RATE if likeness[near][best] >= SAME_SOUND else None


def _loudness(samples: np.ndarray) -> np.ndarray:
    """Root mean square of each 1/400 s, less its mean."""
    step = SAMPLE_RATE // LOUDNESS_RATE
    blocks = samples[: len(samples) // step * step].astype(np.float64).reshape(-1, step)
    loudness = np.sqrt((blocks**2).mean(1))
    return loudness - loudness.mean() if len(loudness) else loudness


def lip_score(truth: np.ndarray, measured: np.ndarray) -> LipScore:
    """Compare aperture curves ``(F,)`` of the same clip.

    Raises:
        ValueError: if the curves differ in length or are not longer than twice the lags searched.
    """
    if truth.shape != measured.shape or len(truth) <= 2 * MAX_LAG:
        raise ValueError(
            f"need two curves of one length over {2 * MAX_LAG} frames, got {truth.shape}, {measured.shape}"
        )
    inner = truth[MAX_LAG : len(truth) - MAX_LAG]
    lags = sorted(range(-MAX_LAG, MAX_LAG + 1), key=abs)
    curve = [_pearson(inner, measured[MAX_LAG + lag : len(truth) - MAX_LAG + lag]) for lag in lags]
    best, spread = int(np.argmax(curve)), float(truth.std())
    return LipScore(curve[best], lags[best], float(measured.std()) / spread if spread > LEAST_SPREAD else None)


def closures(aperture: np.ndarray, phonemes: Sequence[tuple[str, float, float]], delay: float = 0.0) -> float | None:
    """Share of the phonemes made by shut lips at which the lips of a clip shut, within a frame of their time.

    Args:
        aperture: of the lips in each frame ``(F,)``.
        phonemes: IPA symbol, start and end in seconds.
        delay: of the sound beside the frames, in seconds.

    Returns:
        ``None`` if no such phoneme falls into the clip.
    """
    least = closing_apertures(aperture, phonemes, delay)
    return float(np.mean([value <= CLOSED for _, value in least])) if least else None


def closing_apertures(
    aperture: np.ndarray, phonemes: Sequence[tuple[str, float, float]], delay: float = 0.0
) -> list[tuple[float, float]]:
    """Of each phoneme made by shut lips that falls into a clip, its seconds and the least aperture within a frame of
    its time; of what :func:`closures` takes."""
    found = []
    for symbol, start, end in phonemes:
        first, last = math.ceil((start + delay) * FPS) - 1, math.floor((end + delay) * FPS) + 1
        frames = aperture[max(0, first) : max(0, last + 1)]
        if symbol.lstrip("ˈˌ")[:1] in tuple(CLOSING) and len(frames):
            found.append((end - start, float(frames.min())))
    return found


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation; 0 where a curve does not move."""
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 1e-12 else 0.0
