"""A drawn face in motion, and a codec of motion fitted to it."""

import numpy as np
import torch

from asymtalker.media.face_mesh import find_face
from asymtalker.models.motion.basis import fit_basis, rotation_matrix
from asymtalker.models.motion.codec import MotionCodecModel
from drawn_face import background, draw_face

SIDE = 256
LOWER_LIPS = (95, 88, 178, 87, 14, 317, 402, 318, 324)


def textured_face() -> np.ndarray:
    """A picture of a face with texture, or its motion could not be seen."""
    drawn = draw_face(background(SIDE, SIDE), (128, 132), 110)
    noise = np.random.default_rng(0).normal(0, 25, (SIDE // 4, SIDE // 4, 1)).repeat(4, 0).repeat(4, 1)
    return (drawn + noise).clip(0, 255).astype(np.uint8)


def mesh_points(picture: np.ndarray) -> np.ndarray:
    """Its face mesh."""
    face = find_face(picture)
    assert face is not None
    return face.points


def opened(points: np.ndarray, by: float) -> np.ndarray:
    """Points whose lower lip has sunk by so many pixels."""
    moved = points.copy()
    moved[list(LOWER_LIPS), 1] += by
    return moved


def moving(points: np.ndarray, seed: int, frames: int = 41) -> torch.Tensor:
    """A clip of points that shift, turn, grow and open their mouth."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames) / 8 + rng.uniform(0, 6, (7, 1))
    x, y, z, grow, across, down, mouth = np.sin(time * rng.uniform(0.6, 1.6, (7, 1)))
    clip = []
    for k in range(frames):
        turn = rotation_matrix(torch.tensor([0.1 * x[k], 0.1 * y[k], 0.1 * z[k]])).numpy()
        middle = points.mean(0)
        shaped = opened(points, 4 + 4 * mouth[k])
        clip.append((shaped - middle) @ turn.T * (1 + 0.04 * grow[k]) + middle + [4 * across[k], 4 * down[k], 0])
    return torch.from_numpy(np.stack(clip)).float()


def motion_network(points: np.ndarray) -> MotionCodecModel:
    """A codec fitted to a face that moves so, its painter not trained."""
    torch.manual_seed(0)
    model = MotionCodecModel(components=2, channels=10, widths=(8, 8, 8)).eval().requires_grad_(False)
    clips = [moving(points, seed) for seed in range(6)]
    fit_basis(model.motion, clips, [(SIDE, SIDE)] * 6, [1.0] * 6)
    model.motion.noise.fill_(0.3)  # a drawn face is read badly
    return model
