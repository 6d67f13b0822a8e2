"""What a face does in each frame, in numbers: of any video by the face mesh, of synthetic clips as it was made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from asymtalker.media.face_mesh import BLENDSHAPES, OVAL, Face, find_face, follow
from asymtalker.media.face_readings import eyes_place, gaze, head_pose, lid_openings, lip_aperture

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
STRIDE = 5
"""Every fifth frame, five a second, is looked at where consecutive ones say the same."""
SAME_SCALE = 0.03
"""Share by which faces may differ in size and their pixels still be compared as they are: scaling costs sharpness."""


@dataclass(frozen=True)
class Truth:
    """What is known of a clip's frames: ``values`` (F, n) by ``names``, and its ``phonemes``: symbol, start, end in
    seconds."""

    names: tuple[str, ...]
    values: np.ndarray
    phonemes: Sequence[tuple[str, float, float]] = ()


def readings_of(ground_truth: dict[str, Any]) -> Truth:
    """All that a synthetic clip's ``ground_truth`` says of its frames, float32."""
    shapes = ground_truth["blendshapes"]
    aperture = np.asarray(ground_truth["lip_aperture"], np.float32)[:, None]
    angles = np.asarray(ground_truth["head_pose"], np.float32)[:, : len(ANGLES)]
    weights = np.asarray(shapes["weights"], np.float32)
    phonemes = [(str(symbol), float(start), float(end)) for symbol, start, end in ground_truth.get("phonemes", ())]
    return Truth((APERTURE, *ANGLES, *shapes["names"]), np.concatenate([aperture, angles, weights], 1), phonemes)


def columns(readings: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Those of :data:`READINGS` ``(F, n)`` that have these names."""
    return readings[:, [READINGS.index(name) for name in names]]


def read_mesh(face: Face) -> np.ndarray:
    """One face's :data:`READINGS` ``(n,)`` float32."""
    points = face.points
    parts = (lip_aperture(points), head_pose(points).angles(), lid_openings(points), gaze(points), face.blendshapes)
    return np.hstack(parts).astype(np.float32)


def sharpness(picture: np.ndarray, points: np.ndarray) -> float:
    """Spread of the Laplacian, in grey levels, over the box of a face in ``H W 3`` uint8; NaN where there is none."""
    outline = points[list(OVAL), :2]
    (left, top), (right, bottom) = np.floor(outline.min(0)).astype(int), np.ceil(outline.max(0)).astype(int)
    part = picture[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if not part.size:
        return float("nan")
    return float(cv2.Laplacian(cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY), cv2.CV_32F).std())


def portrait_sharpness(picture: np.ndarray, scale: float) -> float | None:
    """:func:`sharpness` of a portrait whose face is brought to ``scale`` pixels a centimetre, as a video shows it."""
    face = find_face(picture)
    if face is None:
        return None
    factor = scale / float(head_pose(face.points).scale)
    if abs(factor - 1) <= SAME_SCALE:
        return sharpness(picture, face.points)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return sharpness(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=way), factor * face.points)


class MeshReadings:
    """An extractor of the :data:`READINGS` of every frame, of one face that is followed, and of how sharp it is.

    Where it is not found readings are linear in between, before the first and after the last find held.
    """

    def __init__(self) -> None:
        self._face: Face | None = None
        self._readings: list[np.ndarray | None] = []
        self._sharpness: list[float] = []
        self._scales: list[float] = []

    def add(self, frames: np.ndarray) -> None:
        """The next frames, ``(n, H, W, 3)`` uint8."""
        for frame in frames:
            self._face = follow(frame, self._face)
            if self._face and len(self._readings) % STRIDE == 0:
                self._sharpness.append(sharpness(frame, self._face.points))
                self._scales.append(float(head_pose(self._face.points).scale))
            face = self._face
            self._readings.append(np.hstack([read_mesh(face), eyes_place(face.points)]) if face else None)

    def finish(self) -> dict[str, np.ndarray]:
        """``readings`` (F, n), ``eyes`` (F, 3), ``expressions`` (m, 52), ``sharpness`` (k,) and ``face_scale`` (), see
        :class:`~asymtalker.evaluate.measure.features.Measured`; nothing if no frame showed a face."""
        found = [index for index, reading in enumerate(self._readings) if reading is not None]
        if not found:
            return {}
        known = np.stack([reading for reading in self._readings if reading is not None])
        frames = np.arange(len(self._readings))
        readings = np.stack([np.interp(frames, found, column) for column in known.T], 1).astype(np.float32)
        readings, eyes = np.split(readings, [len(READINGS)], axis=1)
        arrays = {"readings": readings, "eyes": eyes, "expressions": columns(readings[::STRIDE], BLENDSHAPES)}
        if self._scales:
            arrays |= {"sharpness": np.array(self._sharpness), "face_scale": np.median(self._scales)}
        return arrays
