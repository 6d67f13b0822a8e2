"""What a person wants to see otherwise than it was made: more or less motion, eyes on the camera, no blinks.

Only what is seen changes, not the latents that a video goes on from.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asymtalker.errors import UserError
from asymtalker.media.face_mesh import NOSE_BASE
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
LIDS_GAIN = 1.4
"""What lids move over what a face mesh reads of it: of animated portraits that shut their eyes it reads 0.22 to 0.36
of their usual opening."""
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

    def modes(self, basis: MotionBasis) -> Tensor:
        """Displacements of the points ``(478, 3, K)`` by each expression of a basis, as they are to be seen. With the
        gaze on the camera there are two expressions more, which turn both eyes to the picture's right and down."""
        height = basis.face[:, 1]  # down from the middle between eyes and mouth
        eyes = basis.face[[*RIGHT_LIDS, *LEFT_LIDS], 1].mean()
        lower = ((height - eyes) / (height[NOSE_BASE] - eyes)).clamp(0, 1)  # 0 at the eyes, 1 from the nose down
        gains = self.motion + (1 - self.motion) * lower
        gains[[*LIPS, *INNER_LIPS]] = 1
        gains[[*RIGHT_LIDS, *LEFT_LIDS]] = LIDS_GAIN * self.blinks
        gains[list(IRISES)] = float(self.gaze == "free")
        modes = gains[:, None, None] * basis.modes
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

    def expression(self, change: Tensor, start: Pose, seen: Pose) -> Tensor:
        """The change of expression ``(B, components)`` since the portrait, in the modes' components."""
        if self.gaze == "free":
            return change
        back = (seen.rotation.transpose(-1, -2) @ start.rotation - torch.eye(3)) @ change.new_tensor([0.0, 0.0, -1.0])
        return torch.cat([change, EYEBALL * back[..., :2]], -1)


AS_MADE = MotionControl()
