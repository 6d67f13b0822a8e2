"""Against the ground truth of synthetic clips: do the lips follow the sound, does the face do what it should?"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import correlate

from asymtalker.evaluate.measure.readings import ANGLES, APERTURE
from asymtalker.timeline import FPS, SAMPLE_RATE

MAX_LAG = 6
"""Frames of lag searched on both sides; 6 frames are 240 ms."""
MAX_DELAY = 1.0
"""Seconds by which a video's sound may come later or sooner than the real clip's."""
SAME_SOUND = 0.5
"""Least correlation of the loudness of two sounds that are one, however encoded."""
LOUDNESS_RATE = 400
"""Values of loudness a second that sounds are aligned by: a tenth of a frame is two of them."""


@dataclass(frozen=True)
class LipScore:
    """How one aperture curve follows another.

    Attributes:
        correlation: Pearson correlation at lag 0.
        lag: frames at which it is largest; positive where the measured lips come late.
    """

    correlation: float
    lag: int


@dataclass(frozen=True)
class TruthScore:
    """What a clip's readings say against its ground truth.

    Attributes:
        lips: of the lip aperture.
        blendshape_error: mean absolute error of the weights (0 to 1) of those blendshapes that move in the truth.
        pose_error: root mean square angle between yaw, pitch and roll and the true ones, in degrees.

    Both count from the clip's mean, as faces at rest differ.
    """

    lips: LipScore
    blendshape_error: float | None
    pose_error: float


def truth_score(
    names: tuple[str, ...],
    readings: np.ndarray,
    true_names: tuple[str, ...],
    truth: np.ndarray,
    delay: float = 0.0,
) -> TruthScore:
    """Compare readings ``(F, n)`` with what is known of the clip ``(F', m)``, over the frames both have.

    Args:
        names: of the columns of ``readings``, see :func:`asymtalker.evaluate.measure.readings.readings_of`.
        readings: of generated or real frames.
        true_names: of the columns of ``truth``.
        truth: the clip's own, or another's to know what chance gives.
        delay: of the sound beside the readings, in seconds; the truth is taken as much later.

    Raises:
        ValueError: if they have fewer than 13 frames in common, or something is not read.
    """
    late = round(delay * FPS)
    readings, truth = readings[max(0, late) :], truth[max(0, -late) :]
    common = min(len(readings), len(truth))
    read = dict(zip(names, _from_mean(readings[:common]).T, strict=True))
    true = dict(zip(true_names, _from_mean(truth[:common]).T, strict=True))
    if missing := [name for name in (APERTURE, *ANGLES) if name not in read or name not in true]:
        raise ValueError(f"{missing[0]} is not read")
    shapes = [name for name in true if name in read and name not in (APERTURE, *ANGLES) and np.ptp(true[name]) > 0]
    angles = [(read[name] - true[name]) ** 2 for name in ANGLES]
    errors = [np.abs(read[name] - true[name]).mean() for name in shapes]
    return TruthScore(
        lips=lip_score(true[APERTURE], read[APERTURE]),
        blendshape_error=float(np.mean(errors)) if errors else None,
        pose_error=float(np.sqrt(np.sum(angles, axis=0).mean())),
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
    inner = slice(MAX_LAG, len(truth) - MAX_LAG)
    curve = [
        _pearson(truth[inner], measured[MAX_LAG + lag : len(truth) - MAX_LAG + lag])
        for lag in range(-MAX_LAG, MAX_LAG + 1)
    ]
    return LipScore(_pearson(truth, measured), int(np.argmax(curve)) - MAX_LAG)


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation; 0 where a curve does not move."""
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 1e-12 else 0.0
