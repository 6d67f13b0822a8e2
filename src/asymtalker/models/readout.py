"""A small network that reads what a face does off single framed pictures: how far the lips are open, where the head
points, and the weights of the 52 ARKit blendshapes. It measures generated video against ground truth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

SIDE = 256
"""Pixels a side that a picture is scaled to."""
EYES = (0.25, 0.55, 0.2, 0.8)
"""Top, bottom, left, right of the eyes and brows in a framed picture, as shares of its side."""
MOUTH = (0.5, 0.95, 0.25, 0.75)
"""Of the lower face, likewise."""
APERTURE = "lip_aperture"
"""Inner-lip gap over the distance of the outer eye corners."""
ANGLES = ("yaw", "pitch", "roll")
"""Of the head, in degrees, signs as in :class:`asymtalker.synth.pose.Pose`."""


def readings_of(ground_truth: dict[str, Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and values ``(F, n)`` float32 of all that a synthetic clip's ``ground_truth`` says of its frames."""
    shapes = ground_truth["blendshapes"]
    aperture = np.asarray(ground_truth["lip_aperture"], np.float32)[:, None]
    angles = np.asarray(ground_truth["head_pose"], np.float32)[:, : len(ANGLES)]
    weights = np.asarray(shapes["weights"], np.float32)
    return (APERTURE, *ANGLES, *shapes["names"]), np.concatenate([aperture, angles, weights], 1)


class FaceReadout(ModelMixin, ConfigMixin):
    """Readings of single frames, right but for a constant of each face and reading: how readings change is trained.

    One tower of convolutions sees the whole picture at half its size, another its lower face, a third the eyes at
    full size: lids are small.

    Args:
        outputs: names of the readings, as :func:`readings_of` gives them.
        centre: mean of each in training.
        spread: standard deviation of each; 0 where it never moved, and the reading is then its mean.
        width: channels of the first convolutions.
    """

    @register_to_config
    def __init__(
        self,
        outputs: Sequence[str],
        centre: Sequence[float],
        spread: Sequence[float],
        width: int = 24,
    ):
        super().__init__()
        self.whole = _tower(width)
        self.mouth = _tower(width)
        self.eyes = _tower(width)
        self.head = nn.Linear(3 * 4 * width * 16, len(outputs))
        self.register_buffer("mean", torch.tensor(centre, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(spread, dtype=torch.float32), persistent=False)

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [-1, 1], framed as for generation, to what all towers see ``(N, 192 width)``."""
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        half = F.avg_pool2d(pixels, 2)
        seen = self.whole(half), self.mouth(_part(half, MOUTH)), self.eyes(_part(pixels, EYES))
        return torch.cat([F.adaptive_avg_pool2d(tower, 4).flatten(1) for tower in seen], 1)

    def read(self, features: Tensor) -> Tensor:
        """:meth:`features` to readings ``(N, outputs)``."""
        return self.mean + self.scale * self.head(features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [-1, 1], framed as for generation, to readings ``(N, outputs)``."""
        return self.read(self.features(pixels))

    def column(self, name: str) -> int:
        """Where a reading stands among the outputs.

        Raises:
            ValueError: if it is not read.
        """
        return list(self.config.outputs).index(name)


def _part(pixels: Tensor, place: tuple[float, ...]) -> Tensor:
    """The part of ``(N, 3, S, S)`` at a place given in shares of the side."""
    top, bottom, left, right = (round(share * pixels.shape[-1]) for share in place)
    return pixels[:, :, top:bottom, left:right]


def _tower(width: int) -> nn.Sequential:
    """Four halvings, a convolution after each of the later ones."""
    layers: list[nn.Module] = []
    channels = 3
    for level, out in enumerate((width, 2 * width, 4 * width, 4 * width)):
        for stride in (2, 1) if level else (2,):
            layers += [nn.Conv2d(channels, out, 3, stride, padding=1), nn.GroupNorm(4, out), nn.SiLU()]
            channels = out
    return nn.Sequential(*layers)
