"""A portrait as a sheet that a head's pose and expression move: where every pixel of a frame comes from.

Each cell of a grid over the face and what is around it has a place in space, modes by which expressions displace it, and
a weight that says how far it goes with the head: 1 on the face, fading through hair and neck to rest. So the motion
of a cell is arithmetic, the same for every frame; the way back, from a frame's pixel to the portrait's, is found by
fixed-point iteration. Skin is torn along the lips and the lids: the part above such a line and the part below it are
layers of their own, each continued smoothly beyond the line, with what is inside (eyeball, teeth) behind them.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asymtalker.models.motion import Pose

CELLS = 160  # of the grid, along a side, at most
REACH = 1.8  # head units around the face's outline that go with it, ever less
NEAR = 0.6  # head units around the outline that go with it wholly
ITERATIONS = 6
SMOOTH = 0.1  # head units over which depths are averaged
CORNER = 5.0  # how much sooner a part's continuation ends beside a corner than below the line
RIGHT_IRIS, LEFT_IRIS = 468, 473


@dataclass(frozen=True)
class Topology:
    """The dense mesh over MediaPipe's 468 points, with holes at eyes and mouth.

    Attributes:
        parents, weights: ``(V, 4)``: a vertex is a weighted mean of points.
        triangles: ``(T, 3)``.
        chains: vertices along lids, lips and the face's oval, from the picture's left to its right.
    """

    parents: np.ndarray
    weights: np.ndarray
    triangles: np.ndarray
    chains: dict[str, np.ndarray]

    def dense(self, points: np.ndarray) -> np.ndarray:
        """Vertices ``(V, ...)`` from points ``(468 or 478, ...)``."""
        return np.einsum("vk,vk...->v...", self.weights, points[self.parents])


@cache
def topology() -> Topology:
    """The table, read once per process."""
    with resources.files("asymtalker.synth").joinpath("facemesh.npz").open("rb") as file, np.load(file) as table:
        arrays = {name: table[name] for name in table.files}
    chains = {n: a.astype(np.int64) for n, a in arrays.items() if n == "oval" or n.endswith(("lid", "inner", "outer"))}
    weights = arrays["parent_weights"].astype(np.float64)
    return Topology(
        arrays["parents"].astype(np.int64),
        (weights / weights.sum(1, keepdims=True)).astype(np.float32),
        arrays["triangles"].astype(np.int64),
        chains,
    )


OPENINGS = ("upper_inner", "lower_inner"), ("right_upper_lid", "right_lower_lid"), ("left_upper_lid", "left_lower_lid")


@dataclass(frozen=True)
class Layer:
    """One continuous piece of the sheet, on the cells of a box of the grid.

    Attributes:
        corner: column and row of its first cell.
        place: ``(3, h, w)`` in pixels of the frame, x, y and depth.
        weight: ``(1, h, w)``: how far a cell goes with the head.
        modes: ``(3 * h * w, K)``: displacement by each expression, in pixels, along the frame's axes.
    """

    corner: tuple[int, int]
    place: Tensor
    weight: Tensor
    modes: Tensor

    def displacement(self, turn: Tensor, shift: Tensor, expression: Tensor) -> Tensor:
        """``(B, 2, h, w)`` in pixels, for points that go to ``turn @ point + shift`` (``(B, 3, 3)``, ``(B, 3)``) after
        an expression ``(B, K)``."""
        _, height, width = self.place.shape
        moved = (self.modes @ expression.T).T.reshape(-1, 3, height, width)
        points = self.place + moved
        goes = torch.einsum("bij,bjhw->bihw", turn, points) + shift[:, :, None, None]
        return (moved + self.weight * (goes - points))[:, :2]


@dataclass(frozen=True)
class Opening:
    """The mouth or an eye: what lies below its line, what is inside, and who owns a pixel.

    Attributes:
        below, inside: layers of its box of the grid.
        covers: ``(3, H, W)`` in [0, 1] over the box's pixels: owned by the part above, by the part below, open.
        fill: ``(3,)`` colour of what is inside where the portrait does not show it; ``None`` shows the portrait.
    """

    below: Layer
    inside: Layer
    covers: Tensor
    fill: Tensor | None


@dataclass(frozen=True)
class Sheet:
    """See the module's docstring.

    Attributes:
        cell: pixels on a side of a cell.
        left, top, columns, rows: the grid in the frame: first pixel and number of cells.
        above: the layer of all cells.
        openings: mouth, right and left eye.
        pose: of the portrait.
        skin: ``(rows, columns)`` bool: cells of the face, without eyes and mouth.
        tracked: ``(3 * rows * columns, K)``: the modes as they are there.
    """

    cell: int
    left: int
    top: int
    columns: int
    rows: int
    above: Layer
    openings: tuple[Opening, ...]
    pose: Pose
    skin: Tensor
    tracked: Tensor


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
    mesh, unit = topology(), float(pose.scale)
    rotation, points, modes = pose.rotation.numpy(), points.astype(np.float32), modes.astype(np.float32)
    in_frame = unit * np.einsum("ij,njk->nik", rotation, modes)  # (478, 3, K) pixels, along the frame's axes
    dense, dense_modes = mesh.dense(points), mesh.dense(in_frame)
    # Where the face turns away, neighbours in the picture would otherwise move apart and fold its outline.
    square = (dense[:, :2] ** 2).sum(1)
    apart = square[:, None] + square - 2 * dense[:, :2] @ dense[:, :2].T
    blur = np.exp(-apart / np.float32((SMOOTH * unit) ** 2))
    dense[:, 2] = blur @ dense[:, 2] / blur.sum(1)
    oval = mesh.chains["oval"]
    ring = dense[oval]
    low, high = ring[:, :2].min(0) - REACH * unit, ring[:, :2].max(0) + REACH * unit
    low, high = np.maximum(np.floor(low), 0), np.minimum(np.ceil(high), size[::-1])
    cell = max(1, int(np.ceil((high - low).max() / CELLS)))
    left, top = (int(v) for v in low)
    columns, rows = (int(v) for v in np.ceil((high - low) / cell))
    xs = left + (np.arange(columns, dtype=np.float32) + 0.5) * cell
    ys = top + (np.arange(rows, dtype=np.float32) + 0.5) * cell
    grid = np.stack(np.meshgrid(xs, ys), -1)  # (rows, columns, 2) pixel coordinates of the cells' middles

    values = np.concatenate([dense[:, 2:], dense_modes.reshape(len(dense), -1)], 1)
    strips = [_strip(mesh.chains[a], mesh.chains[b]) for a, b in OPENINGS]
    triangles = np.concatenate([mesh.triangles, *strips])
    field, inside = _rasterize(grid, dense[:, :2], triangles, values)
    skin = _rasterize(grid, dense[:, :2], mesh.triangles, values[:, :1])[1]
    outside = ~inside
    away = grid[outside]
    apart = np.hypot(away[:, :1] - ring[:, 0], away[:, 1:] - ring[:, 1])  # (g, 72)
    near = 1 / (apart + np.float32(0.02 * unit)) ** 3
    near /= near.sum(1, keepdims=True)
    distance = apart.min(1)
    fade = np.clip(1 - distance / (1.1 * unit), 0, 1) ** 2
    depth = near @ ring[:, 2] + 0.35 * np.minimum(distance, 0.3 * unit)
    field[outside, 0] = depth
    field[outside, 1:] = fade[:, None] * (near @ values[oval, 1:])
    weight = np.ones(grid.shape[:2], np.float32)
    up = -rotation[:, 1]  # of the head, in the frame
    below = np.clip(((grid[outside] - ring[:, :2].mean(0)) @ -up[:2] / unit - 0.5) / 1.3, 0, 1)
    away = np.clip((distance / unit - NEAR) / (REACH - NEAR), 0, 1)
    weight[outside] = (1 - _smooth(below)) * (1 - _smooth(away))

    count = modes.shape[-1]

    def layer(box: tuple[slice, slice], field: np.ndarray) -> Layer:
        place = np.concatenate([grid[box], field[..., :1]], -1)
        return Layer(
            (box[1].start, box[0].start),
            torch.from_numpy(place.transpose(2, 0, 1).astype(np.float32)),
            torch.from_numpy(weight[box][None].astype(np.float32)),
            torch.from_numpy(
                np.ascontiguousarray(
                    field[..., 1:].reshape(*field.shape[:2], 3, count).transpose(2, 0, 1, 3), np.float32
                ).reshape(-1, count)
            ),
        )

    across = rotation[:2, 0] / np.linalg.norm(rotation[:2, 0])  # the head's x axis in the picture
    down = np.array([-across[1], across[0]])
    openings, above = [], field
    for (upper, lower), iris in zip(OPENINGS, (None, RIGHT_IRIS, LEFT_IRIS), strict=True):
        chains = [mesh.chains[upper], mesh.chains[lower]]
        lines = [np.stack([dense[c, :2] @ across, dense[c, :2] @ down], -1) for c in chains]
        around = (0.55 if iris is None else 0.33) * unit  # of the opening, that its box shows
        reach = 0.85 * around  # how far the parts differ
        ends = np.array([line[[0, -1], 0] for line in lines])
        low, high = ends.min(), ends.max()
        top_edge, bottom_edge = lines[0][:, 1].min() - around, lines[1][:, 1].max() + around
        corners = np.array([[low - around, high + around], [top_edge, bottom_edge]])
        window = np.array([corners[0, i] * across + corners[1, j] * down for i in (0, 1) for j in (0, 1)])
        first = np.clip(((window.min(0) - [left, top]) / cell).astype(int), 0, [columns - 1, rows - 1])
        last = np.clip(np.ceil((window.max(0) - [left, top]) / cell).astype(int), first + 1, [columns, rows])
        box = slice(first[1], last[1]), slice(first[0], last[0])
        local = np.stack([grid[box] @ across, grid[box] @ down], -1)
        parts = []
        for (line, chain), sign in zip(zip(lines, chains, strict=True), (1, -1), strict=True):
            order = np.argsort(line[:, 0])
            x, y = line[order, 0], line[order, 1]
            at = np.clip(local[..., 0], x[0], x[-1])
            past = sign * (local[..., 1] - np.interp(at, x, y))  # beyond the line, seen from the part's own side
            sideways = np.abs(local[..., 0] - at)
            share = _smooth(np.clip((np.maximum(past, 0) + CORNER * sideways) / reach, 0, 1))
            along = np.stack([np.interp(at, x, column) for column in values[chain][order].T], -1)
            own = above[box] if sign == 1 else field[box]  # boxes overlap
            parts.append(np.where((past > 0)[..., None], along + share[..., None] * (own - along), own))
        above = above.copy()
        above[box] = parts[0]
        if iris is None:
            within = (values[chains[0]].mean(0) + values[chains[1]].mean(0))[None, None] / 2
            within = np.broadcast_to(within, parts[0].shape)
        else:
            within = np.concatenate([points[iris, 2:], in_frame[iris].ravel()])
            within = np.broadcast_to(within, parts[0].shape)
        covers = _covers(lines, across, down, reach, box, cell, left, top)
        fill = None
        if iris is None:
            lips = points[[13, 14, 0, 17], :2].astype(int).clip(0, np.array(size[::-1]) - 1)
            fill = torch.from_numpy(0.25 * (picture[lips[:, 1], lips[:, 0]].astype(np.float32).mean(0) / 127.5) - 1)
        openings.append(Opening(layer(box, parts[1]), layer(box, within), covers, fill))
    whole = slice(0, rows), slice(0, columns)
    return Sheet(
        cell,
        left,
        top,
        columns,
        rows,
        layer(whole, above),
        tuple(openings),
        pose,
        torch.from_numpy(skin),
        layer(whole, field).modes,
    )


def _smooth(x: np.ndarray) -> np.ndarray:
    return x * x * (3 - 2 * x)


def _strip(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Triangles that fill the hole between two chains."""
    a, b, c, d = upper[:-1], upper[1:], lower[:-1], lower[1:]
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])


def _rasterize(
    grid: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``values`` ``(V, D)`` of a mesh at the grid's places: ``(rows, columns, D)``, and which of them it covers."""
    rows, columns = grid.shape[:2]
    step = grid[0, 1, 0] - grid[0, 0, 0]
    corner = (vertices[triangles] - grid[0, 0]) / step  # in cells
    low = np.ceil(corner.min(1) - 1e-6).astype(int)
    high = np.floor(corner.max(1) + 1e-6).astype(int)
    span = (high - low + 1).clip(0).max(0)
    out, covered = np.zeros((rows, columns, values.shape[1]), np.float32), np.zeros((rows, columns), bool)
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    sound = np.abs(area) > 1e-9
    found = []
    for dy in range(span[1]):
        for dx in range(span[0]):
            x, y = low[:, 0] + dx, low[:, 1] + dy
            which = sound & (x <= high[:, 0]) & (y <= high[:, 1]) & (x >= 0) & (y >= 0) & (x < columns) & (y < rows)
            k = np.flatnonzero(which)
            px, py = x[k], y[k]
            v = ((px - a[k, 0]) * (c[k, 1] - a[k, 1]) - (c[k, 0] - a[k, 0]) * (py - a[k, 1])) / area[k]
            w = ((b[k, 0] - a[k, 0]) * (py - a[k, 1]) - (px - a[k, 0]) * (b[k, 1] - a[k, 1])) / area[k]
            hit = (v >= -1e-6) & (w >= -1e-6) & (v + w <= 1 + 1e-6)
            k, px, py, v, w = k[hit], px[hit], py[hit], v[hit], w[hit]
            found.append((py, px, triangles[k], np.stack([1 - v - w, v, w], -1).astype(np.float32)))
    py, px, corners, share = (np.concatenate(parts) for parts in zip(*found, strict=True))
    out[py, px] = sum(share[:, i : i + 1] * values[corners[:, i]] for i in range(3))
    covered[py, px] = True
    return out, covered


def _covers(lines, across, down, reach, box, cell, left, top) -> Tensor:
    """Who owns the pixels of an opening's box: ``(3, H, W)``, see :class:`Opening`."""
    x = left + np.arange(box[1].start * cell, box[1].stop * cell) + 0.5
    y = top + np.arange(box[0].start * cell, box[0].stop * cell) + 0.5
    pixels = np.stack(np.meshgrid(x, y), -1)
    local = np.stack([pixels @ across, pixels @ down], -1)
    past = []
    for line in lines:
        order = np.argsort(line[:, 0])
        at = np.clip(local[..., 0], line[order[0], 0], line[order[-1], 0])
        past.append(local[..., 1] - np.interp(at, line[order, 0], line[order, 1]))
    ends = min(line[:, 0].min() for line in lines), max(line[:, 0].max() for line in lines)
    sideways = np.abs(local[..., 0] - np.clip(local[..., 0], *ends))
    lower = np.maximum(past[1], past[0])
    far = np.hypot(np.abs(np.maximum(past[0], 0)), sideways) > reach
    upper = np.clip(0.5 - past[0], 0, 1)
    upper = np.where(far, 1.0, upper)
    beneath = np.clip(0.5 + lower, 0, 1)
    opened = np.clip(1 - upper - beneath, 0, 1)
    return torch.from_numpy(np.stack([upper, beneath, opened]).astype(np.float32))


def sources(sheet: Sheet, layer: Layer, displacement: Tensor, target: Tensor) -> Tensor:
    """Where a layer's pixels at ``target`` ``(B or 1, 2, h, w)`` come from, ``(B, 2, h, w)``, both in pixels."""
    _, height, width = layer.place.shape
    column, row = layer.corner
    scale = target.new_tensor([2 / (width * sheet.cell), 2 / (height * sheet.cell)]).view(1, 2, 1, 1)
    origin = target.new_tensor([sheet.left + column * sheet.cell, sheet.top + row * sheet.cell]).view(1, 2, 1, 1)
    source = target.expand(len(displacement), -1, -1, -1)
    for _ in range(ITERATIONS):
        where = ((source - origin) * scale - 1).permute(0, 2, 3, 1)
        source = target - F.grid_sample(displacement, where, padding_mode="border", align_corners=False)
    return source


def sample(picture: Tensor, source: Tensor, mode: str = "bilinear") -> Tensor:
    """A picture ``(1, C, H, W)`` at pixels ``source`` ``(B, 2, h, w)``: ``(B, C, h, w)``; its edge goes on."""
    height, width = picture.shape[-2:]
    where = (source * source.new_tensor([2 / width, 2 / height]).view(1, 2, 1, 1) - 1).permute(0, 2, 3, 1)
    picture = picture.expand(len(source), -1, -1, -1)
    return F.grid_sample(picture, where, mode=mode, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Motion:
    """What a sheet is moved by: points of the head go to ``turn @ point + shift``, after an expression.

    Attributes:
        turn: ``(B, 3, 3)``.
        shift: ``(B, 3)`` in pixels.
        expression: ``(B, K)``, the change since the portrait.
    """

    turn: Tensor
    shift: Tensor
    expression: Tensor

    def of(self, layer: Layer) -> Tensor:
        """:meth:`Layer.displacement` of a layer."""
        return layer.displacement(self.turn, self.shift, self.expression)


def blend(
    sheet: Sheet,
    opening: Opening,
    picture: Tensor,
    above: tuple[Tensor, Tensor],
    motion: Motion,
    target: Tensor,
    zoom: int = 1,
) -> tuple[Tensor, Tensor]:
    """An opening with its surroundings: what is above its line, what is below it, and between them what is inside.

    Args:
        sheet: the portrait's.
        opening: mouth or eye.
        picture: the portrait ``(1, 3, H, W)``.
        above: pixels of the layer above ``(B, 3, h, w)`` and where they come from.
        motion: what moves the sheet.
        target: pixels that are made, ``(B or 1, 2, h / zoom, w / zoom)``.
        zoom: pixels between targets.

    Returns:
        Pixels ``(B, 3, h, w)`` and the share ``(B, 1, h, w)`` of what is inside in each.
    """
    pixels, origin = above
    below = _zoom(sources(sheet, opening.below, motion.of(opening.below), target), zoom)
    within = _zoom(sources(sheet, opening.inside, motion.of(opening.inside), target), zoom)
    column, row = opening.below.corner
    corner = target.new_tensor([sheet.left + column * sheet.cell, sheet.top + row * sheet.cell]).view(1, 2, 1, 1)
    upper, lower, opened = (opening.covers[None, i : i + 1] for i in range(3))
    upper = sample(upper, origin - corner)
    lower = torch.minimum(sample(lower, below - corner), 1 - upper)
    inside = sample(picture, within)
    if opening.fill is not None:
        seen = sample(opened, within - corner)
        inside = seen * inside + (1 - seen) * opening.fill.view(1, 3, 1, 1)
    share = 1 - upper - lower
    return upper * pixels + lower * sample(picture, below) + share * inside, share


def _zoom(field: Tensor, zoom: int) -> Tensor:
    return field if zoom == 1 else F.interpolate(field, scale_factor=zoom, mode="bilinear", align_corners=False)


def render(sheet: Sheet, picture: Tensor, motion: Motion) -> Tensor:
    """The sheet's part of the frame ``(B, 3, rows * cell, columns * cell)``, moved."""
    cell = sheet.cell
    whole = _targets(sheet, slice(0, sheet.rows), slice(0, sheet.columns), cell)
    above = _zoom(sources(sheet, sheet.above, motion.of(sheet.above), whole), cell)
    frame = sample(picture, above, "bicubic")
    for opening in sheet.openings:
        _, height, width = opening.below.place.shape
        column, row = opening.below.corner
        moved = motion.of(opening.below).detach() / cell
        low, high = moved.amin((0, 2, 3)).floor().int().tolist(), moved.amax((0, 2, 3)).ceil().int().tolist()
        rows = slice(*np.clip([row + low[1], row + height + high[1]], 0, sheet.rows).tolist())
        columns = slice(*np.clip([column + low[0], column + width + high[0]], 0, sheet.columns).tolist())
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        part = ..., slice(rows.start * cell, rows.stop * cell), slice(columns.start * cell, columns.stop * cell)
        target = _targets(sheet, rows, columns, cell)
        seen = frame[part].clone()  # gradients need it as it is now
        frame[part] = blend(sheet, opening, picture, (seen, above[part]), motion, target, cell)[0]
    return frame


def render_mouth(sheet: Sheet, picture: Tensor, motion: Motion, target: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels ``(B, 3, h, w)`` around the mouth at ``target`` ``(B, 2, h, w)``, and the share of its inside in each."""
    origin = sources(sheet, sheet.above, motion.of(sheet.above), target)
    above = sample(picture, origin), origin
    return blend(sheet, sheet.openings[0], picture, above, motion, target)


def _targets(sheet: Sheet, rows: slice, columns: slice, step: int) -> Tensor:
    """Middles ``(1, 2, rows, columns)`` of cells in the frame, in pixels."""
    xs = sheet.left + (torch.arange(columns.start, columns.stop) + 0.5) * step
    ys = sheet.top + (torch.arange(rows.start, rows.stop) + 0.5) * step
    return torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))])[None]
