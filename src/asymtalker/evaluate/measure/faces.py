"""Faces in video: where one face is in every frame, and that face laid onto the template of face recognition.

Pictures are ``H W 3`` uint8 RGB. A box is ``(left, top, right, bottom)`` in pixels, forehead to chin, as the data set
WIDER FACE draws it and as the detectors trained on it find it: YuNet, and S3FD, which SyncNet was published with. The
five points are the eyes, the tip of the nose and the corners of the mouth; of two, the person's right one, which is on
the left of the picture, comes first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.portrait import WIDER_HEIGHT, WIDER_RISE, WIDER_WIDTH, FaceBox, find_faces, wider_box
from asymtalker.media.read import check_file

LEAST_SCORE = 0.6
"""Of a YuNet detection. 157 portraits and frames of real speakers have scores of 0.89 and more, other things in them
0.54 and less."""
WORK_SIDES = (320, 1280)
"""YuNet works on copies of at most these sides, in turn until it finds a face. It sees faces of some 15 to 300 pixels:
the boxes of faces of 500 pixels come out too small, those of 1000 pixels fall to pieces."""
SAME_FACE = 0.3
"""Least overlap (intersection over union) of the boxes of one face in two frames that follow each other."""
MAX_GAP = 25
"""Frames that a face may be lost for before another one is followed instead; SyncNet's tracker has the same."""
ARCFACE_SIZE = 112
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where the five points lie in the 112 x 112 pictures that ArcFace networks are trained on (insightface's values)."""


class NoFace(ValueError):
    """No frame of a clip shows a face."""


@dataclass(frozen=True)
class DetectedFace:
    """One face in one picture.

    Attributes:
        box: ``(4,)`` float32: left, top, right, bottom in pixels.
        points: ``(5, 2)`` float32: x and y in pixels of right eye, left eye, nose, right and left corner of the mouth
            (right is the person's, left in the picture); ``None`` from a detector that has none.
        score: how sure the detector is, on its own scale.
    """

    box: np.ndarray
    points: np.ndarray | None
    score: float


@dataclass(frozen=True)
class FaceTrack:
    """One face through a clip of ``F`` frames.

    Attributes:
        boxes: ``(F, 4)`` float32, see :class:`DetectedFace`; linear in between where the face was not found.
        points: ``(F, 5, 2)`` float32 in the order of :class:`DetectedFace`, likewise, or ``None``.
        scores: ``(F,)`` float32; 0 where the face was not found.
        found: ``(F,)`` bool.
    """

    boxes: np.ndarray
    points: np.ndarray | None
    scores: np.ndarray
    found: np.ndarray


Detector = Callable[[np.ndarray], list[DetectedFace]]
"""Faces of a picture ``H W 3`` uint8, in any order; an empty list if there is none."""


def yunet_detector(path: Path) -> Detector:
    """A detector that runs YuNet, which gives points too.

    Args:
        path: the published ONNX file (libfacedetection.train's ``yunet_n_*.onnx``, OpenCV zoo's
            ``face_detection_yunet_2023mar.onnx``); its sides need not be those of the pictures.

    Raises:
        UserError: if the file is missing or OpenCV can't use it.
    """
    check_file(path, "face detector")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV 5 warns about its own default target
    try:
        network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), LEAST_SCORE)
        network.detect(np.zeros((320, 320, 3), np.uint8))  # here at the latest another network's file is noticed
    except cv2.error as error:
        raise UserError(f"{path} is not the YuNet face detector or is damaged: fetch it anew.") from error
    finally:
        cv2.utils.logging.setLogLevel(level)

    def detect(picture: np.ndarray) -> list[DetectedFace]:
        height, width = picture.shape[:2]
        for side in WORK_SIDES:
            scale = min(1.0, side / max(height, width))
            size = max(1, round(width * scale)), max(1, round(height * scale))
            copy = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
            network.setInputSize(size)
            rows = network.detect(np.ascontiguousarray(copy[..., ::-1]))[1]
            if rows is not None or scale == 1:
                break
        back = np.array([width / size[0], height / size[1]], np.float32)
        return [_yunet_face(row, back) for row in ([] if rows is None else rows)]

    return detect


def _yunet_face(row: np.ndarray, back: np.ndarray) -> DetectedFace:
    """A row of FaceDetectorYN: left, top, width, height, five times x and y, score; ``back`` scales to the picture."""
    corner, size = row[0:2] * back, row[2:4] * back
    return DetectedFace(np.concatenate([corner, corner + size]), row[4:14].reshape(5, 2) * back, float(row[14]))


def mesh_faces(picture: np.ndarray) -> list[DetectedFace]:
    """A :data:`Detector` where YuNet's file is not there: the face mesh; its boxes brought to YuNet's, no points."""
    return [DetectedFace(wider_box(face), None, face.score) for face in find_faces(picture)]


def portrait_box(box: np.ndarray) -> FaceBox:
    """The box that :func:`asymtalker.media.portrait.crop_frame` cuts around, of a :class:`DetectedFace`'s box."""
    left, top, right, bottom = box.astype(float).tolist()
    side = ((right - left) / WIDER_WIDTH + (bottom - top) / WIDER_HEIGHT) / 2
    x, y = (left + right) / 2, (top + bottom) / 2 + WIDER_RISE * side
    return FaceBox(x - side / 2, y - side / 2, side, side, 0.0)


def track_faces(frames: Iterable[np.ndarray], detector: Detector, max_gap: int = MAX_GAP) -> FaceTrack:
    """Follow one face through a clip: the largest at first, then in each frame the one that overlaps most with it.

    Frames are read once and not kept. A face that is lost is waited for during ``max_gap`` frames, while others are
    ignored; then the largest is followed. Where the face was not found its box and points are interpolated, before
    the first and after the last find they are held.

    Args:
        frames: of the clip, each ``H W 3`` uint8.
        detector: finds the faces of one frame.
        max_gap: 0 takes the largest face of each frame, for frames too far apart to follow one.

    Raises:
        NoFace: if no frame shows a face, so also if there is no frame.
    """
    finds: dict[int, DetectedFace] = {}
    count, last = 0, None
    for frame in frames:
        faces = detector(frame)
        if last is not None and count - last <= max_gap:
            before = finds[last].box
            faces = [face for face in faces if _overlap(before, face.box) >= SAME_FACE]
            face = max(faces, key=lambda face: _overlap(before, face.box), default=None)
        else:
            face = max(faces, key=lambda face: _area(face.box), default=None)
        if face is not None:
            finds[count], last = face, count
        count += 1
    if last is None:
        raise NoFace(f"none of the {count} frames shows a face")
    where = np.array(list(finds))
    scores = np.zeros(count, np.float32)
    scores[where] = [face.score for face in finds.values()]
    points = [face.points for face in finds.values() if face.points is not None]
    return FaceTrack(
        boxes=_fill(where, np.stack([face.box for face in finds.values()]), count),
        points=_fill(where, np.stack(points), count) if len(points) == len(finds) else None,
        scores=scores,
        found=np.isin(np.arange(count), where),
    )


def _fill(where: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """``values`` ``(n, ...)`` known at the frames ``where`` as ``(count, ...)``: linear between, held at the ends."""
    columns = [np.interp(np.arange(count), where, column) for column in values.reshape(len(values), -1).T]
    return np.stack(columns, axis=1).reshape(count, *values.shape[1:]).astype(np.float32)


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (_area(one) + _area(other) - shared)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The turn, scale and shift that takes points to others with the least sum of squared distances (Umeyama, 1991).

    Args:
        source: ``(n, 2)``, not all in one place.
        target: ``(n, 2)``.

    Returns:
        ``(2, 3)`` float64: ``[[a, -b, x], [b, a, y]]``, as OpenCV's warps take it.
    """
    # In the plane a turn with a scale is one complex factor, so that least squares need no singular values.
    source_mean, target_mean = source.mean(axis=0, dtype=np.float64), target.mean(axis=0, dtype=np.float64)
    z, w = (source - source_mean) @ [1, 1j], (target - target_mean) @ [1, 1j]
    factor = np.vdot(z, w) / np.vdot(z, z).real
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([turn, target_mean - turn @ source_mean])


def align_face(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face as ArcFace networks take it: turned, scaled and shifted so that its points come to lie on the template.

    Bilinear and black outside the frame, as insightface does it.

    Args:
        frame: ``(H, W, 3)`` uint8.
        points: ``(5, 2)`` in pixels of the frame, in the order of :class:`DetectedFace`.

    Returns:
        ``(112, 112, 3)`` uint8, channels in the order of the frame's.
    """
    return cv2.warpAffine(frame, similarity(points, ARCFACE_POINTS), (ARCFACE_SIZE, ARCFACE_SIZE))
