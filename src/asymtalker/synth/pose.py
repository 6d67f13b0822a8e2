"""Head pose: small motion of a head relative to its rest."""

from dataclasses import dataclass

import numpy as np

HEAD_HEIGHT = 2.3  # MakeHuman units (decimetres) from chin to crown


@dataclass(frozen=True)
class Pose:
    """Degrees, and translation in units of head height, seen in the picture.

    `yaw` > 0 turns the face to the picture's right, `pitch` > 0 lifts it, `roll` > 0 tilts the crown to the picture's
    left; `x` to the right, `y` up, `z` towards the viewer.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The rotation matrix (3, 3) of a pose's angles in degrees; axes x right, y up, z towards the viewer."""
    cy, cp, cr = np.cos(np.radians([yaw, pitch, roll]))
    sy, sp, sr = np.sin(np.radians([yaw, pitch, roll]))
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def soft_limit(value: float, limit: float) -> float:
    """`value`, bent smoothly so that it never passes `limit` in size."""
    return float(limit * np.tanh(value / limit))
