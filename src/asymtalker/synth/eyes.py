"""The eyes of a photo head: the photograph's eyeball continued behind the lids, with an iris that can look around."""

from dataclasses import dataclass

import cv2
import numpy as np

from asymtalker.synth import mesh

GAZE_REACH = 0.30  # of the eye's width, the iris' way at weight 1 to the side
GAZE_RISE = 0.16  # the same upwards and downwards


@dataclass(frozen=True)
class PhotoEye:
    """`corners` (4, 3) of the patch in crop coordinates (upper left, upper right, lower right, lower left), `ball`
    (h, w, 3) the eyeball without its iris, `iris` (h, w, 3) and `alpha` (h, w, 1) in [0, 1] over it; `reach` the
    gaze's way in patch pixels (x, y), 0 where the iris could not be cut out."""

    side: str
    corners: np.ndarray
    ball: np.ndarray
    iris: np.ndarray
    alpha: np.ndarray
    reach: tuple[float, float]

    def looking(self, weights: np.ndarray) -> np.ndarray:
        """The patch's picture (h, w, 3) uint8 for the gaze in face-unit `weights` (52,)."""
        name = "Right" if self.side == "right" else "Left"
        out, into, up, down = (weights[mesh.INDEX[f"eyeLook{way}{name}"]] for way in ("Out", "In", "Up", "Down"))
        x = (into - out) if self.side == "right" else (out - into)
        shift = np.array([[1, 0, x * self.reach[0]], [0, 1, (down - up) * self.reach[1]]], np.float32)
        size = self.ball.shape[1::-1]
        iris = cv2.warpAffine(self.iris, shift, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(self.alpha, shift, size, flags=cv2.INTER_LINEAR)[..., None]
        return np.clip(self.ball * (1 - alpha) + iris * alpha + 0.5, 0, 255).astype(np.uint8)


def _fill(picture: np.ndarray, known: np.ndarray, softness: float) -> np.ndarray:
    """Unknown pixels take their nearest known pixel's colour, smoothed."""
    if not known.any():
        return picture
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = labels.astype(np.intp)
    table = np.zeros((labels.max() + 1, 3), np.float32)
    table[labels[known]] = picture[known]
    filled = table[labels]
    smooth = cv2.GaussianBlur(filled, (0, 0), softness)
    return np.where(known[..., None], picture, smooth)


def cut_eye(side: str, texture: np.ndarray, margin: float, outline: np.ndarray, iris: np.ndarray) -> PhotoEye:
    """Cut one eye out of a photo head's texture.

    `outline` (k, 3) lid margin and `iris` (5, 3) centre and rim, in crop coordinates; `margin` as in photo.MARGIN.
    """
    size = len(texture)
    lower, upper = outline[:, :2].min(0), outline[:, :2].max(0)
    width = upper[0] - lower[0]
    pad = np.array([0.12 * width, 0.30 * width])
    box = np.array(
        [lower[0] - pad[0], upper[1] + pad[1], upper[0] + pad[0], lower[1] - pad[1]]
    )  # left, top, right, bottom
    scale = size / (1 + 2 * margin)
    shape = (max(round((box[1] - box[3]) * scale), 4), max(round((box[2] - box[0]) * scale), 4))

    def pixels(points: np.ndarray) -> np.ndarray:
        return (points[:, :2] - [box[0], box[1]]) * [scale, -scale]

    first = np.array([(box[0] + margin) * scale, (1 + margin - box[1]) * scale])
    matrix = np.array([[1, 0, first[0]], [0, 1, first[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(texture, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(
        np.float32
    )
    polygon = pixels(outline)
    opening = np.zeros(shape, np.uint8)
    cv2.fillPoly(opening, [np.round(polygon * 16).astype(np.int32)], 255, shift=4)
    lid = max(1, round(0.035 * width * scale))
    inside = cv2.erode(opening, np.ones((3, 3), np.uint8), iterations=lid) > 0
    if not inside.any():
        inside = opening > 0
    centre, *rim = pixels(iris)
    radius = float(np.linalg.norm(np.array(rim) - centre, axis=1).mean()) * 1.06
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    away = np.hypot(columns + 0.5 - centre[0], rows + 0.5 - centre[1])
    sclera = inside & (away > radius * 1.15)
    eyeball = _fill(patch, inside, 0.03 * width * scale)
    if sclera.sum() < 0.12 * inside.sum() or opening.sum() == 0:
        still = np.zeros((*shape, 1), np.float32)
        ball, alpha, reach = eyeball, still, (0.0, 0.0)
    else:
        ball = _fill(patch, sclera, 0.10 * width * scale)
        alpha = np.clip((radius - away) / max(0.16 * radius, 1.0) + 0.5, 0, 1).astype(np.float32)[..., None]
        reach = (GAZE_REACH * width * scale, GAZE_RISE * width * scale)
        shown = inside & (away < radius * 1.2)
        mirrored = np.clip(np.round(2 * centre[1] - rows - 1).astype(int), 0, shape[0] - 1)
        iris_picture = np.where(shown[..., None], patch, patch[mirrored, columns])
        eyeball = _fill(iris_picture, shown | shown[mirrored, columns], 0.03 * width * scale)
    corners = np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]])
    depth = outline[:, 2].mean()
    return PhotoEye(side, np.c_[corners, np.full(4, depth)].astype(np.float32), ball, eyeball, alpha[..., 0], reach)
