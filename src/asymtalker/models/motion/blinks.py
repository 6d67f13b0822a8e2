"""Blinks that a head is given where the model makes none: in silence it hardly shuts the lids, and for some portraits
twice a minute when they speak (docs/log.md).

Only what is seen changes, not the latents that a video goes on from.
"""

import numpy as np
import torch
from torch import Tensor

from asymtalker.flow import hashed_seed
from asymtalker.timeline import FPS

SHAPE = (0.3, 0.8, 1.0, 0.95, 0.65, 0.35, 0.12)
"""How far lids are shut in each frame of a blink, 0.28 s: they fall quicker than they rise."""
LEAST_GAP, MEAN_GAP = 1.5, 4.5
"""Seconds from one blink to the next."""
OWN, APART = 0.4, 25
"""What share of their opening lids close by in a blink of the model's own, and how many frames from one no other is
given."""


class Blinks:
    """When a head blinks, by its seed.

    Args:
        seed: the same seed blinks at the same times.
    """

    def __init__(self, seed: int):
        self._random = np.random.default_rng(hashed_seed(seed, "blinks"))
        self._begins = [self._after(0)]

    def _after(self, frame: int) -> int:
        return frame + round(FPS * (LEAST_GAP + self._random.exponential(MEAN_GAP - LEAST_GAP)))

    def closing(self, frames: range) -> Tensor:
        """How far lids are shut, 0 to 1, in each of ``frames`` ``(F,)``, which may go back some seconds at most."""
        while self._begins[-1] < frames.stop:
            self._begins.append(self._after(self._begins[-1]))
        self._begins = [begin for begin in self._begins if begin > frames.start - 20 * FPS]
        values = torch.zeros(len(frames))
        for begin in self._begins:
            for step, shut in enumerate(SHAPE):
                if begin + step in frames:
                    values[begin + step - frames.start] = shut
        return values


def unless_own(closing: Tensor, closed: Tensor, begin: int) -> Tensor:
    """``closing`` ``(F,)`` without blinks near which a head shuts its eyes itself.

    Args:
        closing: how far lids are to be shut, in the frames from ``begin`` on.
        closed: by what share of their opening they close themselves, in all frames that are known ``(all,)``.
        begin: the first frame of ``closing`` among them.
    """
    near = torch.nn.functional.max_pool1d(closed[None, None].float(), 2 * APART + 1, 1, APART)[0, 0] > OWN
    left = closing.clone()
    edges = torch.nn.functional.pad((closing > 0).int(), (1, 1)).diff()
    starts, stops = ((edges == sign).nonzero().flatten().tolist() for sign in (1, -1))
    for first, stop in zip(starts, stops, strict=True):
        if near[begin + first : begin + stop].any():
            left[first:stop] = 0
    return left
