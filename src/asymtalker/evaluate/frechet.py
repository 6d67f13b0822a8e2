"""Fréchet distance between feature distributions: statistics of the reference once, then a pure formula.

``FID`` over Inception-v3, ``FVD`` over I3D; over other features the distance carries their name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 20
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
    if len(features) < 2:
        raise ValueError(f"a covariance needs two samples, got {len(features)}")
    features = features.astype(np.float64)
    covariance = np.cov(features, rowvar=False)
    return Statistics(features.mean(0), covariance, square_root(covariance), len(features))


def square_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root of a covariance ``(D, D)``; where it has no variance, rounding may have made it negative."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(features: np.ndarray, reference: Statistics) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` of ``(N, D)`` features and a reference (Heusel et al. 2017).

    ``tr (S1 S2)^(1/2)`` is the sum of the singular values of ``A S2^(1/2)`` where ``S1 = A^T A``: no root of a matrix
    that is not symmetric, no imaginary parts to drop, and cheap where there are fewer samples than dimensions.

    Args:
        features: the measured side, two samples or more.
        reference: the other.
    """
    if len(features) < 2:
        raise ValueError(f"a covariance needs two samples, got {len(features)}")
    features = features.astype(np.float64)
    mean = features.mean(0)
    scaled = (features - mean) / np.sqrt(len(features) - 1)
    total = (scaled**2).sum() + np.trace(reference.covariance)
    return float(((mean - reference.mean) ** 2).sum() + total - 2 * _nuclear_norm(scaled @ reference.root))


def _nuclear_norm(matrix: np.ndarray) -> float:
    """Sum of singular values, from the smaller Gram matrix."""
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
    return float(np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum())


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
