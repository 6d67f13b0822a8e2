"""Do the lips follow the sound? Lip aperture read from generated frames against the truth of synthetic clips."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asymtalker import corpus
from asymtalker.codec import to_pixels
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media import AudioSamples
from asymtalker.models.readout import LipReadout
from asymtalker.timeline import SAMPLE_RATE

MAX_LAG = 6
"""Frames of lag searched on both sides; 6 frames are 240 ms."""


@dataclass(frozen=True)
class LipScore:
    """How one aperture curve follows another.

    Attributes:
        correlation: Pearson correlation at lag 0.
        best_correlation: the largest over lags.
        lag: frames at which it is reached; positive where the measured lips come late.
    """

    correlation: float
    best_correlation: float
    lag: int


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
    best = int(np.argmax(curve))
    return LipScore(_pearson(truth, measured), curve[best], best - MAX_LAG)


def _score_common(truth: np.ndarray, measured: np.ndarray) -> LipScore:
    """The score of curves of two clips over the frames both have."""
    common = min(len(truth), len(measured))
    return lip_score(truth[:common], measured[:common])


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation; 0 where a curve does not move."""
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 1e-12 else 0.0


@torch.inference_mode()
def read_apertures(readout: LipReadout, frames: np.ndarray, batch: int = 64) -> np.ndarray:
    """Apertures ``(F,)`` of framed frames ``(F, H, W, 3)`` uint8."""
    parts = [
        readout(to_pixels(frames[first : first + batch])[0].transpose(0, 1)) for first in range(0, len(frames), batch)
    ]
    return torch.cat(parts).numpy()


def measure_lips(pipeline: AsymTalkerPipeline, readout: LipReadout, corpus_path: Path, clips: int) -> dict[str, Any]:
    """Generate held-out clips from their first frame and sound, and compare what their lips do.

    Args:
        pipeline: makes the videos.
        readout: reads the lip aperture of frames.
        corpus_path: a synthetic corpus.
        clips: clips at most, 2 or more.

    Returns:
        The clips' keys and, per clip (``scores``) and in the median (``medians``), the :class:`LipScore` of the
        ``generated`` frames, of the ``real`` frames (the readout's ceiling), and of the generated frames against
        another clip's truth (``chance``).

    Raises:
        UserError: if the corpus has no two held-out clips with ground truth that are long enough, or is of another
            size than the model.
    """
    if clips < 2:
        raise UserError(f"--clips must be at least 2, one to measure the other's chance, not {clips}.")
    rows = [row for row in corpus.read_manifest(corpus_path) if row.split == "test" and row.kind != "real"]
    rows = [row for row in rows if not row.rejected_by and row.frames > 2 * MAX_LAG][:clips]
    if len(rows) < 2:
        raise UserError(
            f"{corpus_path} has fewer than two held-out synthetic clips of more than {2 * MAX_LAG} frames: make a"
            " larger corpus."
        )
    size = pipeline.settings.sample_size
    if other := next((row for row in rows if (row.height, row.width) != (size, size)), None):
        raise UserError(
            f"The clips of {corpus_path} are {other.width}x{other.height}, but the model makes {size}x{size}: give a"
            " corpus of that size."
        )
    truths, generated, real = [], [], []
    for row in rows:
        clip = corpus.open_clip(corpus_path, row.key)
        frames = clip.frames()
        truths.append(np.asarray(clip.info["ground_truth"]["lip_aperture"], np.float32)[: len(frames)])
        made = pipeline.animate(frames[0], AudioSamples(clip.audio(), SAMPLE_RATE))
        generated.append(read_apertures(readout, np.concatenate(list(made)))[: len(frames)])
        real.append(read_apertures(readout, frames))
    scores = {
        "generated": [lip_score(truth, curve) for truth, curve in zip(truths, generated, strict=True)],
        "real": [lip_score(truth, curve) for truth, curve in zip(truths, real, strict=True)],
        "chance": [_score_common(truths[i - 1], generated[i]) for i in range(len(rows))],
    }
    return {
        "clips": [row.key for row in rows],
        "medians": {
            name: {key: float(np.median([asdict(score)[key] for score in values])) for key in asdict(values[0])}
            for name, values in scores.items()
        },
        "scores": {name: [asdict(score) for score in values] for name, values in scores.items()},
    }
