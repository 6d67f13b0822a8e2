"""What the points of a face mesh say: where the head points, how far lips and lids are open, where the eyes look.

Points are those of :class:`asymtalker.media.face_mesh.Face`, ``(..., 478, 3)`` in pixels: of one face or of many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from PIL import Image, ImageDraw

from asymtalker.media.face_mesh import (
    LEFT_EYE_INNER,
    LEFT_EYE_OUTER,
    LEFT_IRIS,
    LEFT_LIDS,
    LOWER_LIP,
    OVAL,
    RIGHT_EYE_INNER,
    RIGHT_EYE_OUTER,
    RIGHT_IRIS,
    RIGHT_LIDS,
    UPPER_LIP,
)

EYES = (
    (RIGHT_EYE_OUTER, RIGHT_EYE_INNER, RIGHT_IRIS, RIGHT_LIDS),
    (LEFT_EYE_INNER, LEFT_EYE_OUTER, LEFT_IRIS, LEFT_LIDS),
)
"""Of the right and the left eye: its corners, from the picture's left to its right, the iris, and pairs of lids."""


@dataclass(frozen=True)
class HeadPose:
    """How the average face lies over a mesh: turned by ``rotation`` (..., 3, 3), grown to ``scale`` (...) pixels a
    centimetre, its origin (between the eyes, inside the head) put to ``origin`` (..., 3) pixels."""

    rotation: np.ndarray
    scale: np.ndarray
    origin: np.ndarray

    def angles(self) -> np.ndarray:
        """Yaw, pitch and roll (..., 3) in degrees: yaw > 0 turns the face to the picture's right, pitch > 0 lifts it,
        roll > 0 tilts the crown to the picture's left. 0, 0, 0 is the average face seen from the front."""
        turn = self.rotation
        yaw = np.arcsin(np.clip(-turn[..., 2, 0], -1, 1))
        pitch = np.arctan2(-turn[..., 2, 1], turn[..., 2, 2])
        roll = np.arctan2(turn[..., 1, 0], turn[..., 0, 0])
        return np.degrees(np.stack([yaw, pitch, roll], -1))

    def place(self, point: Sequence[float]) -> np.ndarray:
        """Where a point of the average face (3,), in centimetres, lies in the picture: ``(..., 2)`` pixels."""
        seen = self.scale[..., None] * (self.rotation @ np.asarray(point, np.float64))
        return self.origin[..., :2] + seen[..., :2] * (1, -1)


@cache
def _average_face() -> tuple[np.ndarray, np.ndarray]:
    """Points ``(468, 3)`` in centimetres, x right, y up, z to the viewer, and weights ``(468,)`` that sum to 1."""
    with resources.files("asymtalker").joinpath("assets", "face_mesh", "canonical.npy").open("rb") as file:
        table = np.load(file).astype(np.float64)
    return table[:, :3], table[:, 3] / table[:, 3].sum()


def head_pose(points: np.ndarray) -> HeadPose:
    """The pose of heads: how MediaPipe's average face best lies over points that speech moves least."""
    face, weights = _average_face()
    seen = points[..., : len(face), :].astype(np.float64) * (1, -1, -1)
    middle = weights @ seen
    own = weights @ face
    spread = np.einsum("n,...ni,nj->...ij", weights, seen - middle[..., None, :], face - own)
    left, sizes, right = np.linalg.svd(spread)
    mirrored = np.ones_like(sizes)
    mirrored[..., 2] = np.linalg.det(left @ right)
    rotation = left * mirrored[..., None, :] @ right
    scale = (sizes * mirrored).sum(-1) / (weights @ ((face - own) ** 2).sum(-1))
    origin = middle - scale[..., None] * (rotation @ own)
    return HeadPose(rotation, scale, origin * (1, -1, -1))


def lip_aperture(points: np.ndarray) -> np.ndarray:
    """Gap of the inner lips over the distance of the outer eye corners in the picture ``(...)``, as in a corpus'
    ground truth."""
    eyes = _length(points[..., LEFT_EYE_OUTER, :2] - points[..., RIGHT_EYE_OUTER, :2])
    return _length(points[..., LOWER_LIP, :2] - points[..., UPPER_LIP, :2]) / eyes


def eyes_place(points: np.ndarray) -> np.ndarray:
    """Middle between the outer corners of the eyes, and their distance ``(..., 3)``, in pixels of the picture."""
    right, left = points[..., RIGHT_EYE_OUTER, :2], points[..., LEFT_EYE_OUTER, :2]
    return np.concatenate([(right + left) / 2, _length(left - right)[..., None]], -1)


def lid_openings(points: np.ndarray) -> np.ndarray:
    """Gap between the lids over the eye's width, of the right and the left eye ``(..., 2)``; closed is about 0.05."""
    openings = []
    for right, left, _, lids in EYES:
        gaps = [_length(points[..., upper, :2] - points[..., lower, :2]) for upper, lower in lids]
        openings.append(np.mean(gaps, axis=0) / _length(points[..., left, :2] - points[..., right, :2]))
    return np.stack(openings, -1)


def gaze(points: np.ndarray) -> np.ndarray:
    """Where the irises stand between the corners of the eyes ``(..., 2)``, mean of both: along the eye to the
    picture's right, and up across it, in halves of its width."""
    places = []
    for right, left, iris, _ in EYES:
        along = (points[..., left, :2] - points[..., right, :2]).astype(np.float64) / 2
        middle = (points[..., left, :2] + points[..., right, :2]) / 2
        away = points[..., iris, :2] - middle
        up = np.stack([along[..., 1], -along[..., 0]], -1)
        places.append(np.stack([(away * along).sum(-1), (away * up).sum(-1)], -1) / (along**2).sum(-1)[..., None])
    return np.mean(places, axis=0)


def face_mask(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """One mesh ``(478, 3)`` as ``(height, width)`` uint8: 255 inside the face's outline, else 0."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([(x - 0.5, y - 0.5) for x, y in points[list(OVAL), :2].tolist()], fill=255)
    return np.array(mask)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float64), axis=-1)
