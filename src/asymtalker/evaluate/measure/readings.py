"""What a face does in each frame, in numbers: of any video by the face mesh, of synthetic clips as it was made."""

from typing import Any

import numpy as np

from asymtalker.media.face_mesh import BLENDSHAPES, Face, follow
from asymtalker.media.face_readings import gaze, head_pose, lid_openings, lip_aperture

APERTURE = "lip_aperture"
"""Inner-lip gap over the distance of the outer eye corners."""
ANGLES = ("yaw", "pitch", "roll")
"""Of the head, in degrees, signs as in :class:`asymtalker.synth.pose.Pose`."""
LIDS = ("lidsRight", "lidsLeft")
"""Gaps of the lids over the width of the eye."""
GAZE = ("gazeRight", "gazeUp")
"""Where the irises stand, to the picture's right and up, in halves of the eye's width."""
READINGS = (APERTURE, *ANGLES, *LIDS, *GAZE, *BLENDSHAPES)
"""What is read of each frame, in order."""


def readings_of(ground_truth: dict[str, Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and values ``(F, n)`` float32 of all that a synthetic clip's ``ground_truth`` says of its frames."""
    shapes = ground_truth["blendshapes"]
    aperture = np.asarray(ground_truth["lip_aperture"], np.float32)[:, None]
    angles = np.asarray(ground_truth["head_pose"], np.float32)[:, : len(ANGLES)]
    weights = np.asarray(shapes["weights"], np.float32)
    return (APERTURE, *ANGLES, *shapes["names"]), np.concatenate([aperture, angles, weights], 1)


def read_mesh(face: Face) -> np.ndarray:
    """One face's :data:`READINGS` ``(n,)`` float32."""
    points = face.points
    parts = (lip_aperture(points), head_pose(points).angles(), lid_openings(points), gaze(points), face.blendshapes)
    return np.hstack(parts).astype(np.float32)


class MeshReadings:
    """An extractor of the :data:`READINGS` of every frame, of one face that is followed.

    Where it is not found they are linear in between, before the first and after the last find held.
    """

    def __init__(self) -> None:
        self._face: Face | None = None
        self._readings: list[np.ndarray | None] = []

    def add(self, frames: np.ndarray) -> None:
        """The next frames, ``(n, H, W, 3)`` uint8."""
        for frame in frames:
            self._face = follow(frame, self._face)
            self._readings.append(read_mesh(self._face) if self._face else None)

    def finish(self) -> dict[str, np.ndarray]:
        """``readings`` (F, n), or nothing if no frame showed a face."""
        found = [index for index, reading in enumerate(self._readings) if reading is not None]
        if not found:
            return {}
        known = np.stack([reading for reading in self._readings if reading is not None])
        frames = np.arange(len(self._readings))
        return {"readings": np.stack([np.interp(frames, found, column) for column in known.T], 1).astype(np.float32)}
