"""A portrait as a sheet that a head's pose and expression move: where every pixel of a frame comes from.

Each cell of a grid over the face and what is around it has a place in space, modes by which expressions displace it,
and a weight that says how far it goes with the head: 1 on the face, fading through hair and neck to rest. So the
motion of a cell is arithmetic, the same for every frame; the way back, from a frame's pixel to the portrait's, is
found by relaxed fixed-point iteration. Skin is torn along the lips and the lids: the part above such a line and the
part below it are layers of their own, each continued smoothly beyond the line, with what is inside (eyeball, teeth)
behind them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from asymtalker.codec import to_pixels

STRETCH = 0.5, 3.8
"""To how many times its size a sheet is pressed together or drawn out at most, as lids that shut draw skin out."""
STEPS = 7
RELAXATION = (
    1.0,
    *(
        2 / (sum(STRETCH) - (STRETCH[1] - STRETCH[0]) * math.cos(math.pi * (step + 0.5) / STEPS))
        for step in range(STEPS)
    ),
)
"""Of the way back, step by step: Chebyshev's for sheets of such a stretch. Plain iteration never finds what is drawn
out to twice its size: in blinks, pixels came from up to 3.8 pixels beside their place; they come from 0.6 [ours]."""
UNSEEN = 1 / 512
"""Share of a layer in a pixel that changes no byte of it."""
SHARPENING = ImageFilter.UnsharpMask(radius=1.5, percent=33, threshold=0)


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
        moved = (expression @ self.modes.T).reshape(-1, 3, height, width)
        points = self.place + moved
        goes = torch.einsum("bij,bjhw->bihw", turn, points) + shift[:, :, None, None]
        return (moved + self.weight * (goes - points))[:, :2]


@dataclass(frozen=True)
class Opening:
    """The mouth or an eye: what lies below its line, what is inside, and who owns a pixel.

    Attributes:
        below, inside: layers of its box of the grid.
        covers: ``(3, H, W)`` in [0, 1] over the box's pixels: owned by the part above, by the part below, and where
            the portrait shows what is inside.
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
    skin: Tensor
    tracked: Tensor


def sources(sheet: Sheet, layer: Layer, displacement: Tensor, target: Tensor) -> Tensor:
    """Where a layer's pixels at ``target`` ``(B or 1, 2, h, w)`` come from, ``(B, 2, h, w)``, both in pixels."""
    _, height, width = layer.place.shape
    column, row = layer.corner
    scale = target.new_tensor([2 / (width * sheet.cell), 2 / (height * sheet.cell)]).view(1, 2, 1, 1)
    origin = target.new_tensor([sheet.left + column * sheet.cell, sheet.top + row * sheet.cell]).view(1, 2, 1, 1)
    goal, moved = (target - origin) * scale - 1, displacement * scale  # in the layer's box, [-1, 1]
    where = goal.expand(len(displacement), -1, -1, -1)
    for share in RELAXATION:
        shift = F.grid_sample(moved, where.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
        where = torch.lerp(where, goal - shift, share)
    return (where + 1) / scale + origin


def finer(source: Tensor, zoom: int) -> Tensor:
    """Places ``(B, 2, h, w)`` in a frame and those between them, ``(B, 2, h * zoom, w * zoom)``."""
    return source if zoom == 1 else F.interpolate(source, scale_factor=zoom, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Texture:
    """A part of a picture, to be looked up at any place.

    Attributes:
        pixels: ``(1, C, h, w)``.
        corner: x and y in the frame, in pixels, of its upper left corner.
        zoom: its pixels in one of the frame.
    """

    pixels: Tensor
    corner: tuple[int, int] = (0, 0)
    zoom: int = 1

    def at(self, source: Tensor) -> Tensor:
        """Values ``(B, C, h, w)`` at places ``(B, 2, h, w)`` of the frame, in pixels; beyond its edge that goes on."""
        height, width = self.pixels.shape[-2:]
        scale = source.new_tensor([2 * self.zoom / width, 2 * self.zoom / height]).view(1, 2, 1, 1)
        corner = source.new_tensor(self.corner).view(1, 2, 1, 1)
        where = torch.addcmul(-1 - corner * scale, source, scale).permute(0, 2, 3, 1)
        pixels = self.pixels.expand(len(source), -1, -1, -1)
        return F.grid_sample(pixels, where, padding_mode="border", align_corners=False)


def lay_texture(sheet: Sheet, picture: np.ndarray) -> Texture:
    """What a sheet shows of a picture ``(H, W, 3)`` uint8. Looking it up between its pixels blurs it; so it is held
    twice as large, and sharpened by as much as is lost."""
    height, width = sheet.rows * sheet.cell, sheet.columns * sheet.cell
    part = Image.fromarray(picture[sheet.top : sheet.top + height, sheet.left : sheet.left + width])
    larger = part.resize((part.width * 2, part.height * 2), Image.Resampling.LANCZOS).filter(SHARPENING)
    return Texture(to_pixels(np.array(larger)[None])[:, :, 0], (sheet.left, sheet.top), 2)


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

    def of(self, sheet: Sheet) -> "Moved":
        """Where it takes a sheet."""
        layers = [sheet.above, *(layer for opening in sheet.openings for layer in (opening.below, opening.inside))]
        above, *parts = (layer.displacement(self.turn, self.shift, self.expression) for layer in layers)
        return Moved(above, tuple(zip(parts[::2], parts[1::2], strict=True)))


@dataclass(frozen=True)
class Moved:
    """How far a sheet's cells go, ``(B, 2, h, w)`` in pixels: those of the layer above; and of each opening those
    below its line and those inside."""

    above: Tensor
    openings: tuple[tuple[Tensor, Tensor], ...]


def blend(
    sheet: Sheet,
    opening: Opening,
    texture: Texture,
    above: tuple[Tensor, Tensor],
    moved: tuple[Tensor, Tensor],
    target: Tensor,
    zoom: int = 1,
) -> Tensor:
    """An opening with its surroundings: what is above its line, what is below it, and between them what is inside.
    Each is looked up only where it is seen.

    Args:
        sheet: the portrait's.
        opening: mouth or eye.
        texture: the portrait's.
        above: pixels of the layer above ``(B, 3, h, w)``, which are changed in place, and where they come from,
            ``(B, 2, h, w)``.
        moved: how far the cells below the line and those inside go.
        target: pixels that are made, ``(B or 1, 2, h / zoom, w / zoom)``.
        zoom: pixels between targets.

    Returns:
        The share ``(B, 1, h, w)`` in each pixel of what is inside and not shown by the portrait.
    """
    pixels, origin = above
    column, row = opening.below.corner
    corner = sheet.left + column * sheet.cell, sheet.top + row * sheet.cell
    covers = [Texture(opening.covers[None, i : i + 1], corner) for i in range(3)]
    upper = covers[0].at(origin)
    unseen = torch.zeros_like(upper)
    cells, part = _seen(1 - upper, zoom)
    below = finer(sources(sheet, opening.below, moved[0], target[cells]), zoom)
    upper = upper[part]
    lower = torch.minimum(covers[1].at(below), 1 - upper)
    pixels[part] = upper * pixels[part].clone() + lower * texture.at(below)  # gradients need it as it is now

    share = 1 - upper - lower
    inner, hole = _seen(share, zoom)
    within = finer(sources(sheet, opening.inside, moved[1], target[cells][inner]), zoom)
    inside, share = texture.at(within), share[hole]
    if opening.fill is not None:
        shown = covers[2].at(within)
        inside = shown * inside + (1 - shown) * opening.fill.view(1, 3, 1, 1)
        unseen[part][hole] = share * (1 - shown)
    pixels[part][hole] += share * inside
    return unseen


def _seen(share: Tensor, zoom: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The box of cells of ``zoom`` pixels in which any ``share`` ``(B, 1, h, w)`` is seen, and that of their pixels;
    each is larger by a cell on every side, as what lies between cells is between two of them."""
    most = share.detach().amax((0, 1))
    cells: list[slice] = []
    for axis, length in ((1, most.shape[0]), (0, most.shape[1])):
        seen = (most.amax(axis) > UNSEEN).nonzero()[:, 0].tolist()
        first, last = (max(seen[0] // zoom - 1, 0), min(seen[-1] // zoom + 2, length // zoom)) if seen else (0, 1)
        cells.append(slice(first, last))
    return (..., *cells), (..., *(slice(part.start * zoom, part.stop * zoom) for part in cells))


def render(sheet: Sheet, texture: Texture, moved: Moved) -> tuple[Tensor, Tensor]:
    """The sheet's part of the frame ``(B, 3, rows * cell, columns * cell)``, moved, and the share ``(B, 1, ...)`` in
    each pixel of the mouth's inside that the portrait does not show."""
    cell = sheet.cell
    whole = _targets(sheet, slice(0, sheet.rows), slice(0, sheet.columns), cell)
    above = finer(sources(sheet, sheet.above, moved.above, whole), cell)
    frame = texture.at(above)
    unseen = torch.zeros_like(frame[:, :1])
    for opening, parts in zip(sheet.openings, moved.openings, strict=True):
        _, height, width = opening.below.place.shape
        column, row = opening.below.corner
        cells = parts[0].detach() / cell
        low, high = cells.amin((0, 2, 3)).floor().int().tolist(), cells.amax((0, 2, 3)).ceil().int().tolist()
        rows = slice(*np.clip([row + low[1], row + height + high[1]], 0, sheet.rows).tolist())
        columns = slice(*np.clip([column + low[0], column + width + high[0]], 0, sheet.columns).tolist())
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        part = ..., slice(rows.start * cell, rows.stop * cell), slice(columns.start * cell, columns.stop * cell)
        target = _targets(sheet, rows, columns, cell)
        inside = blend(sheet, opening, texture, (frame[part], above[part]), parts, target, cell)
        if opening is sheet.openings[0]:
            unseen[part] = inside
    return frame, unseen


def render_mouth(sheet: Sheet, texture: Texture, moved: Moved, target: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels ``(B, 3, 2 h, 2 w)`` around the mouth, ``target`` ``(B, 2, h, w)`` and between, and the share in each of
    what is inside and the portrait does not show."""
    origin = finer(sources(sheet, sheet.above, moved.above, target), 2)
    pixels = texture.at(origin)
    return pixels, blend(sheet, sheet.openings[0], texture, (pixels, origin), moved.openings[0], target, 2)


def _targets(sheet: Sheet, rows: slice, columns: slice, step: int) -> Tensor:
    """Middles ``(1, 2, rows, columns)`` of cells in the frame, in pixels."""
    xs = sheet.left + (torch.arange(columns.start, columns.stop) + 0.5) * step
    ys = sheet.top + (torch.arange(rows.start, rows.stop) + 0.5) * step
    return torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))])[None]
