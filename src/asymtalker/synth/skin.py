"""Textures of a rendered head, painted around the average head: skin with lips, brows and stubble, and the eyes.

The skin's texture coordinates wrap the average head: across by the angle around the head's axis (the face widened),
up by height, so that one place of the picture is the same feature on every identity.
"""

import cv2
import numpy as np

from asymtalker.synth import facemesh, mesh
from asymtalker.synth.hair import CENTRE, hairline
from asymtalker.synth.identity import Identity

SIZE = 1024
BOTTOM, TOP = 4.9, 8.55  # heights the texture spans, decimetres
AXIS_Z = 0.05
ACROSS, ANGLES = (0, 0.36, 0.5), (0, 1.2, np.pi)  # from the texture's middle, and around the head: the face is widened
UPPER_BROW = {"right": (70, 63, 105, 66, 107), "left": (300, 293, 334, 296, 336)}
LOWER_BROW = {"right": (46, 53, 52, 65, 55), "left": (276, 283, 282, 295, 285)}


def wrap(points: np.ndarray) -> np.ndarray:
    """Texture coordinates (n, 2) in [0, 1] of points (n, 3) on the average head."""
    angle = np.arctan2(points[:, 0], points[:, 2] - AXIS_Z)
    widened = np.sign(angle) * np.interp(np.abs(angle), ANGLES, ACROSS)
    return np.stack([0.5 + widened, (points[:, 1] - BOTTOM) / (TOP - BOTTOM)], 1)


def _angle(across: np.ndarray) -> np.ndarray:
    """The angle around the head, in radians, of places `across` the texture, measured from its middle."""
    return np.sign(across) * np.interp(np.abs(across), ACROSS, ANGLES)


def _pixels(points: np.ndarray) -> np.ndarray:
    return wrap(points) * [SIZE, -SIZE] + [0, SIZE]


def _noise(rng: np.random.Generator, cell: float, size: int = SIZE) -> np.ndarray:
    """Smooth noise (size, size) of mean 0 and deviation 1, features about `cell` pixels."""
    small = rng.standard_normal((max(int(size / cell) + 2, 3),) * 2).astype(np.float32)
    field = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / field.std()


def _spot(centre: np.ndarray, radius: tuple[float, float]) -> np.ndarray:
    """A soft ellipse (SIZE, SIZE) in [0, 1] around a pixel."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    return np.exp(-(((columns - centre[0]) / radius[0]) ** 2) - ((rows - centre[1]) / radius[1]) ** 2)


def _polygon(points: np.ndarray, soft: float) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.float32)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1.0, lineType=cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), soft)


def _blend(picture: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> None:
    picture += (np.asarray(colour, np.float32) - picture) * amount[..., None]


def average_points() -> np.ndarray:
    """The dense face mesh on the average head, in texture pixels (n, 2)."""
    face = facemesh.face_mesh()
    return _pixels(face.on_head(mesh.macro_shape(0.5, 0.1, (0.33, 0.33, 0.34))))


def paint_skin(identity: Identity) -> np.ndarray:
    """The skin texture (SIZE, SIZE, 3) uint8, first row at the top."""
    rng = np.random.default_rng([identity.seed, 7])
    points = average_points()
    chains = facemesh.face_mesh().chains
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = identity.skin
    if identity.texture == "procedural":
        _paint_pattern(picture, rng)
    lash = 1.0 if identity.male < 0.5 else 0.6
    flush = np.array([1.02, 0.80, 0.78])
    for index, radius, amount in (
        (50, (60, 55), 0.5),
        (280, (60, 55), 0.5),
        (4, (38, 34), 0.45),
        (199, (60, 30), 0.25),
        (9, (80, 40), 0.12),
    ):
        _blend(picture, identity.skin * flush, amount * (0.5 + 0.7 * identity.makeup) * _spot(points[index], radius))
    for index in (145, 374):
        _blend(
            picture,
            identity.skin * [0.78, 0.70, 0.72],
            (0.25 + 0.3 * identity.old) * _spot(points[index] + [0, 14], (34, 13)),
        )
    picture *= (
        1 + 0.018 * _noise(rng, 60) + 0.014 * _noise(rng, 14) + 0.016 * _noise(rng, 4) + 0.012 * _noise(rng, 1.6)
    )[..., None]
    picture[..., 0] *= 1 + 0.015 * _noise(rng, 30)
    _paint_marks(picture, identity, rng, points)
    _paint_stubble(picture, identity, rng, points, chains)
    lids = {s: (points[chains[f"{s}_upper_lid"]], points[chains[f"{s}_lower_lid"]]) for s in ("right", "left")}
    for side, (upper, lower) in lids.items():
        lifted = upper[1:-1] + np.array([0, -16])
        shadow = np.concatenate([upper, lifted[::-1]])
        colour = identity.skin * [0.80, 0.68, 0.66] * (1 - 0.35 * identity.makeup)
        _blend(picture, colour, (0.35 + 0.35 * identity.makeup) * _polygon(shadow, 5))
        line = np.zeros((SIZE, SIZE), np.float32)
        cv2.polylines(line, [np.round(upper * 16).astype(np.int32)], False, 1.0, 4, cv2.LINE_AA, 4)
        cv2.polylines(line, [np.round(lower * 16).astype(np.int32)], False, 0.45, 2, cv2.LINE_AA, 4)
        _blend(
            picture,
            identity.skin * [0.42, 0.28, 0.27],
            lash * (0.55 + 0.35 * identity.makeup) * cv2.GaussianBlur(line, (0, 0), 1.4),
        )
        _paint_brow(picture, identity, rng, points, side)
    outline = np.concatenate([points[chains["upper_outer"]], points[chains["lower_outer"]][::-1]])
    lips = _polygon(outline, 2.2)
    streaks = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), sigmaX=1.0, sigmaY=7)
    _blend(picture, identity.lips, 0.88 * lips)
    picture *= (1 + 0.25 * streaks * lips)[..., None]
    seam = np.zeros((SIZE, SIZE), np.float32)
    for chain in ("upper_inner", "lower_inner"):
        cv2.polylines(seam, [np.round(points[chains[chain]] * 16).astype(np.int32)], False, 1.0, 3, cv2.LINE_AA, 4)
    _blend(picture, identity.lips * 0.42, 0.55 * np.clip(cv2.GaussianBlur(seam, (0, 0), 1.8), 0, 1))
    _paint_scalp(picture, identity, rng)
    _paint_clothes(picture, identity, rng)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _angles() -> tuple[np.ndarray, np.ndarray]:
    """The angle around the head (1, SIZE) in radians and the height (SIZE, 1) of the texture's pixels."""
    angle = _angle((np.arange(SIZE) + 0.5) / SIZE - 0.5)
    height = TOP - (TOP - BOTTOM) * (np.arange(SIZE) + 0.5) / SIZE
    return angle[None], height[:, None]


def _paint_scalp(picture: np.ndarray, identity: Identity, rng: np.random.Generator) -> None:
    """Hair roots on the scalp, so that the hairline thins out instead of ending; a shaved shadow on a bald head."""
    angle, height = _angles()
    line = np.radians(hairline(identity, np.degrees(angle[0])))
    radius = np.interp(np.degrees(line), [60, 90, 130], [1.22, 1.0, 1.05])  # of the average skull along the hairline
    edge = CENTRE[1] + radius * np.cos(line)
    streaks = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), sigmaX=1.2, sigmaY=8)
    cover = np.clip((height - edge[None] - 0.07 + 0.03 * streaks / streaks.std()) / 0.12, 0, 1) ** 1.5
    ears = np.exp(-(((np.abs(angle) - 1.25) / 0.22) ** 4) - ((height - 7.1) / 0.36) ** 4)
    cover = cover * (1 - ears) * (0.25 if identity.hair_style == "bald" else 0.9)
    grain = 1 + 0.25 * _noise(rng, 1.5)
    colour = identity.hair if identity.texture == "natural" else picture.mean((0, 1)) * 0.5
    picture += (colour * 0.8 * grain[..., None] - picture) * cover[..., None]


def _neckline(identity: Identity, angle: np.ndarray) -> np.ndarray:
    """The height of the clothes' upper edge around the neck."""
    depth = np.random.default_rng([identity.seed, 9]).choice([0.05, 0.2, 0.55])  # crew, open or V neck
    return identity.neckline + 0.12 - depth * np.exp(-(np.abs(angle / 0.45) ** (1.2 if depth > 0.3 else 2.0)))


def is_clothed(identity: Identity, uvs: np.ndarray) -> np.ndarray:
    """How far (n,) in [0, 1] points with texture coordinates `uvs` (n, 2) lie under the clothes."""
    angle = _angle(uvs[:, 0] - 0.5)
    return np.clip((_neckline(identity, angle) - (BOTTOM + uvs[:, 1] * (TOP - BOTTOM))) / 0.06, 0, 1)


def _paint_clothes(picture: np.ndarray, identity: Identity, rng: np.random.Generator) -> None:
    """A top in one or two colours, perhaps striped or worn under a jacket, with a collar's rim and its shadow."""
    angle, height = _angles()
    top = _neckline(identity, angle)
    below = (top - height) * SIZE / (TOP - BOTTOM)  # pixels under the edge
    weave = 1 + 0.05 * _noise(rng, 2) + 0.06 * _noise(rng, 40)
    cloth = identity.clothes * np.ones((SIZE, SIZE, 1))
    second = np.clip(identity.clothes * rng.uniform(0.3, 1.6) + rng.normal(0, 30, 3), 5, 250)
    kind = rng.integers(4)
    if kind == 0:
        stripes = (np.sin(height * rng.uniform(25, 70)) > 0.2)[..., None] * np.ones((1, SIZE, 1))
        cloth = cloth * (1 - stripes) + second * stripes
    elif kind == 1:
        jacket = np.clip((np.abs(angle) - 0.10 - 0.30 * (height - BOTTOM)) / 0.02, 0, 1) * np.ones((SIZE, 1))
        cloth = cloth * (1 - jacket[..., None]) + second * jacket[..., None]
    rim = np.clip(1 - np.abs(below - 7) / 3, 0, 1)[..., None]
    cloth = cloth * weave[..., None] * (1 - 0.30 * rim)
    cast = np.clip(1 + below / 16, 0, 1) * (below < 0)
    picture *= (1 - 0.35 * cast)[..., None]
    picture += (cloth - picture) * np.clip(below / 2 + 0.5, 0, 1)[..., None]


def _paint_pattern(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Random colours and patterns over the whole skin, so that no appearance can be taken for granted."""
    colours = rng.uniform(20, 235, (3, 3))
    field = _noise(rng, float(rng.uniform(25, 200)))
    kind = rng.integers(3)
    if kind == 0:
        share = 1 / (1 + np.exp(-field * rng.uniform(1, 6)))
    elif kind == 1:
        rows, columns = np.mgrid[:SIZE, :SIZE]
        angle, period = rng.uniform(0, np.pi), rng.uniform(20, 120)
        share = 0.5 + 0.5 * np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * 2 * np.pi / period + field)
    else:
        share = (np.abs(field) < rng.uniform(0.3, 0.8)).astype(np.float32)
        share = cv2.GaussianBlur(share, (0, 0), 2.0)
    picture[:] = colours[0] * (1 - share[..., None]) + colours[1] * share[..., None]
    _blend(picture, colours[2], 0.5 / (1 + np.exp(-2 * _noise(rng, 90))))


def _paint_marks(picture: np.ndarray, identity: Identity, rng: np.random.Generator, points: np.ndarray) -> None:
    """Freckles over nose and cheeks, a few moles, and for the old lines on forehead, eye corners and cheeks."""
    freckles = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(int(260 * identity.freckles)):
        x, y = points[5] + rng.normal(0, 1, 2) * [95, 38]
        cv2.circle(
            freckles,
            (int(x * 16), int(y * 16)),
            int(rng.uniform(14, 34)),
            float(rng.uniform(0.2, 0.6)),
            -1,
            cv2.LINE_AA,
            4,
        )
    _blend(picture, identity.skin * [0.72, 0.55, 0.42], cv2.GaussianBlur(freckles, (0, 0), 0.8))
    for _ in range(rng.integers(0, 4)):
        x, y = points[rng.integers(468)] + rng.normal(0, 8, 2)
        _blend(picture, identity.skin * [0.45, 0.35, 0.3], 0.8 * _spot(np.array([x, y]), (2.4, 2.4)))
    lines = np.zeros((SIZE, SIZE), np.float32)

    def curve(nodes: np.ndarray, depth: float) -> None:
        cv2.polylines(lines, [np.round(nodes * 16).astype(np.int32)], False, depth, 2, cv2.LINE_AA, 4)

    across = np.linspace(-1, 1, 15)
    for k in range(4):
        height = points[151] + [0, 24 - 26 * k]
        curve(height + np.stack([across * rng.uniform(60, 95), 6 * across**2 + rng.normal(0, 1.2, 15)], 1), 0.8)
    for corner, way in ((33, -1), (263, 1)):
        for k in range(3):
            start = points[corner] + [way * 10, -6 + 8 * k]
            steps = np.linspace(0, 1, 6)
            curve(start + np.stack([way * 30 * steps, (k - 1) * 12 * steps + rng.normal(0, 0.6, 6)], 1), 0.7)
    for chain in ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432)):
        curve(points[list(chain)], 1.0)
    soft = 0.6 * cv2.GaussianBlur(lines, (0, 0), 1.6) + 0.5 * cv2.GaussianBlur(lines, (0, 0), 4)
    _blend(picture, identity.skin * [0.62, 0.5, 0.47], np.clip(soft, 0, 1) * (0.12 + 0.75 * identity.old))


def _paint_stubble(
    picture: np.ndarray,
    identity: Identity,
    rng: np.random.Generator,
    points: np.ndarray,
    chains: dict[str, np.ndarray],
) -> None:
    """Beard shadow with short hairs over jaw, chin and upper lip."""
    if identity.stubble == 0:
        return
    left, right = [172, 136, 150, 149, 176, 148, 152], [377, 400, 378, 379, 365, 397]
    upper = [416, 434, 432, 436, 426, 391, 393, 164, 167, 165, 206, 216, 212, 214, 192]
    area = points[left + right + upper].copy()
    area[: len(left + right), 1] += 34
    mask = _polygon(area, 14)
    lips = np.concatenate([points[chains["upper_outer"]], points[chains["lower_outer"]][::-1]])
    mask *= 1 - _polygon(lips, 3)
    hairs = (rng.random((SIZE, SIZE)) < 0.25).astype(np.float32)
    hairs = cv2.GaussianBlur(hairs, (0, 0), sigmaX=0.7, sigmaY=1.5)
    shade = mask * identity.stubble
    _blend(picture, identity.brows * 0.6 + identity.skin * 0.4, 0.40 * shade)
    _blend(picture, identity.brows, np.clip(1.6 * hairs * shade, 0, 0.95))


def _paint_brow(
    picture: np.ndarray, identity: Identity, rng: np.random.Generator, points: np.ndarray, side: str
) -> None:
    """One eyebrow of short strokes that lean outward."""
    upper, lower = points[list(UPPER_BROW[side])], points[list(LOWER_BROW[side])]
    thick = 1.25 if identity.male > 0.5 else 0.85
    middle = (upper + lower) / 2
    upper, lower = middle + (upper - middle) * thick, middle + (lower - middle) * thick
    layer = 0.30 * _polygon(np.concatenate([upper, lower[::-1]]), 3.0)
    outward = -1.0 if side == "right" else 1.0
    for _ in range(420):
        along, across = rng.uniform(0, 4), rng.beta(2, 2)
        k = min(int(along), 3)
        root = (lower[k] * (1 - along + k) + lower[k + 1] * (along - k)) * (1 - across)
        root = root + (upper[k] * (1 - along + k) + upper[k + 1] * (along - k)) * across
        length = rng.uniform(7, 14)
        lean = np.interp(along, [0, 4], [0.1, -0.9])  # flat at the tail, upright at the inner end
        tip = root + length * np.array([outward * (0.75 + 0.2 * lean), 0.75 * lean])
        ends = np.round(np.stack([root, tip]) * 16).astype(int)
        cv2.line(layer, ends[0].tolist(), ends[1].tolist(), float(rng.uniform(0.5, 0.95)), 1, cv2.LINE_AA, 4)
    _blend(picture, identity.brows, np.clip(cv2.GaussianBlur(layer, (0, 0), 0.9) * 1.15, 0, 0.95))


def paint_eye(identity: Identity, size: int = 256) -> np.ndarray:
    """The eyeball's front (size, size, 3) uint8, seen along its axis: sclera, limbus, iris and pupil."""
    rng = np.random.default_rng([identity.seed, 11])
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    x, y = (columns + 0.5) / size * 2 - 1, (rows + 0.5) / size * 2 - 1
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    sclera = np.array([228, 220, 214], np.float32) * (1 - 0.28 * np.clip(radius - 0.45, 0, 1))[..., None]
    sclera = sclera * [1, 0.985, 0.98] * (1 + 0.01 * _noise(rng, 12, size))[..., None]
    iris_radius = 0.44
    fibres = np.zeros_like(radius)
    for frequency in (17, 31, 53, 71):
        fibres += np.sin(frequency * angle + rng.uniform(0, 7) + 2 * np.sin(5 * angle + rng.uniform(0, 7))) / 4
    inner = np.clip(radius / iris_radius, 0, 1)
    iris = identity.iris * (0.95 + 0.5 * inner * (1 - inner) * 2 + 0.22 * fibres * inner)[..., None]
    iris = iris * (1 - 0.55 * np.clip((inner - 0.82) / 0.18, 0, 1))[..., None]
    iris = iris * (0.80 + 0.35 * np.clip(y / iris_radius, -1, 1))[..., None]
    edge = np.clip((iris_radius - radius) / 0.045 + 0.5, 0, 1)[..., None]
    pupil = np.clip((0.17 - radius) / 0.03 + 0.5, 0, 1)[..., None]
    picture = sclera * (1 - edge) + iris * edge
    lid = np.clip((-y - 0.12) / 0.5, 0, 1)[..., None]  # the upper lid's shadow
    picture = picture * (1 - 0.45 * lid)
    picture = picture * (1 - pupil) + np.array([10, 8, 8]) * pupil
    return np.clip(picture, 0, 255).astype(np.uint8)
