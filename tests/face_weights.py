"""Blendshape weights of a face that is still but for a few movements."""

import numpy as np

from asymtalker.synth.mesh import BLENDSHAPES


def weights(**amounts: float) -> np.ndarray:
    """``(52,)`` float32: the amounts given, such as ``jawOpen=0.5``, and 0 elsewhere."""
    vector = np.zeros(52, np.float32)
    for name, amount in amounts.items():
        vector[BLENDSHAPES.index(name)] = amount
    return vector
