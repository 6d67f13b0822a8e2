"""Fréchet distance between feature distributions: statistics of the reference once, then a pure formula.

``FID`` over Inception-v3, ``FVD`` over I3D; over other features the distance carries their name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 20
BLOCK = 4096
"""Feature vectors that are widened to float64 at once: those of a large set would not fit in memory twice."""
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Statistics:
    """Mean ``(D,)``, covariance ``(D, D)`` and its symmetric ``root``, of ``count`` feature vectors, float64."""

    mean: np.ndarray
    covariance: np.ndarray
    root: np.ndarray
    count: int


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance and how sure it is.

    Attributes:
        value: of all samples.
        low: lower end of the 95% interval.
        high: upper end.
        samples: feature vectors of the measured side.
        reference_samples: of the reference.
    """

    value: float
    low: float
    high: float
    samples: int
    reference_samples: int


def statistics(features: np.ndarray) -> Statistics:
    """Statistics of ``(N, D)`` features, N at least 2.

    Raises:
        ValueError: if there are fewer.
    """
    mean, covariance = _moments(features)
    return Statistics(mean, covariance, square_root(covariance), len(features))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``(D,)`` and unbiased covariance ``(D, D)``, float64."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs two samples, got {len(features)}")
    mean = features.mean(0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), BLOCK):
        centred = features[start : start + BLOCK] - mean
        covariance += centred.T @ centred
    return mean, covariance / (len(features) - 1)


def square_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root of a covariance ``(D, D)``; where it has no variance, rounding may have made it negative."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(features: np.ndarray, reference: Statistics) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` of ``(N, D)`` features and a reference (Heusel et al. 2017).

    ``tr (S1 S2)^(1/2)`` is the sum of the roots of the eigenvalues of ``S2^(1/2) S1 S2^(1/2)``: no root of a matrix
    that is not symmetric, and no imaginary parts to drop. Where there are fewer samples than dimensions, those of the
    smaller ``A S2 A^T`` are the same, with ``S1 = A^T A``.

    Args:
        features: the measured side, two samples or more.
        reference: the other.
    """
    if 2 <= len(features) < features.shape[1]:
        mean = features.mean(0, dtype=np.float64)
        scaled = (features - mean) / np.sqrt(len(features) - 1)
        trace, projected = (scaled**2).sum(), scaled @ reference.root
        product = projected @ projected.T
    else:
        mean, covariance = _moments(features)
        trace, product = np.trace(covariance), reference.root @ covariance @ reference.root
    common = np.sqrt(np.linalg.eigvalsh(product).clip(0)).sum()
    return float(((mean - reference.mean) ** 2).sum() + trace + np.trace(reference.covariance) - 2 * common)


def bootstrap(clips: Sequence[np.ndarray], reference: Statistics, seed: int = 0) -> Distance:
    """The distance of all clips' features, with a bootstrap interval.

    Clips are drawn with replacement, not frames, as frames of one clip are alike. Resampling only widens a distance
    (repeated clips have less variety), so the interval is the value and 1.96 standard deviations of the resampled
    ones on both sides; it says nothing of the bias that few samples bring.

    Args:
        clips: features of each clip ``(n_i, D)``; together two samples or more.
        reference: the other side.
        seed: of the draws.
    """
    features = np.concatenate(list(clips))
    value = frechet_distance(features, reference)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES if len(clips) > 1 else 0):
        drawn = np.concatenate([clips[i] for i in rng.integers(len(clips), size=len(clips))])
        if len(drawn) > 1:
            draws.append(frechet_distance(drawn, reference))
    spread = NORMAL_95 * float(np.std(draws, ddof=1)) if len(draws) > 1 else float("nan")
    low = max(0.0, value - spread) if np.isfinite(spread) else spread  # no distance is below 0
    return Distance(value, low, value + spread, len(features), reference.count)
