"""A small network that reads the lip aperture off a framed face, to measure generated video against ground truth."""

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

MOUTH = (
    0.5,
    0.95,
    0.25,
    0.75,
)  # top, bottom, left, right of the lower face in a framed picture, as shares of its side
INPUT = (58, 64)  # height and width the lower face is scaled to


class LipReadout(ModelMixin, ConfigMixin):
    """Lip aperture of single frames: inner-lip gap over the distance of the outer eye corners.

    Args:
        width: channels of the first convolution; doubled twice.
    """

    @register_to_config
    def __init__(self, width: int = 24):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GroupNorm(4, out), nn.SiLU()]
            channels = out
        self.features = nn.Sequential(*layers)  # (N, 4 width, 4, 4)
        self.head = nn.Linear(channels * 16, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [-1, 1], framed as for generation, to apertures ``(N,)``."""
        height, width = pixels.shape[-2:]
        top, bottom, left, right = MOUTH
        mouth = pixels[:, :, int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
        mouth = F.interpolate(mouth, INPUT, mode="bilinear", antialias=True)
        return self.head(self.features(mouth).flatten(1))[:, 0]
