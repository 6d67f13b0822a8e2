"""Motion read off a face mesh, corrected by the pictures themselves.

A face mesh reads each frame alone, and errs by a pixel or two, differently in each. Between two frames of one video
the texture tells far better: the motion is corrected until the first frame, moved by it, agrees with the frame (Lucas
and Kanade 1981; Gauss-Newton with the mesh's reading as the prior).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from asymtalker.models.motion.basis import MotionBasis
from asymtalker.models.motion.sheet import Sheet

STEPS = (3, 3)  # at a blurred picture, then at the sheet's own cells
PICTURE_NOISE = 0.05  # of a cell's brightness in [-1, 1], with what neighbouring cells tell twice
OUTLIER = 0.15


def brightness(picture: Tensor) -> Tensor:
    """``(1, 1, H, W)`` of a picture ``(1, 3, H, W)``."""
    return (picture * picture.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


class Register:
    """Corrects motions of frames that show the same head as a first one.

    Args:
        basis: of the motions.
        sheet: of the first frame.
        picture: the first frame ``(1, 3, H, W)``.
        rest: its motion ``(components + 6,)``.
    """

    def __init__(self, basis: MotionBasis, sheet: Sheet, picture: Tensor, rest: Tensor):
        self.basis, self.sheet, self.rest = basis, sheet, rest
        self.size = picture.shape[2], picture.shape[3]
        row, column = sheet.skin.nonzero().T
        kept = (row + column) % 2 == 0  # neighbours tell much the same
        row, column = row[kept], column[kept]
        place = sheet.above.place[:, row, column].T  # (n, 3)
        modes = sheet.tracked.view(3, *sheet.skin.shape, -1)[:, row, column, : basis.components]
        modes = modes.transpose(0, 1)  # (n, 3, K)
        coarse = (row % 2 == 0) & (column % 2 == 0)
        grey = brightness(picture)
        self.levels = []
        for blur, cells in ((True, coarse), (False, torch.ones_like(coarse))):
            still = self._at(self._level(grey, blur), place[cells, :2])[0]
            self.levels.append((blur, place[cells], modes[cells].contiguous(), still))

    def _level(self, grey: Tensor, blur: bool) -> Tensor:
        cell = self.sheet.cell
        low = F.avg_pool2d(grey, cell, ceil_mode=True) if cell > 1 else grey
        return (
            F.avg_pool2d(low, 5, 1, 2, count_include_pad=False)
            if blur
            else F.avg_pool2d(low, 3, 1, 1, count_include_pad=False)
        )

    def _at(self, level: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Brightness ``(n,)`` and its gradient ``(n, 2)`` by pixels, at ``place`` ``(n, 2)``."""
        cell = self.sheet.cell
        height, width = level.shape[2:]
        scale = place.new_tensor([2 / (width * cell), 2 / (height * cell)])

        def look(at: Tensor) -> Tensor:
            return F.grid_sample(level, (at * scale - 1)[None, None], padding_mode="border", align_corners=False)[
                0, 0, 0
            ]

        steps = place.new_tensor([[cell, 0.0], [0.0, cell]])
        gradient = torch.stack([(look(place + step) - look(place - step)) / (2 * cell) for step in steps], -1)
        return look(place), gradient

    def __call__(self, picture: Tensor, reading: Tensor) -> Tensor:
        """The motion ``(components + 6,)`` of a frame ``(1, 3, H, W)``, from the face mesh's ``reading``."""
        basis, gains = self.basis, self.basis.gains
        centre = reading.new_tensor([self.size[1] / 2, self.size[0] / 2])
        rest, start = basis.split(self.rest, self.size)
        motion, grey = reading.clone(), brightness(picture)
        certain = 1 / basis.noise.square()
        for (blur, place, modes, still), steps in zip(self.levels, STEPS, strict=True):
            level = self._level(grey, blur)
            for _ in range(steps):
                expression, pose = basis.split(motion, self.size)
                turn = pose.scale / start.scale * pose.rotation @ start.rotation.T
                shaped = place + (modes.flatten(0, 1) @ (expression - rest)).view(-1, 3)
                arm = (shaped - start.place) @ turn.T  # from the head's origin
                now = arm[:, :2] + pose.place[:2]
                value, gradient = self._at(level, now)
                error = value - still
                scale = now - centre
                along = torch.stack([torch.ones(len(now)), torch.zeros(len(now))], -1) * pose.scale
                across = along.flip(1)
                x, y, z = arm.unbind(-1)
                zero = torch.zeros_like(x)
                turns = [torch.stack(pair, -1) for pair in ((zero, -z), (z, zero), (-y, x))]
                by_pose = torch.stack([(gradient * way).sum(1) for way in (scale, along, across, *turns)], -1) / gains
                by_expression = ((gradient @ turn[:2])[:, :, None] * modes).sum(1)  # (n, K)
                jacobian = torch.cat([by_expression, by_pose], -1)
                trust = 1 / (1 + (error / OUTLIER).square()) / PICTURE_NOISE**2
                weighted = jacobian * trust[:, None]
                system = weighted.T @ jacobian + certain.diag()
                motion = motion - torch.linalg.solve(system, weighted.T @ error + certain * (motion - reading))
        return motion
