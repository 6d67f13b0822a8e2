"""Clips of several shapes in one training: the bucket a clip belongs to, and what of its picture the bucket shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from asymtalker.dataset.corpus import Clip, ManifestRow
from asymtalker.errors import UserError

Size = tuple[int, int]
"""Height and width in pixels."""
BLOCK = 250  # frames of masks looked at together: memory does not grow with a clip's length


@dataclass(frozen=True)
class View:
    """The part of a clip's picture that training sees, and at which size.

    Attributes:
        box: left, top, right and bottom in pixels of the clip.
        size: height and width of what is seen.
    """

    box: tuple[float, float, float, float]
    size: Size

    def cut(self, pictures: np.ndarray) -> np.ndarray:
        """Frames ``(F, H, W, 3)`` or masks ``(F, H, W)`` of the clip, uint8, as they are seen: ``(F, *size, ...)``."""
        height, width = pictures.shape[1:3]
        if (height, width) == self.size and self.box == (0, 0, width, height):
            return pictures
        kind = Image.Resampling.LANCZOS if pictures.ndim == 4 else Image.Resampling.BILINEAR  # no rings at mask edges
        size = self.size[1], self.size[0]
        return np.stack([np.asarray(Image.fromarray(p).resize(size, kind, box=self.box)) for p in pictures])


def nearest_bucket(row: ManifestRow, buckets: Sequence[Size]) -> Size:
    """The bucket whose ratio of sides is nearest to the clip's own, in logarithm, the first of equals; the clip's own
    size where there are no buckets."""
    shape = math.log(row.height / row.width)
    return min(buckets, key=lambda size: abs(math.log(size[0] / size[1]) - shape), default=(row.height, row.width))


def by_bucket(clips: Sequence[Clip], buckets: Sequence[Size], spatial: int) -> dict[Size, list[Clip]]:
    """The clips of each size that is trained on, in their order.

    Args:
        clips: of one corpus, at least one.
        buckets: sizes of which each clip takes the nearest in shape; empty for its own size.
        spatial: pixels on a side of a latent cell.

    Raises:
        UserError: if there are several sizes and no buckets, or a side is no multiple of the codec's factor.
    """
    if not spatial:  # clips of all sizes go together
        return {(clips[0].row.height, clips[0].row.width): list(clips)}
    for size in buckets:
        if min(size) < 1 or any(side % spatial for side in size):
            raise UserError(
                f"--config.buckets has {_shown([size])} pixels: sides must be multiples of the codec's {spatial}."
            )
    groups: dict[Size, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(nearest_bucket(clip.row, buckets), []).append(clip)
    if not buckets and (len(groups) > 1 or any(side % spatial for side in min(groups))):
        raise UserError(
            f"{clips[0].shard.parent}: the clips have {_shown(sorted(groups))} pixels; without buckets training needs"
            f" one size, a multiple of the codec's {spatial}: give the sizes to train on with --config.buckets"
        )
    return groups


def _shown(sizes: Sequence[Size]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in sizes)


def whole_view(row: ManifestRow, bucket: Size) -> View | None:
    """The view of a clip whose shape is its bucket's, ``None`` if something of the picture is cut off."""
    if row.height * bucket[1] != row.width * bucket[0]:
        return None
    return View((0, 0, row.width, row.height), bucket)


def view_of(clip: Clip, bucket: Size) -> View:
    """What a bucket shows of a clip: as much of the picture as has the bucket's shape, its middle as near to that of
    the face masks of all frames as the picture allows."""
    row = clip.row
    if (view := whole_view(row, bucket)) is not None:
        return view
    height = min(row.height, row.width * bucket[0] / bucket[1])
    width = min(row.width, row.height * bucket[1] / bucket[0])
    middle_x, middle_y = _middle_of_face(clip)
    left = min(max(middle_x - width / 2, 0), row.width - width)
    top = min(max(middle_y - height / 2, 0), row.height - height)
    return View((left, top, min(left + width, row.width), min(top + height, row.height)), bucket)


def _middle_of_face(clip: Clip) -> tuple[float, float]:
    """The middle (x, y) of the box around the face masks of all frames; of the picture where there is no face."""
    seen = np.zeros((clip.row.height, clip.row.width), bool)
    for start in range(0, clip.num_frames, BLOCK):
        seen |= (clip.mask(start, min(start + BLOCK, clip.num_frames)) > 127).any(0)
    if not seen.any():
        return clip.row.width / 2, clip.row.height / 2
    columns, rows = (np.flatnonzero(seen.any(axis)) for axis in (0, 1))
    return float(columns[0] + columns[-1] + 1) / 2, float(rows[0] + rows[-1] + 1) / 2
