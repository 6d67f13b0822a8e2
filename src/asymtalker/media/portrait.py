"""Frame a portrait: find the face, cut it out with margin, put generated frames back into the whole picture.

Faces are those of the face mesh. Pictures are ``H W 3`` uint8 RGB.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter

from asymtalker.errors import UserError
from asymtalker.media.face_mesh import (
    CHIN,
    LEFT_EYE_INNER,
    LEFT_EYE_OUTER,
    LEFT_IRIS,
    LOWER_LIP,
    MOUTH_LEFT,
    MOUTH_RIGHT,
    NOSE_BASE,
    RIGHT_EYE_INNER,
    RIGHT_EYE_OUTER,
    RIGHT_IRIS,
    UPPER_LIP,
    Detection,
    Face,
    Region,
    detect,
    read_face,
    settle_face,
)
from asymtalker.media.face_readings import head_pose, lid_openings, lip_aperture

FACE_SHARE = 0.5
"""Side of the face box over the shorter side of the crop: hair, chin and shoulders stay in it."""
FACE_CENTRE = (0.5, 0.55)
"""Where the middle of the face box lands in the crop, from its left and top."""
FACE_MARGIN = 0.06
"""What a crop within the picture leaves around the mesh at least, in sides of the face box: a head that moves needs
room."""
BOX_CENTRE, BOX_SIDE = (0.0, -0.64, 3.8), 15.83
"""Middle and side of the face box on the average face of :mod:`asymtalker.media.face_readings`, in centimetres, as
dlib's HOG detector, which framed pictures before, boxed 156 portraits (medians; it varied by 6% of the side)."""
WIDER_WIDTH, WIDER_HEIGHT, WIDER_RISE = 0.90, 1.27, 0.09
"""Boxes as the data set WIDER FACE draws them, forehead to chin, in sides of the face box: width, height and how far
their middle lies higher. Medians of YuNet's over 132 portraits and 25 frames of five GRID speakers (quartiles within
0.05)."""
SEARCHES = ((1, 2), (4,))
"""Shares of the picture to look at, in turn until a face is found: ``1 / part`` of its longer side, overlapping."""
SEARCH_SIDE = 1280
"""Larger pictures are searched in a copy of at most this size."""
LOOKS = (2.0, 2.5)
"""Sides of the squares that the second look sees, in sides of the face box."""
MAYBE, SURE, CLEAR = 0.4, 0.5, 0.75
"""Least score of a detection that is looked at twice, of the surest face, and of any other beside it. Of 820 upright
portraits five come to less than 0.75 (0.59 is the least); flowers, stones and curls come to 0.7."""
EVIDENT, MIRRORED = 0.83, 0.052
"""Score under which a face is read in a mirror too, and how far its points may come out elsewhere there, in distances
of the outer eye corners. How sure the mesh is of one man of 820, bearded and wrinkled, is anything from 0.02 to 0.99
as his picture is scaled or loses a row, in a mirror 0.97 and more; he comes to 0.032 to 0.052. Of 398 pictures without
a face (wheels, sockets, grass, coins, gravel, cats), whole and in halves, in all turns, the nearest is a socket of
0.0525; in quarters a corner of another, 15 pixels wide, is taken for one."""
CERTAIN, CLEARLY = 0.87, 0.04
"""Score from which on a picture is not tried turned, and by how much a turned one has to be better than as it is.
Of 103 portraits in all turns, the right one is better by 0.07 and more, and wrong ones come to 0.82."""
SMALL_FACE = 64
"""Pixels: narrower faces come out soft."""
CUT_OFF = 0.02
"""Share of the mesh that may lie outside the picture unsaid."""
EYES_AND_MOUTH = (
    *(RIGHT_EYE_OUTER, LEFT_EYE_OUTER, RIGHT_IRIS, LEFT_IRIS),
    *(UPPER_LIP, LOWER_LIP, MOUTH_RIGHT, MOUTH_LEFT),
)
"""Points without which there is nothing to animate."""
TILTS = (-0.2, 0.0, 0.2)
"""Radians by which a mirrored face is tilted."""
PAIRS = (
    *((RIGHT_EYE_OUTER, LEFT_EYE_OUTER), (RIGHT_EYE_INNER, LEFT_EYE_INNER), (RIGHT_IRIS, LEFT_IRIS)),
    *((MOUTH_RIGHT, MOUTH_LEFT), (UPPER_LIP, UPPER_LIP), (LOWER_LIP, LOWER_LIP), (NOSE_BASE, NOSE_BASE), (CHIN, CHIN)),
)
"""Points of a face, and those that they are in a mirror."""
ASIDE, PROFILE = 35, 60
"""Degrees to the side from which on a face comes out worse, and from which on half of it is not seen."""
LIDS_CLOSED, LIPS_WIDE = 0.14, 0.22
"""Lid openings and lip apertures beyond these are not the rest that an animation starts from: of 820 portraits three
come to less, whose eyes nobody sees (0.04, 0.07, and 0.126 behind glasses), and the narrowest that look out to 0.158;
half a percent has a wider mouth."""
UPRIGHT = 60
"""Degrees: a face that is turned further is not upright."""
SAME_FACE = 0.3
"""Least overlap (intersection over union) of two boxes of one face."""
SAME_BOX = 0.7
"""That of detections one of which stands for both; a part of a face can be surer than the face, so others are read."""
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096
"""Pixels of a video; hardware that plays H.264 takes no more."""
MIN_FACE = 24
"""Pixels: below this a face box holds nothing that could be enlarged into a portrait."""
BORDER_BLUR, BORDER_BLEND = 0.06, 0.03  # of the crop's shorter side
FEATHER = 0.12  # of the crop's shorter side


@dataclass(frozen=True)
class FaceBox:
    """A face in picture pixels, brows to chin, how sure it is, from 0 to 1, and where it was read its mesh."""

    left: float
    top: float
    width: float
    height: float
    score: float
    mesh: Face | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Placement:
    """The part of the full picture that a crop shows, in pixels; it may reach over the picture's edges."""

    left: int
    top: int
    height: int
    width: int

    def seen(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Points ``(n, 3)`` of the picture in the crop's pixels, of which it has ``size``, height and width."""
        return (points - (self.left, self.top, 0)) * (size[0] / self.height)

    def beyond(self, shape: tuple[int, ...]) -> float:
        """The share of it, 0 to 1, that a picture of ``shape`` does not reach."""
        rows = min(self.top + self.height, shape[0]) - max(self.top, 0)
        columns = min(self.left + self.width, shape[1]) - max(self.left, 0)
        return 1 - max(rows, 0) * max(columns, 0) / (self.height * self.width)


@dataclass(frozen=True)
class Portrait:
    """A picture ``(H, W, 3)`` uint8 around a face, where it came from, and the face's mesh ``(478, 3)`` in its pixels,
    where that was read."""

    picture: np.ndarray
    placement: Placement
    points: np.ndarray | None = None


def wider_box(face: FaceBox) -> np.ndarray:
    """Left, top, right and bottom ``(4,)`` float32 of a face as detectors box it that were trained on WIDER FACE, such
    as YuNet and S3FD."""
    x, y = face.left + face.width / 2, face.top + face.height / 2 - WIDER_RISE * face.height
    width, height = WIDER_WIDTH * face.width, WIDER_HEIGHT * face.height
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)


def find_faces(picture: np.ndarray, searches: Sequence[tuple[int, ...]] = SEARCHES) -> list[FaceBox]:
    """Upright faces in a picture ``H W 3`` uint8, largest first; empty if there is none.

    Looked for in the whole picture and in halves of it; if there is none, in quarters too, for faces of a fortieth.
    """
    shrink = math.ceil(max(picture.shape[:2]) / SEARCH_SIDE)
    searched = np.asarray(Image.fromarray(picture).reduce(shrink)) if shrink > 1 else picture
    for parts in searches:
        maybe = [face for part in parts for tile in _tiles(searched, part) for face in detect(searched, MAYBE, tile)]
        faces = [_read_box(picture, face, shrink) for face in _distinct(maybe, SAME_BOX)]
        sure = _distinct([face for face in faces if face.score >= SURE])
        if sure:
            least = min(CLEAR, sure[0].score)
            clear = [face for face in sure if face.score >= least and not any(_inside(face, other) for other in sure)]
            settled = [_settle(picture, face) for face in clear]
            return sorted(settled, key=lambda face: face.width * face.height, reverse=True)
    return []


def _settle(picture: np.ndarray, face: FaceBox) -> FaceBox:
    """The box of a face with its mesh read until that stays where it is, unless that then finds no face."""
    assert face.mesh is not None
    mesh = settle_face(picture, face.mesh.region)
    return face if mesh.score < SURE else replace(box_of(mesh.points), score=face.score, mesh=mesh)


def _tiles(picture: np.ndarray, part: int) -> Iterator[Region]:
    """Squares of a picture, their side ``1 / part`` of its longer one, each half over the next; the first is in the
    corner, and the whole picture in the middle of its square."""
    height, width = picture.shape[:2]
    side = max(height, width) / part
    if part == 1:
        yield Region(width / 2, height / 2, side, 0.0)
        return

    def middles(length: int) -> np.ndarray:
        steps = max(1, math.ceil((length - side) / (side / 2)) + 1)
        return np.linspace(side / 2, length - side / 2, steps) if length > side else np.array([length / 2])

    for y in middles(height):
        for x in middles(width):
            yield Region(float(x), float(y), side, 0.0)


def box_of(points: np.ndarray) -> FaceBox:
    """The box of a face whose mesh ``(478, 3)`` in pixels is known."""
    pose = head_pose(points)
    side = BOX_SIDE * float(pose.scale)
    x, y = map(float, pose.place(BOX_CENTRE))
    return FaceBox(x - side / 2, y - side / 2, side, side, 1.0)


def _read_box(picture: np.ndarray, found: Detection, shrink: int) -> FaceBox:
    """The box of what may be a face, by its mesh, found in a copy of the picture ``1 / shrink`` as large.

    Its score is the mesh's and that of a second look from near by, where an eye is less of a face; 0 if it is not
    upright. Where that is not evident it is 0 if the face is another one in a mirror, and else that of the surest of
    all these looks: of some faces one sees little as pixels happen to fall.
    """
    region = found.region
    region = Region(region.x * shrink, region.y * shrink, region.side * shrink, region.angle)
    mesh = read_face(picture, read_face(picture, region).region)
    box = replace(box_of(mesh.points), score=0.0, mesh=mesh)
    x, y, side, angle = box.left + box.width / 2, box.top + box.height / 2, box.width, mesh.region.angle
    if abs(angle) > math.radians(UPRIGHT):
        return box
    near = [detect(picture, MAYBE / 2, Region(x, y, share * side, angle)) for share in LOOKS]
    scores = [max((face.score for face in faces if _overlap(box, face) > SAME_FACE), default=0.0) for faces in near]
    look, sure = sum(scores) / len(scores), mesh.score
    if look >= MAYBE and look * sure < EVIDENT:
        apart, mirrored = _read_in_mirror(picture, mesh)
        if apart > MIRRORED:
            return box
        look, sure = max(scores), max(sure, mirrored)
    return replace(box, score=look * sure)


def _read_in_mirror(picture: np.ndarray, mesh: Face) -> tuple[float, float]:
    """How far, on average, the points of a face lie elsewhere when it is read in a mirror, upright and tilted, in
    distances of its outer eye corners; and the surest of these meshes' scores."""
    width, region, points = picture.shape[1], mesh.region, mesh.points[:, :2]
    own, mirrored = (list(side) for side in zip(*PAIRS, *(pair[::-1] for pair in PAIRS), strict=True))
    faces = [
        read_face(picture[:, ::-1], replace(region, x=width - region.x, angle=tilt - region.angle)) for tilt in TILTS
    ]
    seen = np.stack([face.points[mirrored, :2] for face in faces])
    apart = np.linalg.norm(seen * (-1, 1) + (width, 0) - points[own], axis=-1)
    eyes = np.linalg.norm(points[LEFT_EYE_OUTER] - points[RIGHT_EYE_OUTER])
    return float(apart.mean() / eyes), max(face.score for face in faces)


def _inside(one: FaceBox, other: FaceBox) -> bool:
    """Whether a box's middle lies in a larger box."""
    x, y = one.left + one.width / 2 - other.left, one.top + one.height / 2 - other.top
    return one.width < other.width and 0 < x < other.width and 0 < y < other.height


Box = TypeVar("Box", FaceBox, Detection)


def _distinct(boxes: list[Box], overlap: float = SAME_FACE) -> list[Box]:
    """The surest boxes, surest first, no two of which share ``overlap``."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.score, reverse=True):
        if all(_overlap(box, other) < overlap for other in kept):
            kept.append(box)
    return kept


def _overlap(one: FaceBox | Detection, other: FaceBox | Detection) -> float:
    """Intersection over union."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.width * one.height + other.width * other.height - shared)


def find_upright(picture: np.ndarray) -> tuple[np.ndarray, list[FaceBox], int]:
    """A picture ``H W 3`` uint8 with upright faces, these faces, largest first, and how far it was turned for that.

    It is turned, by 90, 180 or 270 degrees clockwise, only where its faces are clearly surer so than as it is: an
    upside-down face has something of an upright one.
    """
    faces = find_faces(picture)
    best = max((face.score for face in faces), default=0.0)
    if best >= CERTAIN:
        return picture, faces, 0
    searches = SEARCHES[:1] if faces else SEARCHES
    upright, turn = (picture, faces), 0
    best += CLEARLY
    for quarters in (1, 3, 2):
        turned = np.ascontiguousarray(np.rot90(picture, -quarters))
        found = find_faces(turned, searches)
        score = max((face.score for face in found), default=0.0)
        if score > best:
            upright, turn, best = (turned, found), 90 * quarters, score
    return (*upright, turn)


def choose_face(
    faces: list[FaceBox], number: int | None = None, name: str = "the picture", say: Callable[[str], None] = print
) -> FaceBox:
    """The face to animate: ``number`` counts from 1, the largest; ``None`` takes the largest.

    ``say`` is called with one sentence when there were several and none was asked for.

    Raises:
        UserError: if there is no face or no such number; ``name`` says in which picture.
    """
    if not faces:
        raise UserError(
            f"No human face was found in {name}, neither upright nor turned: give a picture that shows one from the "
            f"front, at least a twentieth of the picture's longer side wide: around a smaller face, crop it."
        )
    if number is None:
        if len(faces) > 1:
            say(f"There are {len(faces)} faces in {name}: taking the largest; --face 1 to {len(faces)} picks another.")
        return faces[0]
    if not 1 <= number <= len(faces):
        there_are = f"there are {len(faces)} faces" if len(faces) > 1 else "there is 1 face"
        raise UserError(f"Face {number} does not exist: {there_are} in {name}, counted from 1, the largest.")
    return faces[number - 1]


def check_face(
    face: FaceBox, shape: tuple[int, ...], name: str, say: Callable[[str], None], *, shrunk: bool = False
) -> None:
    """Say what about a face that was found will make its video worse.

    Args:
        face: with its mesh.
        shape: height and width of the picture, and perhaps more.
        name: of the picture, in a sentence.
        say: called with a sentence for each.
        shrunk: the picture was scaled down, so that more would be left of its part around the face.

    Raises:
        UserError: if its eyes or its mouth lie outside the picture, or half of it is turned away.
    """
    assert face.mesh is not None
    points = face.mesh.points
    yaw = abs(float(head_pose(points).angles()[0]))
    outside = _share_outside(points, shape)
    if _share_outside(points[list(EYES_AND_MOUTH)], shape) > 0:
        raise UserError(f"The face in {name} is cut off by the picture's edge: give a picture that shows all of it.")
    if yaw > PROFILE:
        raise UserError(
            f"The face in {name} is turned {round(yaw)} degrees to the side: give a picture that shows it frontally."
        )
    if face.width < MIN_FACE:
        advice = "crop the picture around it" if shrunk else f"give a picture in which it has {SMALL_FACE} or more"
        raise UserError(f"The face in {name} is only {round(face.width)} pixels wide: {advice}.")
    soft = "so the video will be soft" + (": crop the picture around it" if shrunk else "")
    remarks = (
        (outside > CUT_OFF, "is cut off by the picture's edge: what is missing is made up"),
        (face.width < SMALL_FACE, f"is only {round(face.width)} pixels wide, {soft}"),
        (yaw > ASIDE, f"is turned {round(yaw)} degrees to the side: it moves better seen from the front"),
        (lid_openings(points).max() < LIDS_CLOSED, "has its eyes shut: they will stay shut"),
        (lip_aperture(points) > LIPS_WIDE, "has its mouth wide open: it may not close well"),
    )
    for holds, remark in remarks:
        if holds:
            say(f"The face in {name} {remark}.")


def _share_outside(points: np.ndarray, shape: tuple[int, ...]) -> float:
    """How many of the points lie outside a picture, from 0 to 1."""
    flat = points[:, :2]
    return float(np.mean(np.any((flat < 0) | (flat > (shape[1], shape[0])), axis=1)))


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``"HEIGHTxWIDTH"``, such as ``"640x416"``, or of one number, for a square.

    Raises:
        UserError: if it is neither, or see :func:`check_size`.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f"--size is a number of pixels, such as 720, or HEIGHTxWIDTH, such as 640x416, not {text}.")
    check_size(size := (int(sides[0]), int(sides[-1])))
    return size


def check_size(size: tuple[int, int]) -> None:
    """Check the height and width in pixels that are asked of a video.

    Raises:
        UserError: if a side is shorter than a face could be seen in, or longer than H.264 players take.
    """
    if not SMALLEST_SIDE <= min(size) <= max(size) <= LARGEST_SIDE:
        raise UserError(f"A video's sides are from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, not {size[0]}x{size[1]}.")


def crop_frame(picture: np.ndarray, box: FaceBox, size: tuple[int, int]) -> Portrait:
    """Cut out a face with what is around it and scale that to ``size``, height and width in pixels.

    The face box is half as wide as the crop's shorter side, and its middle lies at (0.5, 0.55) of the crop. Where the
    crop leaves the picture, the picture's edge is continued, blurred.
    """
    return _cut_out(picture, box, _around(box, _usual_scale(box, size), size), size)


def crop_within(picture: np.ndarray, box: FaceBox, size: tuple[int, int]) -> Portrait:
    """The same, but so much tighter, and the face so far from its place, that the crop stays within the picture.

    It holds all of the face that the picture shows, and ``FACE_MARGIN`` around it. Where no rectangle of that shape
    does so within the picture it is as small as it can be, and the picture's edge is continued.
    """
    assert box.mesh is not None
    seen = np.array([picture.shape[1], picture.shape[0]])
    flat, margin = box.mesh.points[:, :2], FACE_MARGIN * box.width
    low, high = (np.clip(corner, 0, seen) for corner in (flat.min(0) - margin, flat.max(0) + margin))
    sides = np.array([size[1], size[0]])
    usual, needed = _usual_scale(box, size), float(((high - low) / sides).max())
    scale = min(usual, max(needed, float((seen / sides).min())))
    place = _around(box, scale, size)

    def moved(start: int, length: int, axis: int) -> int:
        least, most = sorted((0, int(seen[axis]) - length))  # within the picture, or all of it
        held = min(max(start, math.ceil(high[axis]) - length), math.floor(low[axis]))
        return min(max(held, least), most)

    left, top = moved(place.left, place.width, 0), moved(place.top, place.height, 1)
    return _cut_out(picture, box, replace(place, left=left, top=top), size)


def _usual_scale(box: FaceBox, size: tuple[int, int]) -> float:
    """Pixels of the picture for one of a crop of ``size`` around a face."""
    return max(1, round(max(box.width, box.height) / FACE_SHARE)) / min(size)


def _around(box: FaceBox, scale: float, size: tuple[int, int]) -> Placement:
    """A crop of ``size`` with the face in its place, ``scale`` pixels of the picture for one of it."""
    height, width = (max(1, round(scale * side)) for side in size)
    left = round(box.left + box.width / 2 - FACE_CENTRE[0] * width)
    top = round(box.top + box.height / 2 - FACE_CENTRE[1] * height)
    return Placement(left, top, height, width)


def _cut_out(picture: np.ndarray, box: FaceBox, placement: Placement, size: tuple[int, int]) -> Portrait:
    points = None if box.mesh is None else placement.seen(box.mesh.points, size)
    rows = np.clip(np.arange(placement.top, placement.top + placement.height), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(placement.left, placement.left + placement.width), 0, picture.shape[1] - 1)
    crop = Image.fromarray(picture[rows[:, None], columns])
    # Pillow widens the Lanczos kernel when it scales down, so that one filter serves both directions.
    crop = crop.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    outside = _outside(picture.shape[:2], placement, size)
    if outside is not None:
        blurred = crop.filter(ImageFilter.GaussianBlur(BORDER_BLUR * min(size)))
        crop = Image.composite(blurred, crop, outside)
    return Portrait(np.array(crop), placement, points)


def _outside(shape: tuple[int, ...], placement: Placement, size: tuple[int, int]) -> Image.Image | None:
    """Mask of the part of a crop that lies outside a picture of ``shape``, softened inwards; ``None`` if none does."""

    def beyond(start: int, covered: int, pixels: int, length: int) -> np.ndarray:
        scale = pixels / covered
        centres = (np.arange(pixels) + 0.5) / scale + start
        return np.maximum(-centres, centres - length) * scale  # pixels of the crop past the edge

    past = np.maximum.outer(
        beyond(placement.top, placement.height, size[0], shape[0]),
        beyond(placement.left, placement.width, size[1], shape[1]),
    )
    if past.max() <= 0:
        return None
    softness = BORDER_BLEND * min(size)
    return Image.fromarray((np.clip(past / softness + 0.5, 0, 1) * 255).astype(np.uint8))


def resize_for_video(picture: np.ndarray, scale: float) -> np.ndarray:
    """A picture ``scale`` times as large and fit for video: both sides even (an odd row or column is cut off)."""
    height, width = (max(2, round(side * scale)) for side in picture.shape[:2])
    if (height, width) != picture.shape[:2]:
        picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    return np.array(picture[: height // 2 * 2, : width // 2 * 2])


@lru_cache(maxsize=4)
def _feather(height: int, width: int) -> Image.Image:
    """Mask: 0 at the border, 255 from ``FEATHER`` of the shorter side inwards, a cosine between."""

    def ramp(side: int) -> np.ndarray:
        distance = np.minimum(np.arange(side) + 0.5, side - np.arange(side) - 0.5) / min(height, width)
        return 0.5 - 0.5 * np.cos(np.pi * np.clip(distance / FEATHER, 0, 1))

    return Image.fromarray(np.round(255 * np.multiply.outer(ramp(height), ramp(width))).astype(np.uint8))


def paste_back(picture: np.ndarray, frame: np.ndarray, placement: Placement) -> np.ndarray:
    """The full picture with a generated frame ``(H, W, 3)`` in its place, faded out over ``FEATHER`` of it."""
    height, width = placement.height, placement.width
    top, left = max(0, placement.top), max(0, placement.left)
    bottom = min(picture.shape[0], placement.top + height)
    right = min(picture.shape[1], placement.left + width)
    seen = (left - placement.left, top - placement.top, right - placement.left, bottom - placement.top)
    scaled = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS).crop(seen)
    behind = Image.fromarray(picture[top:bottom, left:right])
    pasted = picture.copy()
    # Pillow blends in 8 bits, in a quarter of the time NumPy takes in float32.
    pasted[top:bottom, left:right] = np.asarray(Image.composite(scaled, behind, _feather(height, width).crop(seen)))
    return pasted
