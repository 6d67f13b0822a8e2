"""A rendered head's geometry: the MakeHuman skin smoothed and animated, eyes, mouth, lashes, clothes and camera.

Coordinates are MakeHuman's (decimetres, y up, z out of the face); the picture's are the unit square, y up.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from asymtalker.synth import facemesh, mesh, mouth, skin
from asymtalker.synth.identity import Identity
from asymtalker.synth.pose import HEAD_HEIGHT, Pose, rotation

GAZE_SIDE, GAZE_RISE = 32.0, 26.0  # degrees of eye rotation at weight 1
LASHES = ("l-eyelashes-1", "l-eyelashes-2", "r-eyelashes-1", "r-eyelashes-2")


@dataclass(frozen=True)
class Skin:
    """The skin's fixed topology: n `vertices` of MakeHuman's (n,), `triangles` (t, 3) and `uvs` (n, 2) among them,
    `shade` (n, 3) in [0, 1] multiplies the texture, `gather` (n, t) sums face normals per vertex."""

    vertices: np.ndarray
    triangles: np.ndarray
    uvs: np.ndarray
    shade: np.ndarray
    gather: sparse.csr_matrix


@functools.lru_cache(maxsize=1)
def skin_topology() -> Skin:
    """The part of the body a portrait shows."""
    base = mesh.base_mesh()
    quads, texture = base.quads["body"], base.quad_uvs["body"]
    middle = base.vertices[quads].mean(1)
    shown = (middle[:, 1] > 4.7) & (np.abs(middle[:, 0]) < 2.6)
    vertices, inverse = np.unique(quads[shown], return_inverse=True)
    triangles = mesh.triangles(inverse.reshape(-1, 4))
    average = mesh.macro_shape(0.5, 0.1, (0.33, 0.33, 0.34))
    places = base.uvs[texture[shown]].mean(1)
    inner = (places[:, 0] > 0.74) & (places[:, 1] < 0.145)  # the mouth's inside is an island of its own
    inside = np.zeros(len(base.vertices), np.float32)
    inside[np.unique(quads[shown][inner])] = 1
    inside[np.unique(quads[shown][~inner])] = 0
    depth = np.clip((average[vertices, 2] - 0.75) / 0.65, 0.12, 1)[:, None]
    mixed = inside[vertices][:, None]
    shade = 1 - mixed + mixed * depth * [0.40, 0.17, 0.17]
    uvs = skin.wrap(average[vertices]).astype(np.float32)
    return Skin(vertices, triangles, uvs, shade.astype(np.float32), mesh.gatherer(len(vertices), triangles))


def occlusion(points: np.ndarray, facing: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """A guess (n, 3) of how much light reaches each point: less in hollows and under the chin, of red the least less,
    as it scatters furthest in skin."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    way = points[edges[:, 1]] - points[edges[:, 0]]
    rise = np.einsum("nk,nk->n", way, facing[edges[:, 0]]) / np.maximum(np.linalg.norm(way, axis=1), 1e-6)
    count = np.maximum(np.bincount(edges[:, 0], minlength=len(points)), 1)
    hollow = np.bincount(edges[:, 0], rise, len(points)) / count
    for _ in range(2):
        hollow = 0.5 * hollow + 0.5 * np.bincount(edges[:, 0], hollow[edges[:, 1]], len(points)) / count
    light = 1 - 1.5 * np.clip(hollow, 0, 0.3)
    under = (
        np.clip(-facing[:, 1], 0, 1)
        * np.clip((points[:, 1] - 5.6) / 0.4, 0, 1)
        * np.clip((6.75 - points[:, 1]) / 0.3, 0, 1)
    )
    reaching = light * (1 - 0.35 * under)
    return np.stack([reaching**0.65, reaching**1.05, reaching**1.15], 1).astype(np.float32)


def tuck_ears(shape: np.ndarray) -> np.ndarray:
    """A shape (19158, 3) with its ears pressed to the skull, as hair that hangs over them needs."""
    average = mesh.macro_shape(0.5, 0.1, (0.33, 0.33, 0.34))
    box = (average[:, 1] > 6.6) & (average[:, 1] < 7.6) & (average[:, 2] > -0.2) & (average[:, 2] < 0.62)
    skull = (np.abs(average[:, 0]) > 0.70) & (np.abs(average[:, 0]) < 0.76) & box
    ear = (np.abs(average[:, 0]) >= 0.76) & box & (np.arange(len(shape)) < 13380)
    limit = np.abs(shape[skull & (np.arange(len(shape)) < 13380), 0]).mean()
    tucked = shape.copy()
    tucked[ear, 0] = np.sign(shape[ear, 0]) * (limit + 0.15 * (np.abs(shape[ear, 0]) - limit))
    return tucked


def head_share(points: np.ndarray) -> np.ndarray:
    """How far points (n, 3) at rest move with the head (n, 1): 1 above jaw and nape, 0 from the shoulders down."""
    t = np.clip((points[:, 1] + 0.35 * points[:, 2] - 5.75) / 0.75, 0, 1)
    return (t * t * (3 - 2 * t))[:, None].astype(np.float32)


class HeadMotion:
    """Moves points with the head of one identity."""

    def __init__(self, shape: np.ndarray):
        eyes = shape[np.unique(mesh.base_mesh().quads["l-eye"])].mean(0)
        self.pivot = np.array([0.0, eyes[1] - 1.0, eyes[2] - 1.1], dtype=np.float32)  # the top of the neck

    def __call__(self, points: np.ndarray, share: np.ndarray | float, pose: Pose) -> np.ndarray:
        turn = rotation(pose.yaw, pose.pitch, pose.roll)
        shift = np.array([pose.x, pose.y, pose.z], np.float32) * HEAD_HEIGHT
        moved = (points - self.pivot) @ turn.T + self.pivot + shift
        return points + share * (moved - points)


@dataclass(frozen=True)
class Camera:
    """A perspective camera: `position`, orthonormal `axes` (rows right, up, back), `half` tangent of half its view."""

    position: np.ndarray
    axes: np.ndarray
    half: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Places (n, 2) in the unit square of points (n, 3)."""
        seen = (points - self.position) @ self.axes.T
        return 0.5 + seen[:, :2] / (-seen[:, 2:] * 2 * self.half)


def aim(identity: Identity, face_points: np.ndarray) -> Camera:
    """The camera that puts the face box where the identity's `framing` says; `face_points` (n, 3) the dense mesh."""
    yaw, pitch = identity.camera_turn
    axes = rotation(yaw, -pitch, 0).T
    brows_to_chin = face_points[[facemesh.CHIN, *facemesh.BROWS]]
    centre = np.array([0, (brows_to_chin[:, 1].min() + brows_to_chin[:, 1].max()) / 2, face_points[:, 2].mean()])
    position = centre + axes[2] * identity.camera_distance
    x, y, side = identity.framing
    half = 0.1
    for _ in range(4):
        seen = Camera(position, axes, half).project(face_points[:468])
        box = seen[:, 0].min(), seen[:, 0].max(), seen[facemesh.CHIN, 1], seen[list(facemesh.BROWS), 1].max()
        half *= ((box[1] - box[0]) + (box[3] - box[2])) / 2 / side
        away = np.array([(box[0] + box[1]) / 2 - x, (box[2] + box[3]) / 2 - (1 - y)])
        position = position + (away * 2 * half * identity.camera_distance) @ axes[:2]
    return Camera(position, axes, half)


class Eye:
    """An eyeball as the front of a sphere that turns with the gaze."""

    def __init__(self, shape: np.ndarray, side: str):
        points = shape[np.unique(mesh.base_mesh().quads[f"{side[0]}-eye"])]
        self.name = side.capitalize()
        self.centre = (points.min(0) + points.max(0)) / 2 * [1, 1, 0] + [0, 0, points[:, 2].max()]
        self.radius = float((points[:, 0].max() - points[:, 0].min()) / 2)
        self.centre[2] -= self.radius
        rings, spokes = 14, 28
        polar = np.linspace(0, 1.75, rings + 1)[1:]
        around = np.linspace(0, 2 * np.pi, spokes, endpoint=False)
        way = np.stack(
            [
                np.outer(np.sin(polar), np.cos(around)),
                np.outer(np.sin(polar), np.sin(around)),
                np.outer(np.cos(polar), np.ones(spokes)),
            ],
            -1,
        ).reshape(-1, 3)
        self.way = np.concatenate([[[0, 0, 1.0]], way])
        first = [[0, 1 + k, 1 + (k + 1) % spokes] for k in range(spokes)]
        rest = []
        for r in range(rings - 1):
            for k in range(spokes):
                a, b = 1 + r * spokes + k, 1 + r * spokes + (k + 1) % spokes
                rest += [[a, a + spokes, b + spokes], [a, b + spokes, b]]
        self.triangles = np.array(first + rest)
        spread = np.minimum(np.linalg.norm(self.way[:, :2], axis=1, keepdims=True), 1)
        flat = self.way[:, :2] * np.where(self.way[:, 2:] < 0, 1 / np.maximum(spread, 1e-6), 1)
        self.uvs = 0.5 + 0.49 * flat

    def points(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and normals (n, 3) for a gaze."""
        out, into, up, down = (weights[mesh.INDEX[f"eyeLook{way}{self.name}"]] for way in ("Out", "In", "Up", "Down"))
        to_left = (out - into) if self.name == "Left" else (into - out)
        turn = rotation(GAZE_SIDE * float(to_left), GAZE_RISE * float(up - down), 0)
        facing = self.way @ turn.T
        return self.centre + self.radius * facing, facing


def fit_blink(identity: Identity) -> np.ndarray:
    """Factors (52,) on the face units: a blink closes this identity's eyes, whatever their opening."""
    factors = np.ones(52, np.float32)
    face = facemesh.face_mesh()
    points = face.on_head(identity.shape)
    for side in ("right", "left"):
        upper, lower = face.chains[f"{side}_upper_lid"][8], face.chains[f"{side}_lower_lid"][8]
        unit = mesh.INDEX["eyeBlink" + side.capitalize()]
        closing = -(face.units[unit, upper] - face.units[unit, lower])[1]
        factors[unit] = np.clip((points[upper] - points[lower])[1] / max(closing, 1e-3), 0.8, 1.7)
    return factors


def mouth_parts(shape: np.ndarray) -> list[mouth.Part]:
    """The inside of an identity's mouth."""
    points = facemesh.face_mesh().on_head(shape)
    lips = points[[facemesh.UPPER_LIP_MIDDLE, facemesh.LOWER_LIP_MIDDLE]].mean(0)
    return mouth.inside_parts(shape, lips)[1:]  # the skin's own mouth is the cavity
