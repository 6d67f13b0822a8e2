"""Hair of a rendered head: shells grown from the skull, with strands in colour and opacity."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from asymtalker.synth import mesh
from asymtalker.synth.identity import Identity

COLUMNS, ROWS = 97, 49
CENTRE = np.array([0.0, 7.35, 0.05])  # of the skull at the average head, decimetres
# The hairline: polar angle from the crown (degrees) over the azimuth from the face's middle (degrees).
HAIRLINE_AZIMUTH = (0, 25, 42, 55, 68, 80, 88, 100, 115, 140, 180)
HAIRLINE_ANGLE = (66, 67, 71, 80, 96, 108, 98, 100, 114, 128, 132)


@dataclass(frozen=True)
class Shell:
    """One hair surface: `vertices` (n, 3), `triangles` (t, 3), `uvs` (n, 2), `texture` (h, w, 4) uint8."""

    vertices: np.ndarray
    triangles: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray


def _strands(colour: np.ndarray, rng: np.random.Generator, curl: float, edge: float, streak: float) -> np.ndarray:
    """A strand texture (512, 512, 4): rows run from root (top) to tip; `edge` is the ragged length of the tips."""
    size = 512
    fine = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), sigmaX=0.8, sigmaY=40)
    broad = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), sigmaX=5, sigmaY=70)
    fine, broad = fine / fine.std(), broad / broad.std()
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    if curl:
        bend = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), 9)
        bend = bend / bend.std() * 14 * curl
        fine = cv2.remap(fine, columns + bend, rows + np.roll(bend, 71, 0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        broad = cv2.remap(broad, columns + 2 * bend, rows + bend, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    along = rows / size
    shine = np.exp(-(((along - 0.38 + 0.03 * broad) / 0.09) ** 2))
    light = 1 + streak * (0.20 * fine + 0.16 * broad) + 0.30 * shine - 0.25 * (along > 0.85) * (along - 0.85) / 0.15
    picture = np.clip(colour * light[..., None] + 10 * shine[..., None], 0, 255)
    tips = 1 - along - edge * np.clip(0.5 + 0.22 * fine + 0.30 * broad, 0, 1)
    alpha = np.clip(tips / 0.02, 0, 1) * 255
    return np.dstack([picture, alpha]).astype(np.uint8)


def _skull(shape: np.ndarray) -> tuple[np.ndarray, cKDTree, np.ndarray]:
    """Centre, directions and distances of the skull's outside, ears left out."""
    body = np.unique(mesh.base_mesh().quads["body"])
    points = shape[body]
    ear = (np.abs(points[:, 0]) > 0.70) & (points[:, 1] < 7.6) & (points[:, 2] > -0.1) & (points[:, 2] < 0.75)
    inner = np.hypot(points[:, 0], points[:, 2] - 0.3) < 0.35
    points = points[(points[:, 1] > 6.2) & ~ear & ~(inner & (points[:, 1] < 7.6))]
    crown = points[:, 1].max()
    centre = CENTRE + [0, crown - 8.45, 0]
    away = points - centre
    distance = np.linalg.norm(away, axis=1)
    return centre, cKDTree(away / distance[:, None]), distance


def _grid_triangles(keep: np.ndarray) -> np.ndarray:
    """Triangles of a (rows, columns) grid, quads kept where `keep` (rows - 1, columns - 1)."""
    index = np.arange(keep.shape[0] * 0 + (keep.shape[0] + 1) * (keep.shape[1] + 1)).reshape(keep.shape[0] + 1, -1)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1)
    return mesh.triangles(quads[keep])


def grow(identity: Identity) -> list[Shell]:
    """The shells of an identity's hair style; none for a bald head."""
    style = identity.hair_style
    if style == "bald":
        return []
    rng = np.random.default_rng([identity.seed, 5])
    centre, tree, distance = _skull(identity.shape)
    azimuth = np.linspace(-np.pi, np.pi, COLUMNS)
    degrees = np.abs(np.degrees(azimuth))
    line = np.interp(degrees, HAIRLINE_AZIMUTH, HAIRLINE_ANGLE) + rng.uniform(-2, 3) - 6 * identity.old * identity.male * (degrees < 50)
    fringe = style in ("bob", "long", "side") and rng.random() < 0.4
    if fringe:
        line = line + 14 * np.exp(-((degrees / 45) ** 4))
    thickness = {"short": 0.05, "crop": 0.09, "side": 0.13, "bob": 0.13, "long": 0.12, "bun": 0.05, "curly": 0.24}[style]
    thickness *= float(rng.uniform(0.85, 1.25))
    part = float(rng.choice([-1, 1])) * (0.35 if style == "side" else 0.1)
    falling = style in ("bob", "long") and True
    bottom = {"bob": 6.35, "long": 4.9}.get(style, 0.0) + float(rng.uniform(-0.2, 0.2))
    gate = 58.0  # degrees from the face's middle where falling hair begins
    along = np.linspace(0, 1, ROWS)
    grid = np.zeros((ROWS, COLUMNS, 3))
    waves = rng.uniform(0, 7, 4)
    for column, (angle, limit) in enumerate(zip(azimuth, line, strict=True)):
        falls = falling and degrees[column] > gate
        cap = min(limit, 84.0) if falls else limit
        share = 0.45 if falls else 1.0
        polar = np.radians(np.minimum(along / share, 1) * cap)
        way = np.stack([np.sin(polar) * np.sin(angle), np.cos(polar), np.sin(polar) * np.cos(angle)], 1)
        near, which = tree.query(way, k=6)
        weights = 1 / (near + 0.03) ** 2
        radius = (distance[which] * weights).sum(1) / weights.sum(1)
        lift = thickness * (0.55 + 0.45 * np.clip(1 - along, 0, 1)) * (1 + 0.5 * part * np.sin(angle))
        lift = lift * np.clip(0.25 + 5 * (1 - along), 0, 1) if not falls else lift
        if style == "curly":
            bumps = np.sin(9 * angle + waves[0] + 3 * np.sin(7 * polar)) * np.sin(11 * polar + waves[1] + 2 * np.sin(5 * angle))
            lift = lift * (1 + 0.28 * bumps)
        elif style != "short":
            lift = lift * (1 + 0.10 * np.sin(14 * angle + waves[2]) * np.sin(polar) + 0.06 * np.sin(23 * angle + waves[3]))
        points = centre + way * (radius + lift)[:, None]
        if falls:
            start = points[np.searchsorted(along, share)]
            drop = np.clip((along - share) / (1 - share), 0, 1)
            outward = np.array([np.sin(angle), 0, np.cos(angle)])
            flare = 0.10 * np.sin(np.pi * drop) + (0.12 if style == "long" else -0.10) * drop**2
            wave = 0.03 * np.sin(9 * drop + waves[2] + 2 * angle)
            hanging = start + np.outer(flare + wave, outward)
            hanging[:, 1] = start[1] + (bottom - start[1]) * drop
            points[drop > 0] = hanging[drop > 0]
        grid[:, column] = points
    falls = falling & (degrees > gate)
    keep = np.ones((ROWS - 1, COLUMNS - 1), bool)
    mixed = falls[:-1] != falls[1:]
    keep[:, mixed] = False
    u = np.broadcast_to(np.linspace(0, 1, COLUMNS), (ROWS, COLUMNS))
    v = np.broadcast_to(1 - along[:, None], (ROWS, COLUMNS))
    edge = {"short": 0.10, "crop": 0.14, "bun": 0.05, "curly": 0.10}.get(style, 0.08)
    colour = identity.hair if identity.texture == "natural" else rng.uniform(10, 240, 3)
    texture = _strands(colour, rng, 1.0 if style == "curly" else 0.15, edge, 0.7 if style == "short" else 1.0)
    uvs = np.stack([u, v], -1).reshape(-1, 2)
    shells = [Shell(grid.reshape(-1, 3).astype(np.float32), _grid_triangles(keep), uvs, texture)]
    if style == "bun":
        shells.append(_bun(centre, distance.max(), texture, rng))
    return shells


def _bun(centre: np.ndarray, reach: float, texture: np.ndarray, rng: np.random.Generator) -> Shell:
    """A knot of hair on the back of the crown."""
    radius = float(rng.uniform(0.28, 0.38))
    tilt = np.radians(rng.uniform(-35, -5))
    middle = centre + (reach + 0.1) * np.array([0, np.cos(tilt), np.sin(tilt)]) * 0.95
    around, polar = np.meshgrid(np.linspace(0, 2 * np.pi, 33), np.linspace(0, np.pi, 17))
    way = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1)
    points = middle + way * radius * [1.0, 0.85, 1.0]
    keep = np.ones((16, 32), bool)
    uvs = np.stack([around / (2 * np.pi), 0.35 + 0.6 * polar / np.pi], -1).reshape(-1, 2)
    return Shell(points.reshape(-1, 3).astype(np.float32), _grid_triangles(keep)[:, ::-1], uvs, texture)
