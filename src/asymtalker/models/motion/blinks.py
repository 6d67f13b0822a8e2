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
    """When the head of one video is given a blink.

    Args:
        seed: the same seed blinks at the same times, but for what the model makes itself.
    """

    def __init__(self, seed: int):
        self._random = np.random.default_rng(hashed_seed(seed, "blinks"))
        self._begins = [self._after(0)]
        self._given: dict[int, bool] = {}

    def _after(self, frame: int) -> int:
        return frame + round(FPS * (LEAST_GAP + self._random.exponential(MEAN_GAP - LEAST_GAP)))

    def closing(self, frames: range, begin: int, closed: Tensor) -> Tensor:
        """How far lids are to be shut, 0 to 1, in each of ``frames`` ``(F,)``, which may go back some seconds at most.

        A blink is left out where the head is known to shut its eyes itself near it. That is decided once, as what is
        known is another in the next chunk, and lids that snap open are no blink.

        Args:
            frames: of the video.
            begin: the first of them among the frames that are known.
            closed: by what share of their opening lids close themselves, in all frames that are known ``(all,)``.
        """
        while self._begins[-1] < frames.stop:
            self._begins.append(self._after(self._begins[-1]))
        self._begins = [first for first in self._begins if first > frames.start - 20 * FPS]
        self._given = {first: given for first, given in self._given.items() if first in self._begins}
        own = (closed > OWN).nonzero() - begin + frames.start
        values = torch.zeros(len(frames))
        for first in self._begins:
            seen = [step for step in range(len(SHAPE)) if first + step in frames]
            if not seen:
                continue
            if first not in self._given:
                near = (own >= first - APART) & (own < first + len(SHAPE) + APART)
                self._given[first] = not near.any()
            for step in seen if self._given[first] else ():
                values[first + step - frames.start] = SHAPE[step]
        return values
