"""Where the mouth is in a picture, by the face mask: what windows and the flow-matching loss can favour."""

import numpy as np
import torch
from torch import Tensor

from asymtalker import timeline

MOUTH = (0.6, 0.92, 0.2, 0.8)  # top, bottom, left and right of the mouth in motion, as shares of the face mask's box


def mouth_boxes(masks: np.ndarray, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Where the mouth is, by the face masks ``(F, H, W)`` uint8: ``(F, 4)`` float32 top, bottom, left and right as
    shares of the picture, or of a box of it (left, top, right, bottom in pixels), outside of which they may lie; all 0
    where there is no face."""
    boxes = np.zeros((len(masks), 4), np.float32)
    left, top, right, bottom = box or (0, 0, masks.shape[2], masks.shape[1])
    for mouth, mask in zip(boxes, masks > 127, strict=True):
        if mask.any():
            axes = ((slice(0, 2), mask.any(1), top, bottom - top), (slice(2, 4), mask.any(0), left, right - left))
            for sides, hit, start, side in axes:
                inside = np.flatnonzero(hit)
                low, length = (inside[0] - start) / side, (inside[-1] + 1 - inside[0]) / side
                mouth[sides] = low + np.array(MOUTH[sides]) * length
    return boxes


def box_coverage(boxes: Tensor, height: int, width: int) -> Tensor:
    """Share of each cell of a grid that lies in a box: ``(N, 4)`` of :func:`mouth_boxes` to ``(N, height, width)``."""

    def along(low: Tensor, high: Tensor, cells: int) -> Tensor:
        edges = torch.arange(cells + 1, device=boxes.device)
        return edges.clamp(low[:, None] * cells, high[:, None] * cells).diff(dim=1)

    top, bottom, left, right = boxes.unbind(1)
    return along(top, bottom, height)[:, :, None] * along(left, right, width)[:, None]


def latent_coverage(boxes: Tensor, height: int, width: int) -> Tensor:
    """Share of each latent cell of a chunk that the mouth covers, ``(1, T, height, width)``, of the boxes ``(F, 4)``
    of its frames."""
    frames = box_coverage(boxes, height, width)  # (F, h, w)
    later = frames[1:].unflatten(0, (-1, timeline.TEMPORAL_COMPRESSION)).mean(1)
    return torch.cat([frames[:1], later])[None]
