"""What a person wants to see otherwise than it was made: more or less motion, eyes on the camera, no blinks.

Only what is seen changes, not the latents that a video goes on from.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asymtalker.errors import UserError
from asymtalker.media.face_mesh import LOWER_LIP, NOSE_BASE, UPPER_LIP
from asymtalker.models.motion.basis import (
    INNER_LIPS,
    LEFT_LIDS,
    LIPS,
    RIGHT_LIDS,
    MotionBasis,
    Pose,
    rotation_matrix,
    rotation_vector,
)

MOST = 2.0  # times the motion that was made
SHUT_FROM, SHUT_AT = 0.3, 0.55
"""Shares of their opening by which lids are closed, as a face mesh reads it, from where on they close further, and
where they are shut. Of animated portraits with shut eyes it reads 0.64 to 0.78, and of a blink a small network often
makes half [ours]."""
PARTED_FROM, PARTED_AT = 0.02, 0.06
"""Gaps of the lips in head units up to which they count as shut, and from which on, of a portrait, as parted. Real
ones are shut or open [ours: of GRID's frames 38% have less than 0.02 and 16% up to 0.08]; a small network, which is
never sure, leaves them between, at p, b, m and in silence too (15% and 38%)."""
MOVING_PARTED_AT = 0.08
"""The latter for lips that move, which are shown shut: by it 89% of p, b and m are shut and 7% of vowels longer than
60 ms, by that of lips at rest 85 and 5% [ours]."""
UPPER_LIDS = [*RIGHT_LIDS[1:8], *LEFT_LIDS[1:8]]
LOWER_LIDS = [*RIGHT_LIDS[:8:-1], *LEFT_LIDS[:8:-1]]  # in the same order
LEAST_OPENING = 0.2  # over the mean face's, of eyes that are shut in the portrait
SHUT = 1.2
"""Share of their opening by which lids that are shut have closed: below the line that a face mesh reads there is often
a rim of the eye left, which showed white [ours: of six portraits three; at 1.3 lids are no longer smooth]."""
LOWER_RISES = 0.15  # share of the way that lower lids come to meet the upper ones
IRISES = range(468, 478)
EYEBALL = 0.13  # radius in head units, 12 mm of 9 cm


@dataclass(frozen=True)
class MotionControl:
    """How a portrait is to move.

    Attributes:
        motion: how far head and upper face go from the portrait's pose, 0 to 2; lips, jaw, lids and eyes are as made.
        gaze: ``"free"``, or ``"camera"``: the eyes stay on what the portrait looks at, however the head turns.
        blinks: whether the lids move.

    Raises:
        UserError: if ``motion`` is out of range.
    """

    motion: float = 1.0
    gaze: Literal["free", "camera"] = "free"
    blinks: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.motion <= MOST:
            raise UserError(f"--motion must be between 0 and {MOST:g}, not {self.motion:g}.")

    def modes(self, basis: MotionBasis, head: Tensor) -> Tensor:
        """Displacements of a head's points ``(478, 3, K)`` by each expression of a basis, as they are to be seen, and
        by one more, which shuts the lids. With the gaze on the camera there are two more, which turn both eyes to the
        picture's right and down; see :meth:`expression`.

        Args:
            basis: of expressions.
            head: the portrait's points ``(478, 3)`` in head units.
        """
        height = basis.face[:, 1]  # down from the middle between eyes and mouth
        eyes = basis.face[[*RIGHT_LIDS, *LEFT_LIDS], 1].mean()
        lower = ((height - eyes) / (height[NOSE_BASE] - eyes)).clamp(0, 1)  # 0 at the eyes, 1 from the nose down
        gains = self.motion + (1 - self.motion) * lower
        gains[[*LIPS, *INNER_LIPS]] = 1
        gains[[*RIGHT_LIDS, *LEFT_LIDS]] = float(self.blinks)
        gains[list(IRISES)] = float(self.gaze == "free")
        shutting = torch.zeros_like(head)
        gap = head[LOWER_LIDS] - head[UPPER_LIDS]
        shutting[UPPER_LIDS], shutting[LOWER_LIDS] = (1 - LOWER_RISES) * gap, -LOWER_RISES * gap
        modes = torch.cat([gains[:, None, None] * basis.modes, self.blinks * shutting[..., None]], -1)
        if self.gaze == "free":
            return modes
        turning = modes.new_zeros(len(modes), 3, 2)
        turning[list(IRISES), 0, 0] = turning[list(IRISES), 1, 1] = 1
        return torch.cat([modes, turning], -1)

    def pose(self, start: Pose, made: Pose) -> Pose:
        """Where the head is to be, of where the portrait's is and where it was made to be."""
        if self.motion == 1:
            return made
        turn = rotation_matrix(self.motion * rotation_vector(made.rotation @ start.rotation.T))
        scale = start.scale * (made.scale / start.scale) ** self.motion
        return Pose(scale, turn @ start.rotation, start.place + self.motion * (made.place - start.place))

    def expression(
        self, change: Tensor, lids: Tensor, start: Pose, seen: Pose, closing: Tensor | None = None
    ) -> Tensor:
        """The change of expression ``(B, K)`` since the portrait, of the modes that :meth:`modes` gives.

        Args:
            change: as it was made ``(B, components)``.
            lids: the portrait's :func:`lids_closing`.
            start: the portrait's pose.
            seen: the poses that are to be seen ``(B,)``.
            closing: how far, 0 to 1, lids are to be shut at least ``(B,)``.
        """
        closed, of_own = (change @ lids).split(1, -1)
        far = ((closed - SHUT_FROM) / (SHUT_AT - SHUT_FROM)).clamp(0, 1)
        shut = (SHUT - of_own).clamp_min(0) * far.square() * (3 - 2 * far)
        if closing is not None:
            shut = torch.maximum(shut, closing[:, None] * (SHUT - of_own))
        change = torch.cat([change, shut], -1)
        if self.gaze == "free":
            return change
        back = (seen.rotation.transpose(-1, -2) @ start.rotation - torch.eye(3)) @ change.new_tensor([0.0, 0.0, -1.0])
        return torch.cat([change, EYEBALL * back[..., :2]], -1)


def lids_closing(basis: MotionBasis, head: Tensor) -> Tensor:
    """By what share each expression of a basis closes the lids ``(K, 2)``: of the mean face's opening, which tells how
    far it is meant, and of a head's own; ``head`` are its points ``(478, 3)`` in head units."""
    usual, own = (points[LOWER_LIDS] - points[UPPER_LIDS] for points in (basis.face, head))
    nearer = basis.modes[UPPER_LIDS] - basis.modes[LOWER_LIDS]  # (14, 3, K)
    size = usual.norm(dim=-1)
    closing = torch.einsum("nc,nck->k", usual / size[:, None], nearer)
    openings = torch.stack([size.sum(), own.norm(dim=-1).sum().clamp_min(LEAST_OPENING * size.sum())])
    return closing[:, None] / openings


def lips_parting(basis: MotionBasis, head: Tensor) -> tuple[Tensor, Tensor]:
    """By how many head units each expression of a basis parts the lips ``(K,)``, and by how many those of a head are
    parted, whose points are ``(478, 3)`` in head units."""
    own = head[LOWER_LIP] - head[UPPER_LIP]
    way = basis.face[LOWER_LIP] - basis.face[UPPER_LIP]
    return (way / way.norm()) @ (basis.modes[LOWER_LIP] - basis.modes[UPPER_LIP]), own.norm()


def shut_lips(change: Tensor, lips: tuple[Tensor, Tensor]) -> Tensor:
    """A change of expression ``(B, K)`` with lips shut that it leaves almost shut, unless the portrait's own are so
    too, by the least change of the face that does it. ``lips`` is of :func:`lips_parting`."""
    parting, own = lips
    gap = own + change @ parting
    less = (_almost_shut(gap, MOVING_PARTED_AT) - _almost_shut(own, MOVING_PARTED_AT)).clamp_min(0)
    return change - less[..., None] * parting / parting.square().sum()


def rest_lips(basis: MotionBasis, motion: Tensor, own: Tensor | None = None) -> Tensor:
    """Motion ``(..., components + 6)`` with lips shut that are clearly parted, as they most likely shut by the motion
    that a basis was fitted to; those of a head that are parted by ``own`` ``(...)`` in head units, by default by as
    much as its motion says."""
    parting, usual = lips_parting(basis, basis.face)
    gap = usual + motion[..., : basis.components] @ parting if own is None else own
    along = basis.covariance().to(motion) @ parting
    less = (gap - _almost_shut(gap, PARTED_AT)).clamp_min(0)[..., None] * along / (along @ parting)
    return motion - torch.nn.functional.pad(less, (0, motion.shape[-1] - basis.components))


def _almost_shut(gap: Tensor, parted: float) -> Tensor:
    """What of a gap of the lips is to be shut: all of a small one, nothing of one from ``parted`` on."""
    far = ((gap - PARTED_FROM) / (parted - PARTED_FROM)).clamp(0, 1)
    return gap.clamp_min(0) * (1 - far.square() * (3 - 2 * far))


AS_MADE = MotionControl()
