"""Upper teeth of a portrait that shows none. The painter lights the inside of a mouth by a blurred band; here it is
given the shape of teeth.

They go with the head and lie on an arch. A drawing of them, by the average proportions of human teeth, is looked up at
every pixel of the frame, so they are as sharp as it is; their colour is the painter's.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asymtalker.media.face_mesh import LOWER_LIP, MOUTH_LEFT, MOUTH_RIGHT, UPPER_LIP
from asymtalker.models.motion.basis import Pose

WIDTHS = 0.094, 0.070, 0.072, 0.058, 0.050, 0.045
"""Head units (one is 9 cm) from the midline outward, seen from in front: incisors, canine, premolars, molar."""
RISES = 0.0, 0.009, 0.002, 0.012, 0.016, 0.022  # of their edges over the middle ones'
CROWN = 0.115  # their height
GAP = 0.004  # between two
SOFT = 0.004  # an edge
BELOW_LIPS, BEHIND_LIPS = 0.045, 0.03  # the middle ones' edges, of where closed lips meet
ARCH = 2.5  # how far the arch recedes over the square of the distance from the midline
LOW, HIGH = (-0.36, -0.16), (0.36, 0.10)  # corners of the drawing, in head units from where the edges meet
COLUMNS, ROWS = 576, 208  # of the drawing
ENAMEL, CAVITY = 1.55, (0.34, 0.24, 0.22)  # brightness over the colour that was painted, of teeth and of what is below
SHADED, CORNER = 0.45, 0.8
"""Where towards the corners of the mouth, of half its width, cheeks begin to shade teeth, and by how much there."""
IVORY = 1.05, 1.0, 0.93  # what a tooth's colour tends to


@cache
def drawing() -> np.ndarray:
    """``(1, 3, ROWS, COLUMNS)`` in [0, 1]: what is tooth, how light it is there, and what is dark below teeth."""
    x = LOW[0] + (np.arange(COLUMNS) + 0.5) / COLUMNS * (HIGH[0] - LOW[0])
    y = (LOW[1] + (np.arange(ROWS) + 0.5) / ROWS * (HIGH[1] - LOW[1]))[:, None]
    ends = np.concatenate([[0], np.cumsum(WIDTHS)])
    tooth = np.clip(np.searchsorted(ends, np.abs(x)) - 1, 0, len(WIDTHS) - 1)
    half = np.array(WIDTHS)[tooth] / 2
    across = (np.abs(x) - ends[tooth]) / half - 1  # -1 beside the tooth before, 1 beside the one behind
    edge = -np.array(RISES)[tooth] - 0.25 * half * across**4 - 0.012 * across.clip(0) ** 2
    gum = edge - CROWN * (1 - 0.25 * across**2)
    above = np.clip((edge - y) / SOFT + 0.5, 0, 1)
    enamel = above * np.clip((y - gum) / SOFT + 0.5, 0, 1) * (np.abs(x) < ends[-1])
    gaps = np.exp(-(((1 - np.abs(across)) * half / GAP) ** 2))
    rim = np.exp(np.minimum(y - edge, 0) / 0.02)  # light goes through it
    light = (1 - 0.12 * across**4) * (1 - 0.27 * gaps) * (1 - 0.12 * rim) * np.exp(-((x / 0.3) ** 2))
    fade = np.clip((HIGH[1] - y) / 0.06, 0, 1) * np.clip((HIGH[0] - np.abs(x)) / 0.06, 0, 1)
    return np.stack([enamel, light, (1 - above) * fade])[None].astype(np.float32)


@dataclass(frozen=True)
class Teeth:
    """Of a head.

    Attributes:
        middle: where the edges of the middle ones meet ``(3,)``, in head units.
        drawing: :func:`drawing`, as fine as the frame's pixels.
    """

    middle: Tensor
    drawing: Tensor

    @classmethod
    def of(cls, head: Tensor, unit: float) -> "Teeth":
        """Of one whose points ``(478, 3)``, in head units of ``unit`` pixels, have closed lips."""
        finer = COLUMNS / (HIGH[0] - LOW[0]) / unit
        shrink = 2 ** int(np.clip(np.log2(finer), 0, 4))  # both of its sides can be divided by 16
        middle = head[[UPPER_LIP, LOWER_LIP]].mean(0) + head.new_tensor([0.0, BELOW_LIPS, BEHIND_LIPS])
        half = (head[MOUTH_LEFT] - head[MOUTH_RIGHT]).norm() / 2
        aside = torch.linspace(LOW[0], HIGH[0], COLUMNS).abs() / half
        near = ((aside - SHADED) / (1 - SHADED)).clamp(0, 1)
        drawn = torch.from_numpy(drawing()).clone()
        drawn[:, 1] *= 1 - CORNER * near.square() * (3 - 2 * near)
        return cls(middle, F.avg_pool2d(drawn, shrink))

    def at(self, pixels: Tensor, pose: Pose) -> Tensor:
        """The drawing ``(3, h, w)`` at pixels ``(h, w, 2)`` of a frame whose head is in a pose."""
        turn = pose.rotation[:2]
        seen = (pixels - pose.place[:2]) / pose.scale - turn @ self.middle
        back = torch.linalg.inv(turn[:, :2]).T
        at = seen @ back
        for _ in range(3):  # nearer to where on the arch that is
            at = (seen - ARCH * at[..., :1].clamp(LOW[0], HIGH[0]).square() * turn[:, 2]) @ back
        low, high = at.new_tensor(LOW), at.new_tensor(HIGH)
        return F.grid_sample(self.drawing, ((2 * at - low - high) / (high - low))[None], align_corners=False)[0]


def light_inside(inside: Tensor) -> Tensor:
    """How light it is ``(B, 1, S, S)`` in a painter's square, 0 to 1, by its ``inside``: lips shade what is near."""
    return 0.35 + 0.65 * F.avg_pool2d(inside, 9, 1, 4)


def tooth_colour(painted: Tensor, inside: Tensor) -> Tensor:
    """The colour of teeth ``(B, 3, 1, 1)`` in painter's squares ``(B, 3, S, S)``, in [-1, 1]: that of the lightest
    ``inside``, a little paler."""
    share = inside.square() * torch.exp(6 * (painted.mean(1, keepdim=True) - 1))
    found = 1 + (share * painted).sum((2, 3), keepdim=True) / share.sum((2, 3), keepdim=True).clamp_min(1e-6)
    return 0.7 * found + 0.3 * found.mean(1, keepdim=True) * found.new_tensor(IVORY).view(3, 1, 1) - 1


def show_teeth(inner: Tensor, drawing: Tensor, light: Tensor, colour: Tensor) -> Tensor:
    """What is painted of a mouth's inside ``(3, h, w)``, in [-1, 1], with teeth.

    Args:
        inner: as it is painted.
        drawing: see :meth:`Teeth.at`.
        light: ``(1, h, w)``, see :func:`light_inside`.
        colour: ``(3, 1, 1)`` of teeth, see :func:`tooth_colour`.
    """
    enamel, shade, below = drawing.split(1)
    dark = (colour + 1) * colour.new_tensor(CAVITY).view(3, 1, 1) - 1
    inner = inner - 0.85 * below * (inner - dark).clamp_min(0)
    return inner + enamel * (ENAMEL * (colour + 1) * shade * light - 1 - inner)
