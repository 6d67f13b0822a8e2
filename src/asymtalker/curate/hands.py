"""Stage 5, hands: whether they are over the face, by MediaPipe's palm detector and hand landmarks, which are bundled.

DWPose, where its weights are at hand, says it of the whole body too: :mod:`asymtalker.curate.published`.
"""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from asymtalker.curate.framed import FramedClip
from asymtalker.curate.picture import longest
from asymtalker.media.face_mesh import OVAL, Region, cut, run_network
from asymtalker.timeline import FPS

PALM_SIDE, HAND_SIDE = 192, 224
"""Pixels a side of what the networks look at."""
SURE_PALM, SURE_HAND = 0.5, 0.5
EVERY = 5
"""Frames from one that is looked at to the next."""
REACH, LIFT = 2.6, 0.5
"""Side of a hand in sides of its palm's box, and by how much its middle lies farther out."""
OVER = 4
"""Points of a hand, of 21, that lie on a face when it is over it."""
WRIST, MIDDLE = 0, 2
"""Points of a palm between which a hand is upright."""


@dataclass(frozen=True)
class Palm:
    """A palm's middle and side in pixels, its score, and seven points ``(7, 2)`` of it."""

    x: float
    y: float
    side: float
    score: float
    points: np.ndarray

    @property
    def region(self) -> Region:
        """Where its hand is to be read, fingers up."""
        across, down = self.points[MIDDLE] - self.points[WRIST]
        angle = math.pi / 2 - math.atan2(-down, across)
        x, y = self.x + LIFT * self.side * math.sin(angle), self.y - LIFT * self.side * math.cos(angle)
        return Region(x, y, REACH * self.side, angle)


def hand_scores(clip: FramedClip) -> dict[str, float]:
    """``hands``, the longest time in seconds for which a hand is over the face."""
    over = [
        any(is_over(hand, points) for hand in find_hands(frame))
        for number, (frame, points) in enumerate(zip(clip.frames(), clip.filled, strict=True))
        if number % EVERY == 0
    ]
    return {"hands": longest(np.array(over)) * EVERY / FPS}


def is_over(hand: np.ndarray, face: np.ndarray) -> bool:
    """Whether a hand ``(21, 2)`` is over a face's mesh ``(478, 3)``, both in pixels."""
    outline = face[list(OVAL), :2].astype(np.float32)
    return sum(cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in hand) >= OVER


def find_hands(picture: np.ndarray) -> list[np.ndarray]:
    """The points ``(21, 2)`` in pixels of each hand in a picture ``(H, W, 3)`` uint8."""
    hands = []
    for palm in find_palms(picture):
        seen = cut(picture, palm.region, HAND_SIDE) / 255
        points, presence, *_ = run_network("hands/hand_landmark", seen)
        if float(np.ravel(presence)[0]) >= SURE_HAND:
            hands.append(palm.region.to_picture(np.reshape(points, (21, 3))[:, :2] / HAND_SIDE))
    return hands


def find_palms(picture: np.ndarray) -> list[Palm]:
    """Palms in a picture ``(H, W, 3)`` uint8, surest first; those that lie in a surer one are left out."""
    height, width = picture.shape[:2]
    whole = Region(width / 2, height / 2, max(height, width), 0.0)
    (places,), (logits,) = run_network("hands/palm_detection", cut(picture, whole, PALM_SIDE, continued=False) / 255)
    scores = 1 / (1 + np.exp(-np.clip(logits[:, 0], -60, 60)))
    found: list[Palm] = []
    for index in np.argsort(-scores):
        if scores[index] < SURE_PALM:
            break
        pairs = places[index].reshape(9, 2).astype(np.float64) / PALM_SIDE  # middle, size, seven points
        x, y = whole.to_picture(pairs[:1] + _anchors()[index])[0]
        side = float(pairs[1].max()) * whole.side
        if all(math.hypot(x - one.x, y - one.y) > one.side / 2 for one in found):
            points = whole.to_picture(pairs[2:] + _anchors()[index])
            found.append(Palm(float(x), float(y), side, float(scores[index]), points))
    return found


@cache
def _anchors() -> np.ndarray:
    """Where each of the detector's 2016 outputs looks ``(2016, 2)``, as shares of the square."""
    grids = []
    for cells, each in ((24, 2), (12, 6)):
        y, x = np.mgrid[:cells, :cells]
        grids.append(np.repeat((np.stack([x, y], -1).reshape(-1, 2) + 0.5) / cells, each, axis=0))
    return np.concatenate(grids)
