"""Hair of a rendered head: shells grown from the skull, with strands in colour and opacity."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from asymtalker.synth import mesh
from asymtalker.synth.identity import Identity

COLUMNS, ROWS = 97, 41
CENTRE = np.array([0.0, 7.35, 0.05])  # of the skull at the average head, decimetres
SCALP_SHARE = 0.6  # of the rows, from the crown to the hairline; the rest hangs
# The hairline: polar angle from the crown (degrees) over the azimuth from the face's middle (degrees).
HAIRLINE_AZIMUTH = (0, 12, 22, 32, 42, 52, 60, 66, 74, 95, 108, 140, 180)
HAIRLINE_ANGLE = (62, 63, 66, 72, 79, 90, 106, 97, 86, 92, 110, 126, 130)
THICKNESS = {"short": 0.05, "crop": 0.10, "side": 0.14, "bob": 0.13, "long": 0.12, "bun": 0.06, "curly": 0.22}


@dataclass(frozen=True)
class Shell:
    """One hair surface: `vertices` (n, 3), `triangles` (t, 3), `uvs` (n, 2), `texture` (h, w, 4) uint8."""

    vertices: np.ndarray
    triangles: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray


def hairline(identity: Identity, azimuth: np.ndarray) -> np.ndarray:
    """The hairline's polar angle from the crown in degrees, for azimuths from the face's middle in degrees."""
    rng = np.random.default_rng([identity.seed, 4])
    line = np.interp(np.abs(azimuth), HAIRLINE_AZIMUTH, HAIRLINE_ANGLE) + rng.uniform(-1.5, 3)
    receding = 9 * max(identity.old - 0.3, 0) * identity.male
    line = line - receding * np.exp(-(((np.abs(azimuth) - 24) / 14) ** 2)) - 0.6 * receding * (np.abs(azimuth) < 40)
    if identity.hair_style in ("bob", "long", "side", "crop") and rng.random() < 0.4:
        line = line + rng.uniform(8, 15) * np.exp(-((azimuth / 42) ** 4))  # a fringe
    return line


def _noise(rng: np.random.Generator, across: float, along: float) -> np.ndarray:
    field = cv2.GaussianBlur(rng.standard_normal((512, 512)).astype(np.float32), (0, 0), sigmaX=across, sigmaY=along)
    return field / field.std()


def _strands(colour: np.ndarray, rng: np.random.Generator, curly: bool, edge: float) -> np.ndarray:
    """A strand texture (512, 512, 4): rows run from root (top) to tip; `edge` is the ragged length of the tips."""
    if curly:
        fine, broad = _noise(rng, 2.0, 2.6), _noise(rng, 6, 8)
    else:
        fine, broad = _noise(rng, 0.8, 45), _noise(rng, 4, 80)
        rows, columns = np.mgrid[:512, :512].astype(np.float32)
        bend = _noise(rng, 30, 60) * 5
        fine, broad = (
            cv2.remap(f, columns + bend, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP) for f in (fine, broad)
        )
    along = np.linspace(0, 1, 512)[:, None]
    shine = np.exp(-(((along - 0.36 + 0.03 * broad) / 0.10) ** 2)) * (0.15 if curly else 0.32)
    light = 0.92 + 0.20 * fine + 0.14 * broad + shine - 0.25 * np.clip((0.08 - along) / 0.08, 0, 1)
    picture = np.clip(colour * light[..., None] + 14 * shine[..., None], 0, 255)
    tips = 1 - along - edge * np.clip(0.45 + 0.20 * fine + 0.25 * broad, 0, 1.2)
    alpha = np.clip(tips / 0.025, 0, 1) * 255
    return np.dstack([picture, alpha]).astype(np.uint8)


def _skull(shape: np.ndarray) -> tuple[np.ndarray, cKDTree, np.ndarray]:
    """Centre, directions and distances of the skull's outside, ears left out."""
    body = np.unique(mesh.base_mesh().quads["body"])
    points = shape[body]
    crown = points[:, 1].max()
    centre = CENTRE + np.array([0, crown - 8.45, 0])
    ear = (np.abs(points[:, 0]) > 0.70) & (points[:, 1] < 7.6) & (points[:, 2] > -0.15) & (points[:, 2] < 0.62)
    inner = (np.hypot(points[:, 0], points[:, 2] - 0.3) < 0.5) & (points[:, 1] < 7.6)
    points = points[(points[:, 1] > 6.2) & ~ear & ~inner]
    away = points - centre
    distance = np.linalg.norm(away, axis=1)
    return centre, cKDTree(away / distance[:, None]), distance


def grow(identity: Identity) -> list[Shell]:
    """The shells of an identity's hair style; none for a bald head."""
    style = identity.hair_style
    if style == "bald":
        return []
    rng = np.random.default_rng([identity.seed, 5])
    centre, tree, distance = _skull(identity.shape)
    azimuth = np.linspace(-np.pi, np.pi, COLUMNS)
    degrees = np.abs(np.degrees(azimuth))
    along = np.linspace(0, 1, ROWS)
    hangs = degrees > float(rng.uniform(46, 56)) if style in ("bob", "long") else np.zeros(COLUMNS, bool)
    limit = np.where(
        hangs, np.minimum(hairline(identity, np.degrees(azimuth)), 82.0), hairline(identity, np.degrees(azimuth))
    )
    polar = np.radians(np.minimum(along[:, None] / SCALP_SHARE, 1) * limit)
    way = np.stack([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], -1)
    near, which = tree.query(way.reshape(-1, 3), k=6)
    weights = 1 / (near + 0.04) ** 2
    radius = ((distance[which] * weights).sum(1) / weights.sum(1)).reshape(ROWS, COLUMNS)
    lift = _volume(identity, rng, azimuth, polar, along, hangs)
    grid = centre + way * (radius + lift)[..., None]
    if hangs.any():
        _hang(grid, rng, azimuth, along, hangs, {"bob": 6.35, "long": 4.9}[style] + float(rng.uniform(-0.2, 0.25)))
    keep = np.ones((ROWS - 1, COLUMNS - 1), bool)
    below = along[1:] > SCALP_SHARE + 1e-6
    keep[below] = (hangs[:-1] & hangs[1:])[None]
    v = 1 - np.where(hangs, along[:, None], np.minimum(along[:, None] / SCALP_SHARE, 1))
    u = np.broadcast_to(np.linspace(0, 1, COLUMNS), v.shape)
    edge = {"short": 0.16, "crop": 0.14, "bun": 0.06, "curly": 0.10, "side": 0.12}.get(style, 0.10)
    colour = identity.hair if identity.texture == "natural" else rng.uniform(10, 240, 3)
    texture = _strands(colour, rng, style == "curly", edge)
    uvs = np.stack([u, v], -1).reshape(-1, 2)
    shells = [Shell(grid.reshape(-1, 3).astype(np.float32), mesh.grid_triangles(keep), uvs, texture)]
    if style == "bun":
        shells.append(_bun(centre, texture, rng))
    return shells


def _volume(
    identity: Identity,
    rng: np.random.Generator,
    azimuth: np.ndarray,
    polar: np.ndarray,
    along: np.ndarray,
    hangs: np.ndarray,
) -> np.ndarray:
    """How far the hair stands off the skull (ROWS, COLUMNS): fullest on top, thin at the hairline."""
    style = identity.hair_style
    thickness = THICKNESS[style] * float(rng.uniform(0.8, 1.3))
    parting = float(rng.choice([-1, 1])) * (0.4 if style == "side" else 0.12)
    waves = rng.uniform(0, 7, 4)
    rooted = np.clip(1.05 - np.minimum(along / SCALP_SHARE, 1), 0, 1)[:, None]
    lift = (
        thickness
        * np.where(hangs, 0.75 + 0.25 * rooted, np.clip(3.0 * rooted, 0.18, 1))
        * (1 + parting * np.sin(azimuth))
    )
    if style == "curly":
        bumps = np.sin(13 * azimuth + waves[0] + 3 * np.sin(7 * polar)) * np.sin(
            15 * polar + waves[1] + 2 * np.sin(5 * azimuth)
        )
        return lift * (1 + 0.22 * bumps)
    if style in ("short", "bun"):
        return lift
    ripple = 0.12 * np.sin(13 * azimuth + waves[2] + 2 * np.sin(3 * polar)) + 0.08 * np.sin(27 * azimuth + waves[3])
    return lift * (1 + ripple * np.sin(polar))


def _hang(
    grid: np.ndarray,
    rng: np.random.Generator,
    azimuth: np.ndarray,
    along: np.ndarray,
    hangs: np.ndarray,
    bottom: float,
) -> None:
    """Let the columns that `hangs` marks fall from the side of the head down to the height `bottom` (in place)."""
    first = int(np.searchsorted(along, SCALP_SHARE - 1e-6))
    drop = ((along[first:] - along[first]) / (1 - along[first]))[:, None]
    start = grid[first].copy()
    outward = np.stack([np.sin(azimuth), 0 * azimuth, np.cos(azimuth)], -1)
    waves = rng.uniform(0, 7, 2)
    inward = rng.uniform(-0.16, 0.10)
    flare = 0.10 * np.sin(np.pi * drop) + inward * drop**2
    wave = 0.035 * np.sin(8 * drop + waves[0] + 2 * azimuth) * drop + 0.03 * np.sin(17 * azimuth + waves[1]) * drop
    hanging = start + (flare + wave)[..., None] * outward
    hanging[..., 1] = start[:, 1] + (bottom + 0.05 * np.sin(11 * azimuth + waves[1]) - start[:, 1]) * drop
    # Hair beside the face falls a little backwards, off the cheeks.
    hanging[..., 2] -= 0.30 * drop * np.clip(np.cos(azimuth), 0, 1)
    grid[first:, hangs] = hanging[:, hangs]


def _bun(centre: np.ndarray, texture: np.ndarray, rng: np.random.Generator) -> Shell:
    """A knot of hair on the back of the crown."""
    radius = float(rng.uniform(0.28, 0.38))
    tilt = np.radians(rng.uniform(-40, -15))
    middle = centre + 1.25 * np.array([0, np.cos(tilt), np.sin(tilt)])
    around, polar = np.meshgrid(np.linspace(0, 2 * np.pi, 33), np.linspace(0, np.pi, 17))
    way = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1)
    points = middle + way * radius * [1.0, 0.85, 1.0]
    uvs = np.stack([around / (2 * np.pi), 0.35 + 0.6 * polar / np.pi], -1).reshape(-1, 2)
    return Shell(
        points.reshape(-1, 3).astype(np.float32), mesh.grid_triangles(np.ones((16, 32), bool))[:, ::-1], uvs, texture
    )
