"""Stage 5, pictures: sharpness, what stands still or jumps, and what comes before the face."""

from itertools import islice

import cv2
import numpy as np

from asymtalker.curate.cuts import frozen_seconds, jump_ratios, most_moved
from asymtalker.curate.framed import FramedClip
from asymtalker.media.face_mesh import BROWS, LEFT_LIDS, LOWER_LIP, OVAL, RIGHT_LIDS, UPPER_LIP
from asymtalker.timeline import FPS

FACE_SIDE = 96
"""Pixels a face is scaled to before its sharpness is measured."""
SEEN = 96
"""Pixels a side of the copies in which motion is measured."""
SHARPNESS_EVERY = 5
JUMPS = 10.0
"""Grey levels that what moves most has to change by to be a jump."""
DIFFERENT = 28.0
"""Levels of a colour, beyond those of its whole face, by which a point looks unlike itself at other times."""
COVERED = 0.16
"""Share of the face's points that have to."""
_MOVING = {*BROWS, *OVAL, LOWER_LIP, UPPER_LIP, *(point for pair in (*RIGHT_LIDS, *LEFT_LIDS) for point in pair)}
_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375, 78, 191, 80, 81,
         82, 312, 311, 310, 415, 308, 95, 88, 178, 87, 317, 402, 318, 324)  # fmt: skip
SKIN = np.array([point for point in range(468) if point not in _MOVING and point not in _LIPS])
"""Points whose colour changes little when a face speaks and blinks."""


def picture_scores(clip: FramedClip) -> dict[str, float]:
    """Scores of a clip's pictures.

    ``sharpness`` of the face, 0 to 1; ``frozen``, the longest time in seconds for which nothing moves; ``jump``, by
    how many times what is usual around it the worst frame moves; ``hidden``, the longest time in seconds for which
    something covers a part of the face.
    """
    sharp, moved, colours = [], [0.0], []
    before: np.ndarray | None = None
    for number, (frame, points) in enumerate(zip(clip.frames(), clip.filled, strict=True)):
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SEEN, SEEN), interpolation=cv2.INTER_AREA).astype(np.float32)
        if before is not None:
            moved.append(most_moved(before, small))
        before = small
        if number % SHARPNESS_EVERY == 0:
            sharp.append(sharpness(face_patch(grey, points)))
        colours.append(point_colours(frame, points))
    changes = np.array(moved)
    ratios = np.where(changes >= JUMPS, jump_ratios(changes), 0.0)
    return {
        "sharpness": float(np.median(sharp)),
        "frozen": frozen_seconds(changes),
        "jump": float(ratios.max()),
        "hidden": longest(covered(np.stack(colours)) > COVERED) / FPS,
    }


def face_patch(grey: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face in a grey picture, from brows to chin, :data:`FACE_SIDE` pixels wide; float32."""
    (left, top), (right, bottom) = (edge(points[list(OVAL), :2], 0) for edge in (np.min, np.max))
    rows = slice(max(0, round(float(top))), max(0, round(float(bottom))) + 1)
    columns = slice(max(0, round(float(left))), max(0, round(float(right))) + 1)
    patch = grey[rows, columns]
    if min(patch.shape) < 8:
        return np.zeros((FACE_SIDE, FACE_SIDE), np.float32)
    smaller = patch.shape[1] > FACE_SIDE
    height = max(8, round(FACE_SIDE * patch.shape[0] / patch.shape[1]))
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return cv2.resize(patch, (FACE_SIDE, height), interpolation=way).astype(np.float32)


def sharpness(grey: np.ndarray) -> float:
    """How much of a picture's change from pixel to pixel goes when it is blurred, 0 to 1 (Crete, Dolmiere, Ladret and
    Nicolas, "The blur effect", 2007: this is 1 less their blur)."""
    shares = []
    for size in ((9, 1), (1, 9)):
        axis = 1 if size[0] == 9 else 0
        blurred = cv2.blur(grey, size)
        own, left = (np.abs(np.diff(one, axis=axis)) for one in (grey, blurred))
        lost = np.maximum(own - left, 0).sum()
        shares.append(lost / max(float(own.sum()), 1e-6))
    return float(max(0.0, min(shares)))


def point_colours(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Colours ``(P, 3)`` in Lab around the points of :data:`SKIN`."""
    side = frame.shape[0]
    blurred = cv2.GaussianBlur(frame, (0, 0), side / 100)
    places = np.clip(np.round(points[SKIN, :2] - 0.5).astype(int), 0, side - 1)
    taken = np.ascontiguousarray(blurred[places[:, 1], places[:, 0]])[None]
    return cv2.cvtColor(taken, cv2.COLOR_RGB2LAB)[0].astype(np.float32)


def covered(colours: np.ndarray) -> np.ndarray:
    """Share of the points ``(F,)`` that look unlike themselves at most times, of colours ``(F, P, 3)``."""
    away = colours - np.median(colours, axis=0)
    away -= np.median(away, axis=1, keepdims=True)  # light that changes, changes all
    return (np.abs(away).max(-1) > DIFFERENT).mean(1)


def longest(true: np.ndarray) -> int:
    """The longest run of true values ``(F,)``."""
    edges = np.flatnonzero(np.diff(np.r_[False, true, False].astype(int)))
    return int(max(islice(edges[1::2] - edges[::2], None), default=0)) if len(edges) else 0
