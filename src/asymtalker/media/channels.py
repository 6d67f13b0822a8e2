"""Which of a sound's channels are heard, and when: their mean, but where they cancel each other the louder one."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

CANCELLED = 0.4
"""Power of the mean of channels over what it would be of unlike ones, under which they cancel each other; alike
channels have their number."""
HOP, WINDOWS = 0.1, (5, 20, 80)
"""Seconds in which powers are taken together, and how many of these in a row are asked whether they cancel: few find a
short part, many also hold what is spoken softly under music. All are asked too."""
MEMORY = 0.2
"""Seconds after which what was heard of a sound that goes on counts half."""
FAINT = 1e-3
"""Power over that of the whole sound, below which nothing is to be heard there that could cancel."""
FULL_SCALE = 2.0
"""A sample beyond this is not of a sound whose full scale is 1."""
HEARD = 1e-3
"""Nothing is heard of a sound whose samples all stay below this, -60 dB."""


class Channels:
    """What is known of a sound's channels once all of its samples ``(n, channels)`` were heard."""

    def __init__(self) -> None:
        self._hop = 1
        self._powers: list[np.ndarray] = []  # of hops, by channel, and of their mean
        self._rest = np.zeros((0, 1), np.float32)  # of a hop that is not whole yet
        self.number, self.peak, self._peak_of_mean = 0, 0.0, 0.0

    def hear(self, block: np.ndarray, rate: int) -> None:
        """Take the next samples ``(n, channels)``, ``rate`` a second, into account."""
        self._hop = round(HOP * rate)
        mean, self.number = block.mean(1), block.shape[1]
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        self._peak_of_mean = max(self._peak_of_mean, float(np.abs(mean).max(initial=0.0)))
        block = np.concatenate([self._rest, block]) if len(self._rest) else block
        whole = len(block) // self._hop * self._hop
        self._powers.append(_powers(block[:whole].reshape(-1, self._hop, self.number)))
        self._rest = block[whole:].copy()

    @cached_property
    def _cancelling(self) -> tuple[int, np.ndarray] | None:
        """The channel that stands for all where they cancel each other, and how far it does so, 0 or 1, at the ends of
        each hop; ``None`` where they nowhere do.

        A hop at a change of that belongs to both sides, and where there is room one side fades into the other in the
        hop before or after, in which both give the same.
        """
        powers = np.concatenate([*self._powers, _powers(self._rest[None])])
        hops = np.zeros(len(powers), bool)
        for window in (*WINDOWS, len(powers)):
            width = min(window, len(powers))
            sums = np.cumsum(np.insert(powers, 0, 0, axis=0), axis=0)
            of_windows = sums[width:] - sums[:-width]
            total = of_windows[:, :-1].sum(1)
            cancel = of_windows[:, -1] < CANCELLED * total / self.number**2
            cancel &= total > FAINT * width * sums[-1, :-1].sum() / len(powers)
            hops |= np.convolve(cancel, np.ones(width)) > 0.5  # those of any window that cancels
        if not hops.any():
            return None
        voice = int(powers[hops, :-1].sum(0).argmax())
        hops &= powers[:, voice] >= powers[:, -1]  # or something else is heard there, of another channel alone
        return voice, np.append(hops, False) | np.insert(hops, 0, False)

    @property
    def gain(self) -> float:
        """What makes the full scale 1."""
        return 1.0 if self.peak <= FULL_SCALE else 1 / self.peak

    def mono(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """``(n, 1)`` of the same samples ``(n, channels)``, from -1 to 1; of many channels, most of which are
        silent at a time, as loud as the loudest."""
        start = 0
        for block in blocks:
            lift = self.peak / self._peak_of_mean if block.shape[1] > 2 and self._peak_of_mean else 1.0
            mixed = block.mean(1, keepdims=True) * lift
            if self._cancelling is not None:
                voice, share = self._cancelling
                at = np.arange(start, start + len(block)) / self._hop
                weight = np.interp(at, np.arange(len(share)), share)[:, None].astype(np.float32)
                mixed += weight * (block[:, voice, None] - mixed)
            start += len(block)
            yield mixed * self.gain

    def played(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """``(n, 1 or 2)`` of them: what a video's sound track is made of."""
        return self.mono(blocks) if self.number > 2 else (block * self.gain for block in blocks)

    def remarks(self, name: str) -> Iterator[str]:
        """What one would not expect of it, in sentences."""
        if self.gain < 1:
            yield f"The samples of {name} go up to {self.peak:.3g} where 1 is full: it was scaled down by that."
        if self.peak < HEARD:
            yield f"Nothing is heard in {name}: the lips will not speak."
        elif self._cancelling is not None:
            yield f"The channels of {name} cancel each other: number {self._cancelling[0] + 1} speaks where they do."


class PassingChannels:
    """Channels of a sound that comes piece by piece, of which nothing is known in advance: their mean, but where they
    have lately cancelled each other the one that was louder as they began to."""

    def __init__(self) -> None:
        self._powers = np.zeros(1)  # of channels and of their mean, those of MEMORY seconds ago half as much as now's
        self._voice, self._weight = 0, 0.0  # the louder channel, and its weight at the end of the last piece

    def mono(self, piece: np.ndarray, rate: int) -> np.ndarray:
        """``(n,)`` of the next samples ``(n, channels)``, ``rate`` a second."""
        mean = piece.mean(1)
        self._powers = self._powers * 0.5 ** (len(piece) / rate / MEMORY) + _powers(piece[None])[0]
        of_each = self._powers[:-1]
        before, self._weight = self._weight, float(self._powers[-1] < CANCELLED * of_each.sum() / len(of_each) ** 2)
        if before == self._weight == 0:
            return mean
        if before == 0:  # another one later on would be heard as a click: what cancels is upside down in it
            self._voice = int(of_each.argmax())
        weight = np.linspace(before, self._weight, len(piece), dtype=piece.dtype)
        return mean + weight * (piece[:, self._voice] - mean)


def _powers(hops: np.ndarray) -> np.ndarray:
    """Of hops ``(m, samples, channels)`` the powers of channels and of their mean ``(m, channels + 1)``."""
    mean = hops.mean(2)
    of_each = np.einsum("mkc,mkc->mc", hops, hops, dtype=np.float64)
    return np.column_stack([of_each, np.einsum("mk,mk->m", mean, mean, dtype=np.float64)])
