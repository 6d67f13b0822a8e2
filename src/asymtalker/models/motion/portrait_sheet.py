"""Lay a sheet on a portrait: from the points of its face mesh to the layers of :mod:`asymtalker.models.motion.sheet`.

Arrays of the mesh's vertices or of cells hold a depth and, behind it, the modes: ``1 + 3 K`` numbers, displacements in
pixels along the frame's axes.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asymtalker.media.face_mesh import LEFT_IRIS, LOWER_LIP, RIGHT_IRIS, UPPER_LIP
from asymtalker.models.motion.basis import Pose
from asymtalker.models.motion.sheet import Layer, Opening, Sheet

CELLS = 160  # of the grid, along a side, at most
SMOOTH = 0.1  # head units over which depths are averaged
NEAR, REACH = 0.6, 1.8  # head units around the face's outline that go with it wholly, and at all
FADE = 1.2  # head units around the outline over which expressions fade
BORDER = 0.6  # head units beside the picture's border within which less goes with the head, and on it nothing
FINE = 8  # steps along a side of the outline
NECK = 0.5, 1.3  # head units below the face's middle where the body begins, and over which it does
AROUND = {"mouth": 0.55, "eye": 0.33}  # head units around an opening that its box shows
DIFFERENT = 0.85  # share of that where the parts above and below it differ
CORNER = 5.0  # how much sooner a part's continuation ends beside a corner than beyond the line
PARTED = 0.03  # head units between lips that show what is inside
DARK = 0.25  # brightness of what is inside a mouth that the portrait shows closed, of its lips'


@dataclass(frozen=True)
class Topology:
    """The dense mesh over MediaPipe's 468 points, with holes at eyes and mouth.

    Attributes:
        parents, weights: ``(V, 4)``: a vertex is a weighted mean of points.
        triangles: ``(T, 3)``.
        chains: vertices along lids, lips and the face's oval, from the picture's left to its right (of the left eye
            from its right to its left).
    """

    parents: np.ndarray
    weights: np.ndarray
    triangles: np.ndarray
    chains: dict[str, np.ndarray]

    def dense(self, points: np.ndarray) -> np.ndarray:
        """Vertices ``(V, ...)`` from points ``(468 or 478, ...)``."""
        return np.einsum("vk,vk...->v...", self.weights, points[self.parents])


def read_table() -> dict[str, np.ndarray]:
    """All arrays of the dense mesh's file."""
    place = resources.files("asymtalker").joinpath("assets", "face_mesh", "dense.npz")
    with place.open("rb") as file, np.load(file) as table:
        return {name: table[name] for name in table.files}


@cache
def topology() -> Topology:
    """The table, read once per process."""
    arrays = read_table()
    chains = {n: a.astype(np.int64) for n, a in arrays.items() if n == "oval" or n.endswith(("lid", "inner", "outer"))}
    weights = arrays["parent_weights"].astype(np.float32)
    return Topology(
        arrays["parents"].astype(np.int64),
        weights / weights.sum(1, keepdims=True),
        arrays["triangles"].astype(np.int64),
        chains,
    )


OPENINGS = (
    ("mouth", "upper_inner", "lower_inner", None),
    ("eye", "right_upper_lid", "right_lower_lid", RIGHT_IRIS),
    ("eye", "left_upper_lid", "left_lower_lid", LEFT_IRIS),
)
"""Kind, the chains above and below it, and the point that what is inside goes with."""


@dataclass(frozen=True)
class Grid:
    """Cells of ``cell`` pixels over the part of a frame that a sheet covers, from pixel ``left``, ``top`` on."""

    cell: int
    left: int
    top: int
    columns: int
    rows: int

    @classmethod
    def around(cls, ring: np.ndarray, unit: float, size: tuple[int, int]) -> "Grid":
        """That over a face's outline ``(n, 2)`` and all that goes with it, within a frame of ``size``."""
        low, high = ring.min(0) - REACH * unit, ring.max(0) + REACH * unit
        low, high = np.maximum(np.floor(low), 0), np.minimum(np.ceil(high), size[::-1])
        cell = max(1, int(np.ceil((high - low).max() / CELLS)))
        columns, rows = np.ceil((high - low) / cell).astype(int).tolist()
        return cls(cell, int(low[0]), int(low[1]), columns, rows)

    def middles(self, step: int | None = None) -> np.ndarray:
        """Pixel coordinates ``(rows, columns, 2)`` of the cells' middles or, with ``step`` 1, of the pixels'."""
        step = step or self.cell
        columns, rows = self.columns * self.cell // step, self.rows * self.cell // step
        xs = self.left + (np.arange(columns, dtype=np.float32) + 0.5) * step
        ys = self.top + (np.arange(rows, dtype=np.float32) + 0.5) * step
        return np.stack(np.meshgrid(xs, ys), -1)

    def box(self, low: np.ndarray, high: np.ndarray) -> "Grid":
        """The cells of it that cover pixels from ``low`` to ``high`` (x, y), one at least."""
        most = np.array([self.columns, self.rows])
        first = np.clip((low - [self.left, self.top]) // self.cell, 0, most - 1).astype(int)
        last = np.clip(np.ceil((high - [self.left, self.top]) / self.cell), first + 1, most).astype(int)
        columns, rows = (last - first).tolist()
        left, top = (np.array([self.left, self.top]) + first * self.cell).tolist()
        return Grid(self.cell, left, top, columns, rows)

    def at(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Of its cells' values ``(rows, columns, D)`` those at pixels ``(h, w, 2)``; beyond its edge that goes on."""
        where = (places - [self.left, self.top]) * (2 / (self.cell * np.array([self.columns, self.rows]))) - 1
        cells = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32))[None]
        target = torch.from_numpy(where.astype(np.float32))[None]
        found = F.grid_sample(cells, target, padding_mode="border", align_corners=False)
        return found[0].numpy().transpose(1, 2, 0)

    def within(self, other: "Grid") -> tuple[slice, slice]:
        """Its rows and columns in ``other``."""
        row, column = (self.top - other.top) // self.cell, (self.left - other.left) // self.cell
        return slice(row, row + self.rows), slice(column, column + self.columns)


def build_sheet(
    points: np.ndarray, pose: Pose, modes: np.ndarray, size: tuple[int, int], picture: np.ndarray
) -> Sheet:
    """The sheet of a portrait.

    Args:
        points: ``(478, 3)`` of its face mesh, in pixels.
        pose: of its head.
        modes: ``(478, 3, K)`` displacements of the points, in head units, in the head's own frame.
        size: height and width of the portrait in pixels.
        picture: the portrait, for the colour of a closed mouth's inside.
    """
    mesh, unit, rotation = topology(), float(pose.scale), pose.rotation.numpy()
    points = points.astype(np.float32)
    in_frame = unit * np.einsum("ij,njk->nik", rotation, modes.astype(np.float32))
    across = rotation[:2, 0] / np.linalg.norm(rotation[:2, 0])  # the head's x axis in the picture
    upright = np.stack([across, [-across[1], across[0]]], 1)
    dense = mesh.dense(points)
    for _, above, below, _ in OPENINGS:
        _uncross(dense, mesh.chains[above], mesh.chains[below], upright[:, 1])
    values = np.concatenate([smooth_depth(dense, SMOOTH * unit)[:, None], _flat(mesh.dense(in_frame))], 1)
    ring = mesh.chains["oval"]
    grid = Grid.around(dense[ring, :2], unit, size)
    middles = grid.middles()
    strips = [_strip(mesh.chains[above], mesh.chains[below]) for _, above, below, _ in OPENINGS]
    field, inside = _rasterize(middles, dense[:, :2], np.concatenate([mesh.triangles, *strips]), values)
    skin = _rasterize(middles, dense[:, :2], mesh.triangles, values[:, :1])[1]
    weight = np.ones(middles.shape[:2], np.float32)
    follow, weight[~inside], distance = surroundings(middles[~inside], dense[ring, :2], unit, rotation[:2, 1])
    weight[~inside] *= _share_off_border(middles[~inside], dense[ring, :2], BORDER * unit, size)
    field[~inside, 1:] = follow @ values[ring, 1:]
    share = follow.sum(1, keepdims=True)
    along = np.divide(follow, share, out=np.full_like(follow, 1 / len(ring)), where=share > 0)
    field[~inside, 0] = along @ values[ring, 0] + 0.35 * np.minimum(distance, 0.3 * unit)

    above, openings = field.copy(), []
    for kind, upper, lower, iris in OPENINGS:
        chains = mesh.chains[upper], mesh.chains[lower]
        lines = [_Line.of(dense[chain, :2] @ upright, values[chain]) for chain in chains]
        box = grid.box(*_limits(lines, AROUND[kind] * unit, upright))
        reach, part = DIFFERENT * AROUND[kind] * unit, box.within(grid)
        local = middles[part] @ upright
        levels = [line.level(local) @ upright.T for line in lines]
        beside = [box.at(own[part], level) for own, level in zip((above, field), levels, strict=True)]
        above[part] = lines[0].continued(local, above[part], beside[0], reach, 1)  # boxes overlap
        below = lines[1].continued(local, field[part], beside[1], reach, -1)
        within = np.concatenate([points[iris, 2:], _flat(in_frame[iris][None])[0]]) if iris else _teeth(lines)
        openings.append(
            Opening(
                _layer(grid, box, below, weight),
                _layer(grid, box, np.broadcast_to(within, below.shape), weight),
                _covers(lines, box.middles(1) @ upright, reach, bool(iris) or shows_teeth(points, unit)),
                None if iris else _lip_colour(picture, points),
            )
        )
    whole = _layer(grid, grid, above, weight)
    tracked = _layer(grid, grid, field, weight).modes
    return Sheet(*vars(grid).values(), whole, tuple(openings), torch.from_numpy(skin), tracked)


def surroundings(
    places: np.ndarray, ring: np.ndarray, unit: float, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How places around a face go with it.

    Args:
        places: ``(g, 2)`` outside its outline.
        ring: the outline ``(n, 2)``.
        unit: a head unit, in the unit of the places.
        down: ``(2,)`` from crown to chin.

    Returns:
        ``follow`` ``(g, n)``, how displacements of the outline spread to the places; their ``weight`` ``(g,)``, how
        far they go with the head: less the farther away they are, and little where the body is; and their distance.
    """
    apart = np.hypot(places[:, :1] - ring[:, 0], places[:, 1:] - ring[:, 1])
    distance = apart.min(1)
    near = 1 / (apart + np.float32(0.02 * unit)) ** 3
    follow = near / near.sum(1, keepdims=True) * np.clip(1 - distance / (FADE * unit), 0, 1)[:, None] ** 2
    below = np.clip(((places - ring.mean(0)) @ down / unit - NECK[0]) / NECK[1], 0, 1)
    away = np.clip((distance / unit - NEAR) / (REACH - NEAR), 0, 1)
    return follow.astype(np.float32), (1 - _ease(below)) * (1 - _ease(away)), distance


def _share_off_border(places: np.ndarray, ring: np.ndarray, band: float, size: tuple[int, int]) -> np.ndarray:
    """0 to 1 for places ``(g, 2)`` from the border of a picture of ``size`` to a ``band`` beside it, or to the face's
    outline ``ring`` ``(n, 2)``: nothing is known of what lies beyond a border, so hair and walls that it cuts are
    drawn out there, not moved."""
    off = np.minimum(places, size[::-1] - places).min(-1).clip(0)  # of a last cell the middle may lie outside
    share, near = np.ones(len(places), np.float32), off < band
    between = np.linspace(0, 1, FINE, endpoint=False)[:, None, None]  # of its corners alone strands would be scalloped
    line = (ring + between * (np.roll(ring, -1, 0) - ring)).reshape(-1, 2)
    apart = np.hypot(places[near, :1] - line[:, 0], places[near, 1:] - line[:, 1]).min(1)
    share[near] = off[near] / np.clip(off[near] + apart, 1e-6, band)
    return _ease(np.minimum(share, 1))


def smooth_depth(dense: np.ndarray, reach: float) -> np.ndarray:
    """Depths ``(n,)`` of vertices ``(n, 3)`` averaged over neighbours in the picture. Where the face turns away from
    the camera, points at one place of the picture would otherwise move differently with the head and fold its outline.
    """
    square = (dense[:, :2] ** 2).sum(1)
    apart = square[:, None] + square - 2 * dense[:, :2] @ dense[:, :2].T
    weights = np.exp(-apart / np.float32(reach**2))
    return weights @ dense[:, 2] / weights.sum(1)


@dataclass(frozen=True)
class _Line:
    """A line across the face, such as the upper lip's edge: ``x`` rising, ``y``, and values ``(n, 1 + 3 K)``."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, values: np.ndarray) -> "_Line":
        order = np.argsort(points[:, 0])
        return cls(points[order, 0], points[order, 1], values[order])

    def past(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How far places lie below the line, which goes on level at its ends, how far beside it, and their ``x`` on
        it."""
        at = np.clip(places[..., 0], self.x[0], self.x[-1])
        return places[..., 1] - np.interp(at, self.x, self.y), np.abs(places[..., 0] - at), at

    def level(self, places: np.ndarray) -> np.ndarray:
        """Where places above or below the line, or what goes on level at its ends, would lie on it."""
        return places - self.past(places)[0][..., None] * [0, 1]

    def continued(self, places: np.ndarray, own: np.ndarray, level: np.ndarray, reach: float, side: int) -> np.ndarray:
        """Values of the part on one side of the line (1: above): its ``own`` there, and beyond the line those of the
        line, until after ``reach`` they are the cells' own again. Beside the line, which is a corner's cheek, both
        parts are one: what goes on there are the values ``level`` that the cells have at :meth:`level`."""
        past, beside, at = self.past(places)
        share = _ease(np.clip((np.maximum(side * past, 0) + CORNER * beside) / reach, 0, 1))[..., None]
        along = np.stack([np.interp(at, self.x, column) for column in self.values.T], -1)
        along = np.where((beside > 0)[..., None], level, along)
        return np.where((side * past > 0)[..., None], along + share * (own - along), own).astype(np.float32)


def shows_teeth(points: np.ndarray, unit: float) -> bool:
    """Whether a mouth's points ``(478, 3)``, in pixels, are so far apart that a portrait shows what is inside."""
    down = points[152, :2] - points[10, :2]
    return bool((points[LOWER_LIP, :2] - points[UPPER_LIP, :2]) @ down / np.linalg.norm(down) > PARTED * unit)


def _uncross(dense: np.ndarray, upper: np.ndarray, lower: np.ndarray, down: np.ndarray) -> None:
    """Vertices ``(V, 3)`` of a shut mouth or eye, whose lower line a face mesh often reads above its upper one: the
    skin would be folded there and its pixels come from anywhere. They meet halfway."""
    over = np.maximum((dense[upper, :2] - dense[lower, :2]) @ down, 0)[:, None] / 2 * down
    dense[upper, :2] -= over
    dense[lower, :2] += over


def _covers(lines: list[_Line], places: np.ndarray, reach: float, seen: bool) -> Tensor:
    """Who owns pixels: ``(3, H, W)``, see :class:`asymtalker.models.motion.sheet.Opening`; without ``seen`` what lies
    between the lines goes with the part below."""
    (past, beside, _), (lower, _, _) = (line.past(places) for line in lines)
    above = np.where(np.hypot(np.maximum(past, 0), beside) > reach, 1, np.clip(0.5 - past, 0, 1))
    below = np.clip(0.5 + (lower if seen else np.maximum(lower, past)), 0, 1)
    between = np.clip(1 + np.minimum(past, -lower), 0, 1) * (beside == 0) * seen  # wholly to its edges
    return torch.from_numpy(np.stack([above, below, between]).astype(np.float32))


def _limits(lines: list[_Line], around: float, upright: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box in the picture around an opening: its least and greatest x, y."""
    xs = min(line.x[0] for line in lines) - around, max(line.x[-1] for line in lines) + around
    ys = lines[0].y.min() - around, lines[1].y.max() + around
    corners = np.array([(x, y) for x in xs for y in ys]) @ upright.T
    return corners.min(0), corners.max(0)


def _teeth(lines: list[_Line]) -> np.ndarray:
    """Depth and modes of upper teeth, which go with the head alone."""
    depth = np.mean([line.values[:, 0].mean() for line in lines])
    return np.concatenate([[depth], np.zeros(lines[0].values.shape[1] - 1)])


def _lip_colour(picture: np.ndarray, points: np.ndarray) -> Tensor:
    lips = points[[UPPER_LIP, LOWER_LIP, 0, 17], :2].astype(int).clip(0, np.array(picture.shape[1::-1]) - 1)
    return torch.from_numpy(DARK * picture[lips[:, 1], lips[:, 0]].astype(np.float32).mean(0) / 127.5 - 1)


def _layer(grid: Grid, box: Grid, field: np.ndarray, weight: np.ndarray) -> Layer:
    part = box.within(grid)
    place = np.concatenate([box.middles(), field[..., :1]], -1).transpose(2, 0, 1)
    modes = field[..., 1:].reshape(box.rows * box.columns, 3, -1).transpose(1, 0, 2)
    return Layer(
        (part[1].start, part[0].start),
        torch.from_numpy(np.ascontiguousarray(place, np.float32)),
        torch.from_numpy(weight[part][None].copy()),
        torch.from_numpy(np.ascontiguousarray(modes, np.float32)).flatten(0, 1),
    )


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _ease(x: np.ndarray) -> np.ndarray:
    return x * x * (3 - 2 * x)


def _strip(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Triangles that fill the hole between two chains."""
    a, b, c, d = upper[:-1], upper[1:], lower[:-1], lower[1:]
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])


def _rasterize(
    middles: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``values`` ``(V, D)`` of a mesh at the middles of cells: ``(rows, columns, D)``, and which of them it covers."""
    rows, columns = middles.shape[:2]
    corner = (vertices[triangles] - middles[0, 0]) / (middles[0, 1, 0] - middles[0, 0, 0])  # in cells
    low, high = np.ceil(corner.min(1) - 1e-6).astype(int), np.floor(corner.max(1) + 1e-6).astype(int)
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    found = []
    width, height = (high - low + 1).clip(0).max(0).tolist()
    for dy in range(height):
        for dx in range(width):
            x, y = low[:, 0] + dx, low[:, 1] + dy
            inside = (x >= 0) & (y >= 0) & (x < columns) & (y < rows) & (x <= high[:, 0]) & (y <= high[:, 1])
            k = np.flatnonzero(inside & (np.abs(area) > 1e-9))
            px, py = x[k], y[k]
            v = ((px - a[k, 0]) * (c[k, 1] - a[k, 1]) - (c[k, 0] - a[k, 0]) * (py - a[k, 1])) / area[k]
            w = ((b[k, 0] - a[k, 0]) * (py - a[k, 1]) - (px - a[k, 0]) * (b[k, 1] - a[k, 1])) / area[k]
            hit = (v >= -1e-6) & (w >= -1e-6) & (v + w <= 1 + 1e-6)
            found.append(
                (py[hit], px[hit], triangles[k[hit]], np.stack([1 - v - w, v, w], -1)[hit].astype(np.float32))
            )
    py, px, corners, share = (np.concatenate(parts) for parts in zip(*found, strict=True))
    out, covered = np.zeros((rows, columns, values.shape[1]), np.float32), np.zeros((rows, columns), bool)
    out[py, px] = sum(share[:, i : i + 1] * values[corners[:, i]] for i in range(3))
    covered[py, px] = True
    return out, covered
