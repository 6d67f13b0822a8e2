"""Photo heads: a portrait as one continuous triangulated sheet that the head model's face units move.

The sheet's inner part is the dense face mesh laid exactly on the portrait's landmarks, with holes at the eyes and the
mouth; its outer part is a grid over hair, neck and background that follows the head and fades to rest. Behind the
holes lie the photograph's own eyes and the head model's teeth, tongue and mouth cavity. At rest the sheet reproduces
the photograph, except that parted lips are closed.

Coordinates are the crop's: x to the right and y up in [0, 1], z towards the viewer in the same unit.
"""

import zlib
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.spatial import Delaunay
from scipy.spatial.transform import Rotation

from asymtalker.errors import UserError
from asymtalker.models.motion.portrait_sheet import smooth_depth, surroundings
from asymtalker.synth import facemesh, mesh, mouth
from asymtalker.synth.eyes import PhotoEye, cut_eye
from asymtalker.synth.pose import HEAD_HEIGHT, Pose, rotation, soft_limit

MARGIN = 0.2  # of the crop's side, textured around the crop so that motion never shows an edge
TEXTURE_SIDE = 512  # pixels of the crop's side in the texture
GRID_STEPS = 30  # grid cells across crop and margins
YAW_LIMIT, PITCH_LIMIT, ROLL_LIMIT = 16.0, 12.0, 14.0  # degrees a flat picture bears
NEAR_LIMIT = 0.5  # head heights


@dataclass(frozen=True)
class PhotoHead:
    """One fitted portrait. n = 1790 face vertices, then g grid vertices; see the module's docstring for units.

    `units` (52, n, 3) face-unit displacements; `neutral` (n, 3) closes parted lips; `follow` (g, 72) spreads the
    displacement of the face oval on to the grid; `head_weight` (g,) how far the grid moves with the head;
    `frame` (3, 3) takes MakeHuman's axes and unit to the crop's (rotation times scale), `inside_frame` those of the
    mouth's inside about `inside_origin`, which comes to lie at `inside_place`.
    """

    key: str
    texture: np.ndarray
    vertices: np.ndarray
    triangles: np.ndarray
    uvs: np.ndarray
    units: np.ndarray
    neutral: np.ndarray
    follow: np.ndarray
    head_weight: np.ndarray
    frame: np.ndarray
    pivot: np.ndarray
    eyes: tuple[PhotoEye, PhotoEye]
    inside: list[mouth.Part]
    inside_origin: np.ndarray
    inside_place: np.ndarray
    inside_frame: np.ndarray
    inside_light: np.ndarray
    eye_distance: float


@dataclass(frozen=True)
class PhotoPose:
    """A photo head's geometry at one instant: vertices of the sheet (n + g, 3), of each inside part and eye patch
    (4, 3), the eyes' textures, the face oval (72, 2) and the lip aperture."""

    sheet: np.ndarray
    inside: list[np.ndarray]
    eyes: list[np.ndarray]
    eye_textures: list[np.ndarray]
    oval: np.ndarray
    lip_aperture: float


def fit_photo(picture: np.ndarray, landmarks: np.ndarray, key: str) -> PhotoHead:
    """Fit the head model to a portrait.

    `picture` (H, W, 3) uint8, `landmarks` (478, 3) pixels with MediaPipe's relative depth, `key` seeds the framing's
    jitter. Raises UserError when the landmarks have the wrong shape or the face is seen too far from the side.
    """
    if landmarks.shape != (478, 3) or not np.isfinite(landmarks).all():
        raise UserError(f"{key}: 478 face-mesh points (x, y, z) are needed, got an array of shape {landmarks.shape}.")
    face = facemesh.face_mesh()
    origin, side = _crop(landmarks, picture.shape[:2], np.random.default_rng(zlib.crc32(key.encode())))
    points = (landmarks - [*origin, landmarks[:, 2].mean()]) / side * [1, 1, -1]
    points[:, 1] = 1 - points[:, 1]
    texture = _crop_texture(picture, origin, side)
    dense = face.dense(points)
    head_shape = mesh.macro_shape(0.5, 0.15, (0.33, 0.33, 0.34))
    on_head = face.on_head(head_shape)
    turn, scale = _similarity(on_head, dense)
    if np.degrees(np.arccos(np.clip(turn[2, 2], -1, 1))) > 50:
        raise UserError(f"{key}: the face is turned too far from the camera to be animated.")
    frame = turn * scale
    _part_lips(dense, face, turn[:, 1])
    units = np.einsum("und,cd->unc", face.units, frame)
    _fit_lids(units, dense, on_head, face, frame)
    dense[:, 2] = smooth_depth(dense, 0.09 * scale)
    neutral = _close_lips(dense, units, face, turn[:, 1])
    grid, sheet_triangles, follow, head_weight = _surroundings(dense, face, scale)
    vertices = np.concatenate([dense, grid])
    closed = dense + neutral
    lip_middle = (closed[facemesh.UPPER_LIP_MIDDLE] + closed[facemesh.LOWER_LIP_MIDDLE]) / 2
    corners = [facemesh.MOUTH_RIGHT, facemesh.MOUTH_LEFT]
    widths = [np.linalg.norm(np.diff(p[corners], axis=0)) for p in (closed, on_head * scale)]
    head_lips = on_head[[facemesh.UPPER_LIP_MIDDLE, facemesh.LOWER_LIP_MIDDLE]].mean(0)
    ears = dense[face.chains["oval"]][[14, 56]].mean(0)
    return PhotoHead(
        key=key,
        texture=texture,
        vertices=vertices.astype(np.float32),
        triangles=np.concatenate([face.triangles, sheet_triangles]),
        uvs=((vertices[:, :2] + MARGIN) / (1 + 2 * MARGIN)).astype(np.float32),
        units=units.astype(np.float32),
        neutral=neutral.astype(np.float32),
        follow=follow.astype(np.float32),
        head_weight=head_weight.astype(np.float32),
        frame=frame.astype(np.float32),
        pivot=(ears - frame[:, 1] * 0.55 - frame[:, 2] * 0.25).astype(np.float32),
        eyes=(_eye("right", texture, points, dense, face), _eye("left", texture, points, dense, face)),
        inside=mouth.inside_parts(head_shape, head_lips),
        inside_origin=head_lips.astype(np.float32),
        inside_place=lip_middle.astype(np.float32),
        inside_frame=(_part_way(turn, 0.6) * scale * np.clip(widths[0] / widths[1], 0.85, 1.2)).astype(np.float32),
        inside_light=_mouth_light(texture, dense, face),
        eye_distance=float(
            np.linalg.norm(np.diff(points[[facemesh.RIGHT_EYE_OUTER, facemesh.LEFT_EYE_OUTER], :2], axis=0))
        ),
    )


def limit_pose(pose: Pose) -> Pose:
    """`pose` with its angles and its way towards the viewer bent smoothly into what a flat picture bears."""
    return replace(
        pose,
        yaw=soft_limit(pose.yaw, YAW_LIMIT),
        pitch=soft_limit(pose.pitch, PITCH_LIMIT),
        roll=soft_limit(pose.roll, ROLL_LIMIT),
        z=soft_limit(pose.z, NEAR_LIMIT),
    )


def animate(head: PhotoHead, weights: np.ndarray, pose: Pose) -> PhotoPose:
    """The head's geometry for face-unit `weights` (52,) in [0, 1] and a pose as :func:`limit_pose` gives it."""
    face = facemesh.face_mesh()
    weights = np.asarray(weights, np.float32)
    eased = _ease_eyes(weights)
    displaced = head.neutral + mesh.displacement(eased, head.units)
    expression = head.vertices[: len(displaced)] + displaced
    up = head.frame[:, 1] / np.linalg.norm(head.frame[:, 1])
    for upper, lower in _lid_pairs(face):
        _keep_order(expression, face.chains[upper], face.chains[lower], up)
    upper, lower = face.chains["upper_inner"], face.chains["lower_inner"]
    _keep_order(expression, upper, lower, up)
    gap = (expression[facemesh.UPPER_LIP_MIDDLE] - expression[facemesh.LOWER_LIP_MIDDLE]) @ up
    grid = (
        head.vertices[len(displaced) :]
        + head.follow @ (expression - head.vertices[: len(displaced)])[face.chains["oval"]]
    )
    unit = np.linalg.norm(head.frame[:, 1]) * HEAD_HEIGHT
    turn = rotation(pose.yaw, pose.pitch, pose.roll)
    shift = (np.array([pose.x, pose.y, pose.z]) * unit).astype(np.float32)

    def moved(points: np.ndarray) -> np.ndarray:
        grown = 1 + 0.25 * pose.z
        return ((points - head.pivot) @ turn.T * grown + head.pivot + shift).astype(np.float32)

    face_now = moved(expression)
    grid_now = grid + head.head_weight[:, None] * (moved(grid) - grid)
    # The teeth turn half as far as the head: a flat sheet's lips slide less over them than real lips do.
    half = rotation(0.5 * pose.yaw, 0.5 * pose.pitch, pose.roll)
    inside_frame = (half @ head.inside_frame).astype(np.float32)
    place = moved(head.inside_place)
    inside = []
    for part in head.inside:
        points = part.vertices + mesh.displacement(weights, part.units) - head.inside_origin
        inside.append(points @ inside_frame.T + place)
    return PhotoPose(
        sheet=np.concatenate([face_now, grid_now.astype(np.float32)]),
        inside=inside,
        eyes=[moved(eye.corners) for eye in head.eyes],
        eye_textures=[eye.looking(weights) for eye in head.eyes],
        oval=face_now[face.chains["oval"], :2],
        lip_aperture=float(max(gap, 0.0) * np.linalg.norm((turn @ up)[:2]) / head.eye_distance),
    )


def _crop(landmarks: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Upper left corner (2,) and side of the crop in pixels: the face box is about half of it, a little below centre.

    Where that would leave a photograph of `shape` (height, width), the crop gives way by a few percent.
    """
    face = landmarks[:468, :2]
    left, right = face[:, 0].min(), face[:, 0].max()
    top, bottom = face[list(facemesh.BROWS), 1].min(), face[:, 1].max()
    side = ((right - left) + (bottom - top)) / 2 / 0.5 * rng.uniform(0.95, 1.05)
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    place = np.array([0.5, 0.55]) + rng.uniform(-0.03, 0.03, 2)
    side = max(min(side, min(shape)), 0.88 * side)
    origin = centre - place * side
    size = np.array(shape[::-1])
    inside = np.clip(origin, np.minimum(0, size - side), np.maximum(size - side, 0))
    return origin + np.clip(inside - origin, -0.07 * side, 0.07 * side), float(side)


def _crop_texture(picture: np.ndarray, origin: np.ndarray, side: float) -> np.ndarray:
    """The crop and its margins, resampled; what lies outside the photograph continues its edge, ever more blurred."""
    zoom = TEXTURE_SIDE / side
    size = round(TEXTURE_SIDE * (1 + 2 * MARGIN))
    if zoom < 0.6:
        blur = 0.35 / zoom
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    shift = MARGIN * TEXTURE_SIDE - origin * zoom + 0.5 * zoom - 0.5
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    flags = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    filled = cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    inside = cv2.warpAffine(np.full(picture.shape[:2], 255, np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST)
    if inside.all():
        return filled
    far = cv2.distanceTransform(255 - inside, cv2.DIST_L2, 5)[..., None]
    edge = cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(filled, (0, 0), size / 50).astype(np.float32)
    softer = cv2.GaussianBlur(edge, (0, 0), size / 20).astype(np.float32)
    near = np.clip(far / (0.04 * size), 0, 1)
    blurred = soft * (1 - np.clip(far / (0.15 * size), 0, 1)) + softer * np.clip(far / (0.15 * size), 0, 1)
    return np.clip(filled * (1 - near) + blurred * near, 0, 255).astype(np.uint8)


def _similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Rotation (3, 3) and scale of the least-squares similarity from `source` to `target` (n, 3) (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, singular, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    return u @ sign @ vt, float((singular * np.diag(sign)).sum() / (a**2).sum())


def _part_way(turn: np.ndarray, share: float) -> np.ndarray:
    """A rotation about the same axis by `share` of the angle."""
    return Rotation.from_rotvec(share * Rotation.from_matrix(turn).as_rotvec()).as_matrix()


def _lid_pairs(face: facemesh.FaceMesh) -> list[tuple[str, str]]:
    return [(f"{side}_upper_lid", f"{side}_lower_lid") for side in ("right", "left")]


def _keep_order(points: np.ndarray, upper: np.ndarray, lower: np.ndarray, up: np.ndarray) -> None:
    """Where an upper chain has passed below its lower one, let both meet half-way (in place)."""
    crossing = np.minimum((points[upper] - points[lower]) @ up, 0)[:, None] * up
    points[upper] -= crossing / 2
    points[lower] += crossing / 2


def _part_lips(dense: np.ndarray, face: facemesh.FaceMesh, up: np.ndarray) -> None:
    _keep_order(dense, face.chains["upper_inner"], face.chains["lower_inner"], up)


def _spread(dense: np.ndarray, chain: np.ndarray, motion: np.ndarray, reach: float) -> np.ndarray:
    """Displacements (n, 3) that equal `motion` (c, 3) on a chain and fade smoothly to zero at distance `reach`."""
    apart = np.linalg.norm(dense[:, None, :2] - dense[None, chain, :2], axis=2)
    weights = 1 / (apart + 0.02 * reach) ** 3
    fade = np.clip(1 - apart.min(1) / reach, 0, 1)
    fade = fade * fade * (3 - 2 * fade)
    return (weights @ motion) / weights.sum(1, keepdims=True) * fade[:, None]


def _mouth_side(face: facemesh.FaceMesh) -> np.ndarray:
    """Which vertices belong to the upper lip's side of the mouth line (n,) bool, in the mean shape."""
    mean = face.dense(face.points)
    seam = (mean[face.chains["upper_inner"]] + mean[face.chains["lower_inner"]]) / 2
    return mean[:, 1] < np.interp(mean[:, 0], seam[:, 0], seam[:, 1])


def _close_lips(dense: np.ndarray, units: np.ndarray, face: facemesh.FaceMesh, up: np.ndarray) -> np.ndarray:
    """The displacement (n, 3) that closes the portrait's lips: the jaw does most, the lips meet over what is left."""
    upper, lower = face.chains["upper_inner"], face.chains["lower_inner"]
    gap = (dense[upper] - dense[lower]) @ up
    jaw = units[mesh.INDEX["jawOpen"]]
    opening = (jaw[upper] - jaw[lower]) @ up
    amount = 0.8 * float(np.clip((gap * opening).sum() / (opening**2).sum(), 0, 1))
    closing = -amount * jaw
    left = gap - amount * opening
    reach = 0.55 * float(np.linalg.norm(dense[facemesh.MOUTH_LEFT] - dense[facemesh.MOUTH_RIGHT]))
    above = _mouth_side(face)
    for chain, share, member in ((upper, -0.35, above), (lower, 0.65, ~above)):
        part = _spread(dense, chain, share * left[:, None] * up, reach) * member[:, None]
        other = lower if chain is upper else upper
        part[other] = 0
        part[chain] = share * left[:, None] * up
        closing = closing + part
    return closing


def _fit_lids(
    units: np.ndarray, dense: np.ndarray, on_head: np.ndarray, face: facemesh.FaceMesh, frame: np.ndarray
) -> None:
    """Make each blink close this portrait's eye exactly, and scale the other lid units to its opening (in place)."""
    scale = np.linalg.norm(frame[:, 1])
    for side, name in (("right", "Right"), ("left", "Left")):
        upper, lower = face.chains[f"{side}_upper_lid"], face.chains[f"{side}_lower_lid"]
        opening = dense[upper] - dense[lower]
        model = np.linalg.norm(on_head[upper] - on_head[lower], axis=1).max() * scale
        ratio = np.clip(np.linalg.norm(opening, axis=1).max() / model, 0.3, 1.4)
        for unit in ("eyeSquint", "eyeWide", "eyeLookDown", "eyeLookUp", "eyeLookIn", "eyeLookOut"):
            units[mesh.INDEX[unit + name]] *= ratio
        width = float(np.linalg.norm(dense[upper[0]] - dense[upper[-1]]))
        brow = [i for i in facemesh.BROWS if (i < 200) == (side == "right")]
        brow_gap = float(np.linalg.norm(dense[brow].mean(0) - dense[upper[8]]))
        mean = face.dense(face.points)
        line = (mean[upper] + mean[lower]) / 2
        order = np.argsort(line[:, 0])
        above = mean[:, 1] < np.interp(mean[:, 0], line[order, 0], line[order, 1])
        down = _spread(dense, upper, -0.85 * opening, min(0.55 * width, 0.95 * brow_gap)) * above[:, None]
        rise = _spread(dense, lower, 0.15 * opening, 0.45 * width) * ~above[:, None]
        blink = down + rise
        blink[upper], blink[lower] = -0.85 * opening, 0.15 * opening
        units[mesh.INDEX["eyeBlink" + name]] = blink


def _ease_eyes(weights: np.ndarray) -> np.ndarray:
    """Weights with squint and wide faded as the eye closes: a blink alone closes it."""
    eased = weights.copy()
    for name in ("Left", "Right"):
        closed = np.clip(weights[mesh.INDEX["eyeBlink" + name]], 0, 1)
        eased[mesh.INDEX["eyeBlink" + name]] = closed
        for unit in ("eyeSquint", "eyeWide", "eyeLookDown", "eyeLookUp"):
            eased[mesh.INDEX[unit + name]] *= 1 - closed
    return eased


def _surroundings(
    dense: np.ndarray, face: facemesh.FaceMesh, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The grid around the face: vertices (g, 3), triangles of the whole outer sheet, `follow`, `head_weight`."""
    oval = face.chains["oval"]
    ring = dense[oval]
    centre = ring.mean(0)
    steps = np.linspace(-MARGIN, 1 + MARGIN, GRID_STEPS + 1)
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    polygon = ring[:, :2].astype(np.float32)
    signed = np.array([cv2.pointPolygonTest(polygon, (float(x), float(y)), True) for x, y in grid])
    grid = grid[signed < -0.03]
    hull = ring[:, :2] - centre[:2]
    hull = hull / np.linalg.norm(hull, axis=1, keepdims=True)
    flat = np.concatenate([ring[::2, :2] + 0.015 * hull[::2], grid])
    outside = np.array([cv2.pointPolygonTest(polygon, (float(x), float(y)), False) < 0 for x, y in flat])
    flat = flat[outside]
    everything = np.concatenate([ring[:, :2], flat])
    faces = Delaunay(everything).simplices
    middle = everything[faces].mean(1)
    keep = np.array([cv2.pointPolygonTest(polygon, (float(x), float(y)), False) < 0 for x, y in middle])
    index = np.concatenate([oval, len(dense) + np.arange(len(flat))])
    unit = float(np.linalg.norm(dense[facemesh.LEFT_EYE_OUTER, :2] - dense[facemesh.RIGHT_EYE_OUTER, :2]))
    follow, weight, distance = surroundings(flat, ring[:, :2], unit, np.array([0.0, -1.0]))
    near = 1 / (np.linalg.norm(flat[:, None] - ring[None, :, :2], axis=2) + 0.01) ** 3
    depth = (near / near.sum(1, keepdims=True)) @ ring[:, 2] - 0.35 * np.minimum(distance, 0.3 * scale)
    return np.c_[flat, depth], index[faces[keep]], follow, weight


def _eye(side: str, texture: np.ndarray, points: np.ndarray, dense: np.ndarray, face: facemesh.FaceMesh) -> PhotoEye:
    upper, lower = face.chains[f"{side}_upper_lid"], face.chains[f"{side}_lower_lid"]
    outline = np.concatenate([dense[upper], dense[lower][-2:0:-1]])
    first = facemesh.RIGHT_IRIS if side == "right" else facemesh.LEFT_IRIS
    return cut_eye(side, texture, MARGIN, outline, points[first : first + 5])


def _mouth_light(texture: np.ndarray, dense: np.ndarray, face: facemesh.FaceMesh) -> np.ndarray:
    """Brightness and tint (3,) for the mouth's inside, from the skin around the mouth."""
    places = dense[face.chains["upper_outer"], :2].mean(0)[None] + np.array(
        [[0, 0.03], [-0.1, 0.0], [0.1, 0.0], [0, -0.12]]
    )
    size = len(texture)
    column = np.clip(((places[:, 0] + MARGIN) / (1 + 2 * MARGIN) * size).astype(int), 0, size - 1)
    row = np.clip(((1 + MARGIN - places[:, 1]) / (1 + 2 * MARGIN) * size).astype(int), 0, size - 1)
    skin = cv2.GaussianBlur(texture, (0, 0), 4)[row, column].astype(np.float32).mean(0)
    level = np.clip(skin.mean() / 150, 0.35, 1.1)
    tint = np.clip(skin / skin.mean() / np.array([1.22, 0.95, 0.83]), 0.8, 1.2)
    return (level * tint).astype(np.float32)
