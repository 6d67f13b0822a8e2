"""The inside of the mouth: two rows of teeth, a tongue and a dark cavity, with shading painted into their textures.

All coordinates are MakeHuman's; how light a photograph's mouth is, is applied where it is drawn.
"""

from dataclasses import dataclass

import numpy as np

from asymtalker.synth import mesh

# Widths of the teeth from the midline outward, decimetres (central incisor 8.5 mm, then average anatomy).
TOOTH_WIDTHS = {"upper": (0.086, 0.066, 0.076, 0.070, 0.067, 0.095), "lower": (0.054, 0.060, 0.068, 0.070, 0.070, 0.1)}
TEXTURE_SIZE = (512, 128)  # width, height
GUM = np.array([158, 84, 84], np.float32)
ENAMEL = np.array([232, 222, 203], np.float32)
CAVITY = np.array([58, 18, 18], np.float32)


@dataclass(frozen=True)
class Part:
    """A textured or coloured surface: `vertices` (n, 3), `triangles` (t, 3), `units` (52, n, 3), and either `uvs`
    (n, 2) into `texture` (h, w, 3) uint8 or `colours` (n, 3) uint8."""

    vertices: np.ndarray
    triangles: np.ndarray
    units: np.ndarray
    uvs: np.ndarray | None = None
    texture: np.ndarray | None = None
    colours: np.ndarray | None = None


def _tooth_texture(row: str) -> np.ndarray:
    """One row of teeth from the right cheek to the left, gums at the top (the lower row is mounted upside down)."""
    width, height = TEXTURE_SIZE
    halves = np.array(TOOTH_WIDTHS[row])
    edges = np.concatenate([-np.cumsum(halves)[::-1], [0], np.cumsum(halves)]) / halves.sum()
    x = np.linspace(-1, 1, width)
    y = np.linspace(0, 1, height)[:, None]
    tooth = np.clip(np.searchsorted(edges, x) - 1, 0, len(edges) - 2)
    centre, half = (edges[tooth] + edges[tooth + 1]) / 2, (edges[tooth + 1] - edges[tooth]) / 2
    across = np.abs(x - centre) / half  # 0 in the middle of a tooth, 1 at its neighbour
    gum_line = 0.30 + 0.10 * across**2
    biting_edge = 0.97 - 0.05 * across**6 - 0.03 * (np.abs(np.arange(len(edges) - 1) - 5.5) == 1.5)[tooth]
    enamel = (
        ENAMEL * (1 - 0.16 * across[None, :, None] ** 4) * (0.86 + 0.16 * np.clip((y - 0.3) / 0.5, 0, 1))[..., None]
    )
    gaps = np.clip((across - 0.93) / 0.07, 0, 1)[None, :, None]
    enamel = enamel * (1 - 0.45 * gaps)
    soft = np.clip((y - gum_line) / 0.03 + 0.5, 0, 1)[..., None]
    picture = GUM * (0.55 + 1.2 * y[..., None]) * (1 - soft) + enamel * soft
    below = np.clip((y - biting_edge) / 0.02 + 0.5, 0, 1)[..., None]
    picture = picture * (1 - below) + CAVITY * below
    # Cheeks and lips shade the teeth further back and nearer the gum.
    shade = (1 - 0.80 * np.abs(x) ** 1.5)[None, :, None] * (0.72 + 0.28 * y)[..., None]
    return np.clip(picture * shade, 0, 255).astype(np.uint8)


def _affine_units(part: str, points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """How `points` move with the head model's own `part`: the least-squares affine motion of each face unit."""
    base = mesh.base_mesh()
    indices = np.unique(base.quads[part])
    source = np.c_[shape[indices], np.ones(len(indices))]
    motion = np.linalg.lstsq(
        source, base.face_units[:, indices].transpose(1, 0, 2).reshape(len(indices), -1), rcond=1e-6
    )
    moved = np.c_[points, np.ones(len(points))] @ motion[0]
    return moved.reshape(len(points), 52, 3).transpose(1, 0, 2).astype(np.float32)


def _teeth(row: str, shape: np.ndarray, lip_line: np.ndarray) -> Part:
    """A curved band of teeth along the head model's own dental arch, `lip_line` (3,) being the closed lips' middle."""
    columns, rows = 33, 5
    part = f"{row}-teeth"
    reach = np.abs(shape[np.unique(mesh.base_mesh().quads[part]), 0]).max() * 0.93
    along = np.linspace(-1, 1, columns)
    angle = along * 1.28
    x = reach * np.sin(angle) / np.sin(1.28)
    depth = 0.50 * (1 - np.cos(angle)) / (1 - np.cos(1.28))
    front = lip_line[2] - (0.075 if row == "upper" else 0.105)
    sign = 1.0 if row == "upper" else -1.0
    edge = lip_line[1] + (-0.048 if row == "upper" else -0.050)
    height = 0.19 if row == "upper" else 0.17
    grid_v = np.linspace(0, 1, rows)  # 0 gum, 1 biting edge
    points = np.zeros((rows, columns, 3))
    points[..., 0] = x * (1 + 0.04 * (1 - grid_v[:, None]))
    points[..., 1] = edge + sign * height * (1 - grid_v[:, None]) + sign * 0.02 * along**2
    points[..., 2] = front - depth - 0.03 * (1 - grid_v[:, None]) ** 2
    uvs = np.stack(np.broadcast_arrays((along[None] + 1) / 2, 1 - grid_v[:, None]), -1)
    vertices = points.reshape(-1, 3).astype(np.float32)
    return Part(
        vertices=vertices,
        triangles=mesh.grid_triangles(np.ones((rows - 1, columns - 1), bool)),
        units=_affine_units(part, vertices, shape),
        uvs=uvs.reshape(-1, 2).astype(np.float32),
        texture=_tooth_texture(row),
    )


def _tongue(shape: np.ndarray, lip_line: np.ndarray) -> Part:
    """The head model's tongue, lit from the mouth's opening."""
    base = mesh.base_mesh()
    indices, inverse = np.unique(base.quads["tongue"], return_inverse=True)
    faces = mesh.triangles(inverse.reshape(base.quads["tongue"].shape))
    vertices = shape[indices].copy()
    vertices[:, 1] -= 0.03
    vertices[:, 2] -= 0.02
    normals = mesh.normals(vertices, faces, mesh.gatherer(len(vertices), faces))
    light = 0.45 + 0.55 * np.clip(normals @ np.array([0.0, 0.6, 0.8]), 0, 1)
    depth = np.clip(1 - (lip_line[2] - 0.12 - vertices[:, 2]) / 0.5, 0.15, 1)
    colours = np.array([196, 98, 98]) * (light * depth)[:, None]
    return Part(vertices, faces, base.face_units[:, indices], colours=np.clip(colours, 0, 255).astype(np.uint8))


def _cavity(shape: np.ndarray, lip_line: np.ndarray) -> Part:
    """A dark red wall behind everything, wide enough to fill the opening from any allowed angle."""
    y, x = np.meshgrid(np.linspace(0.2, -0.6, 9), np.linspace(-0.36, 0.36, 9), indexing="ij")
    z = lip_line[2] - 0.62 + 0.35 * (np.abs(x) / 0.36) ** 2
    vertices = np.stack([x, y + lip_line[1], z], -1).reshape(-1, 3).astype(np.float32)
    fade = np.clip(1 - 1.1 * np.hypot(x / 0.4, (y + 0.15) / 0.5), 0.25, 1).reshape(-1, 1)
    still = np.zeros((52, len(vertices), 3), np.float32)
    triangles = mesh.grid_triangles(np.ones((8, 8), bool))
    return Part(vertices, triangles, still, colours=(CAVITY * fade).astype(np.uint8))


def inside_parts(shape: np.ndarray, lip_line: np.ndarray) -> list[Part]:
    """Cavity, tongue, lower teeth and upper teeth for a MakeHuman shape (19158, 3) with its closed-lip middle (3,)."""
    return [
        _cavity(shape, lip_line),
        _tongue(shape, lip_line),
        _teeth("lower", shape, lip_line),
        _teeth("upper", shape, lip_line),
    ]
