"""Phoneme times for a recording of known text, taken over from a synthetic reading of the same text.

The classical way without any trained model: dynamic time warping between cepstra of the two. A synthetic voice reads
in the same order with the same sounds, so only the timing differs.
"""

from functools import cache

import numpy as np
from scipy.fft import dct

from asymtalker.timeline import SAMPLE_RATE

HOP = 240
"""Samples between cepstra: 15 ms."""
WINDOW = 400
CEPSTRA = 13
STAY_COST = 0.6
"""Price of a frame that only one of the two readings has, over the price of a pair; straight paths are cheaper."""


def moved_times(times: np.ndarray, reading: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """Moments of ``reading`` as moments of ``recording``, which says the same text.

    Args:
        times: ``(K,)`` seconds of the reading, in order.
        reading: ``(N,)`` float32 in [-1, 1] at 16 kHz, not empty.
        recording: ``(M,)`` the same.

    Returns:
        ``(K,)`` seconds of the recording, in order.
    """
    path = (warping_path(_cepstra(reading), _cepstra(recording)) * HOP - WINDOW / 2) / SAMPLE_RATE
    # where the path stays at one moment of the reading, the middle of its moments in the recording stands for them
    starts = np.flatnonzero(np.append(True, np.diff(path[:, 0]) > 0))
    middles = np.add.reduceat(path[:, 1], starts) / np.diff(np.append(starts, len(path)))
    return np.interp(times, path[starts, 0], middles).clip(0, len(recording) / SAMPLE_RATE)


def _cepstra(samples: np.ndarray) -> np.ndarray:
    """``(frames, 26)``: cepstra and their changes over time, of zero mean and unit variance over the recording."""
    padded = np.pad(samples.astype(np.float32), WINDOW)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, 512)) ** 2 @ _mel_filters()  # (frames, 26)
    level = np.log(np.maximum(power, 1e-7 * power.max(initial=1e-10)))
    cepstra = np.asarray(dct(level, axis=1, norm="ortho"))[:, :CEPSTRA]
    features = np.concatenate([cepstra, 2 * np.gradient(cepstra, axis=0)], axis=1)
    return (features - features.mean(0)) / (features.std(0) + 1e-6)


@cache
def _mel_filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank  # seconds to import, for Pico's voices only

    return mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=26,
        min_frequency=80,
        max_frequency=7600,
        sampling_rate=SAMPLE_RATE,
    )


def warping_path(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cheapest way through two feature sequences ``(N, D)`` and ``(M, D)``: index pairs ``(steps, 2)``.

    It begins at ``(0, 0)``, ends at ``(N - 1, M - 1)`` and moves by one in either or both.
    """
    squared = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    distance = np.sqrt(np.maximum(squared, 0.0))
    rows, columns = distance.shape
    stay = STAY_COST * float(np.median(distance))
    # cell (i, j) stands in diagonal i + j, so that every diagonal follows from the two before it at once
    cost = np.full((rows + columns - 1, rows), np.inf)
    step = np.zeros((rows + columns - 1, rows), np.int8)
    cost[0, 0] = distance[0, 0]
    for diagonal in range(1, rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        before = np.where(i > 0, i - 1, 0)
        both = np.where(i > 0, cost[diagonal - 2, before], np.inf) if diagonal > 1 else np.full(len(i), np.inf)
        down = np.where(i > 0, cost[diagonal - 1, before], np.inf) + stay
        right = cost[diagonal - 1, i] + stay
        options = np.stack([both, down, right])
        step[diagonal, i] = options.argmin(0)
        cost[diagonal, i] = options.min(0) + distance[i, diagonal - i]
    i, diagonal = rows - 1, rows + columns - 2
    path = [(i, diagonal - i)]
    while diagonal > 0:
        moved_first, moved_second = ((1, 1), (1, 0), (0, 1))[step[diagonal, i]]
        i, diagonal = i - moved_first, diagonal - moved_first - moved_second
        path.append((i, diagonal - i))
    return np.array(path[::-1])
