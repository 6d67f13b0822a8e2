"""Faces in pictures: where they are, 478 points of each, what they express and where they look; MediaPipe's networks.

Three networks by LiteRT (``assets/face_mesh``): BlazeFace finds faces, the face mesh lays its points on one, and of
146 of them come the weights of the 52 ARKit blendshapes. Pictures are ``H W 3`` uint8 RGB; coordinates are pixels of
them from its left and top edge, so that mirroring takes x to W - x. Any thread may call: each has its own networks.
"""

import math
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

DETECTOR_SIDE, MESH_SIDE = 128, 256
"""Pixels a side of what the networks look at."""
SAMPLED = 1024
"""Regions of more than twice as many pixels a side are averaged down to this first; bilinear sampling skips pixels."""
SURE = 0.5
"""Detections and meshes with a lower score hold no face."""
MOST_READINGS, STEADY = 8, 0.03
"""How often a face is read again, and the share of its side by which its region then stays where it is."""
SAME_FACE = 0.3
"""Boxes whose intersection is more than this share of their union are of one face."""
MARGIN = 1.5
"""Side of the square that the mesh is read in over the longer side of what is known of the face."""

# The mesh's numbering. "Right" and "left" are the person's own: the right eye is on the picture's left.
RIGHT_EYE_OUTER, RIGHT_EYE_INNER, LEFT_EYE_INNER, LEFT_EYE_OUTER = 33, 133, 362, 263
RIGHT_IRIS, LEFT_IRIS = 468, 473  # the centre; the four that follow lie on the iris' rim
UPPER_LIP, LOWER_LIP, MOUTH_RIGHT, MOUTH_LEFT = 13, 14, 78, 308  # of the lips' inner edge
RIGHT_LIDS, LEFT_LIDS = ((160, 144), (159, 145), (158, 153)), ((385, 380), (386, 374), (387, 373))  # upper, lower
BROWS = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
NOSE_BASE, CHIN = 2, 152
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
    *(148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The face's outline, from the forehead's middle by the picture's right to the chin and back."""
_NAMES = (
    "_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
    "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
    "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft "
    "eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft "
    "mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight "
    "mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
    "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft "
    "noseSneerRight"
)
BLENDSHAPES = tuple(_NAMES.split())
"""Of ARKit, in the order of the network."""
_POINTS = (
    "0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 103 "
    "105 107 109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 173 176 "
    "178 181 185 191 195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 300 308 310 "
    "311 312 314 317 318 321 323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 382 384 385 386 "
    "387 388 389 390 397 398 400 402 405 409 415 454 466 468 469 470 471 472 473 474 475 476 477"
)
EXPRESSION_POINTS = np.array(_POINTS.split(), np.int64)
"""The points that the blendshapes are read from, in the order of that network."""


@dataclass(frozen=True)
class Region:
    """A square of a picture: its middle and side in pixels, and how far it is turned, radians clockwise."""

    x: float
    y: float
    side: float
    angle: float

    def to_picture(self, shares: np.ndarray) -> np.ndarray:
        """Points ``(n, 2)`` as shares of the square, from its own left and top, to pixels of the picture."""
        return self.side * (shares - 0.5) @ _turn(-self.angle) + (self.x, self.y)


@dataclass(frozen=True)
class Detection:
    """A face's box in pixels (brows to chin), its score in (0, 1), and six points ``(6, 2)`` of it: right eye, left
    eye, nose, mouth, right ear and left ear."""

    left: float
    top: float
    width: float
    height: float
    score: float
    points: np.ndarray

    @property
    def region(self) -> Region:
        """Where its mesh is to be read, upright by the eyes."""
        x, y = self.left + self.width / 2, self.top + self.height / 2
        return Region(x, y, MARGIN * max(self.width, self.height), _angle(self.points[1] - self.points[0]))


@dataclass(frozen=True)
class Face:
    """A face's mesh.

    ``points`` (478, 3) float32 pixels, z on their scale, less is nearer; ``score`` in (0, 1), how sure it is that
    this is a face; ``blendshapes`` (52,) float32 in [0, 1] in the order of :data:`BLENDSHAPES`.
    """

    points: np.ndarray
    score: float
    blendshapes: np.ndarray

    @property
    def region(self) -> Region:
        """Where the next frame's mesh is to be read: around the points, upright by the eyes."""
        flat = self.points[:, :2].astype(np.float64)
        angle = _angle(flat[LEFT_EYE_OUTER] - flat[RIGHT_EYE_OUTER])
        upright = flat @ _turn(angle)
        low, high = upright.min(0), upright.max(0)
        x, y = (low + high) / 2 @ _turn(-angle)
        return Region(float(x), float(y), MARGIN * float(max(high - low)), angle)

    def weight(self, name: str) -> float:
        """A blendshape's weight by its name, such as ``jawOpen``."""
        return float(self.blendshapes[BLENDSHAPES.index(name)])


def detect(picture: np.ndarray, least: float = SURE, part: Region | None = None) -> list[Detection]:
    """Faces in a picture ``H W 3`` uint8 that score at least ``least``, surest first.

    Args:
        picture: is looked at once as a whole, in which faces of a tenth of its longer side and more are found.
        least: score, from 0 to 1.
        part: an upright square to look at instead.
    """
    height, width = picture.shape[:2]
    whole = part or Region(width / 2, height / 2, max(height, width), 0.0)
    # sampled at the pixels that MediaPipe samples: others move the box by a hundredth of its side, either way
    shift = (1 - whole.side / DETECTOR_SIDE) / 2
    sampled = Region(whole.x + shift, whole.y + shift, whole.side, 0.0)
    seen = cut(picture, sampled, DETECTOR_SIDE, continued=False) / 127.5 - 1
    (places,), (logits,) = _networks.run("face_detector", seen)
    scores = _sigmoid(logits[:, 0])
    kept = np.flatnonzero(scores >= least)
    pairs = places[kept].reshape(-1, 8, 2).astype(np.float64) / DETECTOR_SIDE  # middle, size, and six points
    pairs[:, [0, *range(2, 8)]] += _anchors()[kept, None]
    pairs[:, [0, *range(2, 8)]] = whole.to_picture(pairs[:, [0, *range(2, 8)]])
    pairs[:, 1] *= whole.side
    return _merge(pairs, scores[kept])


def read_face(picture: np.ndarray, region: Region) -> Face:
    """The mesh of the face in a region of a picture ``H W 3`` uint8: of a :class:`Detection`, or of the
    :class:`Face` of the frame before. Where there is no face the score says so."""
    points, score, _ = _networks.run("face_landmarks_detector", cut(picture, region, MESH_SIDE) / 255)
    points = points.reshape(-1, 3).astype(np.float64) / MESH_SIDE
    placed = np.concatenate([region.to_picture(points[:, :2]), region.side * points[:, 2:]], 1).astype(np.float32)
    (weights,) = _networks.run("face_blendshapes", placed[EXPRESSION_POINTS, :2])
    return Face(placed, float(_sigmoid(score.ravel()[0])), weights)


def settle_face(picture: np.ndarray, region: Region) -> Face:
    """The mesh of the face in a region, read again in its own region until that stays where it is: a detection's box
    is not as steady as the points, and in one that is too small lips are read too high."""
    face = read_face(picture, region)
    for _ in range(MOST_READINGS):
        before, face = face.region, read_face(picture, face.region)
        now = face.region
        if max(abs(now.x - before.x), abs(now.y - before.y), abs(now.side - before.side)) < STEADY * now.side:
            break
    return face


def track(frames: Iterable[np.ndarray]) -> Iterator[Face | None]:
    """Of each frame ``H W 3`` uint8 of a video the mesh of one face, looked for where it was in the frame before.

    Where it is lost, and in the first frame, the largest face is taken; ``None`` where there is none.
    """
    face: Face | None = None
    for frame in frames:
        face = follow(frame, face)
        yield face


def follow(frame: np.ndarray, before: Face | None) -> Face | None:
    """The mesh in a frame of the face in the frame ``before``: one step of :func:`track`."""
    followed = read_face(frame, before.region) if before else None
    return followed if followed and followed.score >= SURE else find_face(frame)


def find_face(picture: np.ndarray) -> Face | None:
    """The mesh of the largest face of a picture ``H W 3`` uint8, ``None`` if none is found."""
    for found in sorted(detect(picture), key=lambda face: face.width * face.height, reverse=True):
        face = settle_face(picture, found.region)
        if face.score >= SURE:
            return face
    return None


def cut(picture: np.ndarray, region: Region, side: int, continued: bool = True) -> np.ndarray:
    """A region of a picture ``H W 3`` uint8, upright and scaled to ``(side, side, 3)`` float32 in [0, 255].

    Where it leaves the picture, the picture's edge is ``continued``, or there is black.
    """
    reach = region.side * (abs(math.cos(region.angle)) + abs(math.sin(region.angle))) / 2 + 2
    left, top = math.floor(region.x - reach), math.floor(region.y - reach)
    right, bottom = math.ceil(region.x + reach), math.ceil(region.y + reach)
    height, width = picture.shape[:2]
    part = picture[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    beyond = ((max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)), (0, 0))
    if part.size and np.any(beyond):
        part = np.pad(part, beyond, mode="edge" if continued else "constant")
    elif not part.size:
        return np.zeros((side, side, 3), np.float32)
    image = Image.fromarray(part)
    shrink = max(1, int(region.side / SAMPLED))
    if shrink > 1:
        image = image.reduce(shrink)
    turned = _turn(region.angle) * region.side / side / shrink
    start = np.array([region.x - left, region.y - top]) / shrink - turned @ np.full(2, side / 2)
    square = (side, side), Image.Transform.AFFINE, (*turned[0], start[0], *turned[1], start[1])
    return np.asarray(image.transform(*square, Image.Resampling.BILINEAR), np.float32)


def _turn(angle: float) -> np.ndarray:
    """The matrix that turns columns ``(2, n)`` clockwise by ``angle``, radians, and rows ``(n, 2)`` back."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _angle(eyes: np.ndarray) -> float:
    """How far a face is turned, radians clockwise in [-pi, pi], by the way from its right eye to its left ``(2,)``."""
    return math.atan2(eyes[1], eyes[0])


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


@cache
def _anchors() -> np.ndarray:
    """Where each of the detector's 896 outputs looks ``(896, 2)``, as shares of the square."""
    grids = []
    for cells, each in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        grids.append(np.repeat((np.stack([x, y], -1).reshape(-1, 2) + 0.5) / cells, each, axis=0))
    return np.concatenate(grids)


def _merge(pairs: np.ndarray, scores: np.ndarray) -> list[Detection]:
    """One detection for each face, surest first, of all boxes and points ``(n, 8, 2)`` found, weighted by score."""
    low, high = pairs[:, 0] - pairs[:, 1] / 2, pairs[:, 0] + pairs[:, 1] / 2
    area = pairs[:, 1].prod(1)
    left = np.argsort(-scores)
    found = []
    while len(left):
        first = left[0]
        shared = np.clip(np.minimum(high[first], high[left]) - np.maximum(low[first], low[left]), 0, None).prod(1)
        same = shared > SAME_FACE * (area[first] + area[left] - shared)
        same[0] = True
        mean = np.average(pairs[left[same]], axis=0, weights=scores[left[same]])
        corner = mean[0] - mean[1] / 2
        found.append(Detection(*map(float, (*corner, *mean[1], scores[first])), mean[2:]))
        left = left[~same]
    return found


class _Networks(threading.local):
    """The networks of one thread: an interpreter must not be run by two at once."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def run(self, name: str, values: np.ndarray) -> list[np.ndarray]:
        """A network's outputs for one input, which is given without the axis of the batch."""
        if name not in self.loaded:
            self.loaded[name] = _load(name)
        network = self.loaded[name]
        network.set_tensor(network.get_input_details()[0]["index"], values[None].astype(np.float32))
        network.invoke()
        return [network.get_tensor(output["index"]) for output in network.get_output_details()]


_networks = _Networks()


def run_network(name: str, values: np.ndarray) -> list[np.ndarray]:
    """A bundled network's outputs for one input, without the axis of the batch; ``name`` as ``"hands/hand_landmark"``
    for one of another folder of ``assets``."""
    return _networks.run(name, values)


def _load(name: str) -> Any:
    """An interpreter of a bundled network, on one core."""
    folder, _, file = name.rpartition("/")
    weights = resources.files("asymtalker").joinpath("assets", folder or "face_mesh", f"{file}.tflite").read_bytes()
    network = _interpreter()(model_content=weights, num_threads=1)
    network.allocate_tensors()
    return network


@cache
def _interpreter() -> Any:
    """LiteRT's class of interpreters, once it has greeted on the process's stderr, which here is not passed on."""
    from ai_edge_litert.interpreter import Interpreter  # commands without a face need not wait for it

    smallest = resources.files("asymtalker").joinpath("assets", "face_mesh", "face_detector.tflite").read_bytes()
    with _without_line(b"Created TensorFlow Lite XNNPACK delegate"):
        Interpreter(model_content=smallest, num_threads=1).allocate_tensors()
    return Interpreter


@contextmanager
def _without_line(part: bytes) -> Iterator[None]:
    """Hold what any library writes to the process's stderr, and then pass on the lines that do not have ``part``."""
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        with os.fdopen(reader, "rb") as said:
            rest = b"".join(line for line in said if part not in line)
        if rest:
            os.write(2, rest)
