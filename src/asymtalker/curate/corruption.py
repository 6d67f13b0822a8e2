"""Stage 5, sound: clipped, cut out, silent, noisy."""

import numpy as np

from asymtalker.curate.framed import FramedClip
from asymtalker.timeline import SAMPLE_RATE

TOP = 0.85
"""Share of the peak from which on a sample stands at full scale; an encoder rounds off what was clipped."""
BLOCK = SAMPLE_RATE // 100
HOP = SAMPLE_RATE // 400
"""Samples, 2.5 ms, of which a gap's edges are found."""
EDGE = 2
"""Hops in which speech still sounds at full level where it was cut out, and"""
SMEAR = 6
"""hops within which they lie: an encoder fills the first and last 10 ms of a gap."""
GAP_LEAST = 0.02
"""Seconds: shorter gaps are no dropouts, and longer than"""
GAP_MOST = 1.0
"""no dropouts either but silence."""
EMPTY = 5e-4
"""Nothing sounds below this level in a gap."""
CUT, CUT_AMID_SILENCE = 0.25, 0.6
"""Share of the clip's speech level that sounds at both of a dropout's edges; more of it where most silence
is elsewhere, as in synthetic voices, whose p and t are silent too."""
QUIET_DB, SILENT_DB = -30.0, -60.0
"""Decibels under the level of speech, and under full scale, below which nothing is heard."""


def sound_scores(clip: FramedClip) -> dict[str, float]:
    """See :func:`sound_faults`."""
    return sound_faults(clip.sound)


def sound_faults(samples: np.ndarray) -> dict[str, float]:
    """Scores of sound ``(N,)`` float32 at 16 kHz.

    ``clipped``, the share of samples near the peak; ``dropout``, seconds that are cut out of speech; ``silence``, the
    share of time in which nothing is heard; ``snr``, decibels between speech and what is heard in its pauses.
    """
    levels = block_levels(samples)
    speech = float(np.percentile(levels, 90)) if len(levels) else 0.0
    decibels = 20 * np.log10(np.maximum(levels, 1e-6))
    loud, floor = (float(np.percentile(decibels, share)) if len(levels) else -120.0 for share in (90, 10))
    heard = decibels > max(loud + QUIET_DB, SILENT_DB)
    return {
        "clipped": clipped_share(samples),
        "dropout": dropout_seconds(samples, speech),
        "silence": 1.0 if loud < SILENT_DB else float(1 - heard.mean()),
        "snr": min(60.0, loud - max(floor, SILENT_DB - 20)),
    }


def block_levels(samples: np.ndarray, size: int = BLOCK) -> np.ndarray:
    """Root mean squares of blocks, by default of 10 ms."""
    blocks = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64)
    return np.sqrt((blocks**2).mean(1))


def clipped_share(samples: np.ndarray) -> float:
    """Share of the samples that stand near the peak of what is there twice in a thousand samples at least."""
    size = np.abs(samples)
    peak = float(np.percentile(size, 99.9)) if len(size) else 0.0
    return float((size >= TOP * peak).mean()) if peak > 1e-3 else 0.0


def dropout_seconds(samples: np.ndarray, speech: float) -> float:
    """Seconds of gaps at whose both edges speech of level ``speech`` still sounds, but for what an encoder smears."""
    levels = block_levels(samples, HOP)
    sounds = np.sqrt(np.convolve(levels**2, np.full(EDGE, 1 / EDGE)))  # of each hop and the one before it
    empty = levels < EMPTY
    edges = np.flatnonzero(np.diff(np.r_[False, empty, False].astype(np.int8)))
    gaps = []  # how long, and how loud at the quieter edge
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        before, after = sounds[max(1, start - SMEAR) : start], sounds[stop + 1 : stop + SMEAR]
        if len(before) and len(after) and GAP_LEAST <= (stop - start) * HOP / SAMPLE_RATE <= GAP_MOST:
            gaps.append((stop - start, min(before.max(), after.max()) / max(speech, 1e-9)))
    cut_out = sum(length for length, edge in gaps if edge > CUT)
    silent = np.count_nonzero(np.trim_zeros(~empty) == 0)  # between the first sound and the last
    if 2 * cut_out < silent:
        cut_out = sum(length for length, edge in gaps if edge > CUT_AMID_SILENCE)
    return float(cut_out * HOP / SAMPLE_RATE)
