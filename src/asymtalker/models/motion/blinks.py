"""Blinks that a live head is given, as the model makes hardly any in silence (docs/serving.md has the figures).

Only what is seen changes, not the latents that a video goes on from.
"""

import numpy as np
import torch
from torch import Tensor

from asymtalker.flow import hashed_seed
from asymtalker.models.motion.basis import LEFT_LIDS, RIGHT_LIDS, MotionBasis
from asymtalker.timeline import FPS

SHAPE = (0.3, 0.8, 1.0, 0.95, 0.65, 0.35, 0.12)
"""How far lids are shut in each frame of a blink, 0.28 s: they fall quicker than they rise."""
LEAST_GAP, MEAN_GAP = 1.5, 4.5
"""Seconds from one blink to the next."""
MEETS = 0.15
"""Share of the way to each other that lower lids come."""
STILL, HELD = 0.3, 1e-3
"""Weights of all other points, which are to stay, and of the ridge."""


def shut_lids(basis: MotionBasis, modes: Tensor, head: Tensor) -> Tensor:
    """The expression ``(components,)`` that shuts the lids of a face and moves little else.

    Args:
        basis: of expressions.
        modes: displacements of points ``(478, 3, K)`` by each, as they are seen; those beyond the basis's components
            are left out.
        head: the face's points ``(478, 3)`` in head units.
    """
    wanted, weights = torch.zeros_like(head), torch.full((len(head),), STILL)
    for lids in (RIGHT_LIDS, LEFT_LIDS):
        upper, lower = list(lids[1:8]), list(lids[:8:-1])  # between the corners, of one eye in the same order
        gap = head[lower] - head[upper]
        wanted[upper], wanted[lower] = (1 - MEETS) * gap, -MEETS * gap
        weights[[*upper, *lower]] = 1
    rows = (weights[:, None, None] * modes[..., : basis.components]).flatten(0, 1).double()
    target = (weights[:, None] * wanted).flatten().double()
    gram = rows.T @ rows
    ridge = HELD * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, rows.T @ target).float()


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
