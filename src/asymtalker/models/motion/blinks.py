"""Blinks that a live head is given, as the model makes hardly any in silence (docs/serving.md has the figures).

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
