"""A tiny decoder of Wan2.1 latents for previews: the decoder of TAEHV, whose published weights the user supplies.

Ours after the layout of madebyollin's ``taew2_1`` (github.com/madebyollin/taehv, MIT), so that its state dict loads.
Like the codec it is causal; unlike it, it has no attention and no norms. It takes normalised latents as they are.
"""

import inspect
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from asymtalker.errors import UserError
from asymtalker.timeline import TEMPORAL_COMPRESSION

WIDTHS = (256, 128, 64, 64)
TIME_GROWTH = (1, 2, 2)
"""Frames that each of the three stages makes of one."""
SURPLUS_FRAMES = TEMPORAL_COMPRESSION - 1  # the first latent frame is one frame, but gives as many as all
WAN = inspect.signature(AutoencoderKLWan).parameters
"""Defaults are Wan2.1's own codec's."""
PIECE = 4
"""Latent frames decoded together; memory does not grow with the length of a chunk."""


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class SoftClamp(nn.Module):
    """Keeps latents within (-3, 3)."""

    def forward(self, frames: Tensor) -> Tensor:
        """Any shape."""
        return 3 * torch.tanh(frames / 3)


class MemoryBlock(nn.Module):
    """Residual block of three convolutions that see a frame and the one before it."""

    def __init__(self, width: int):
        super().__init__()
        layers = [_conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)]
        self.conv = nn.Sequential(*layers)

    def forward(self, frames: Tensor, before: Tensor) -> Tensor:
        """``(N, C, H, W)`` and the frame before each."""
        return torch.relu(self.conv(torch.cat([frames, before], dim=1)) + frames)


class TimeGrowth(nn.Module):
    """Makes ``factor`` frames of each."""

    def __init__(self, width: int, factor: int):
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(width, width * factor, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N factor, C, H, W)``."""
        return self.conv(frames).unflatten(1, (self.factor, -1)).flatten(0, 1)


class PreviewDecoder(nn.Module):
    """Normalised latents to pixels.

    Args:
        latent_channels: channels of the latents, 16 for Wan2.1.
    """

    def __init__(self, latent_channels: int = 16):
        super().__init__()
        layers: list[nn.Module] = [SoftClamp(), _conv(latent_channels, WIDTHS[0]), nn.ReLU()]
        for width, following, growth in zip(WIDTHS[:-1], WIDTHS[1:], TIME_GROWTH, strict=True):
            layers += [MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), TimeGrowth(width, growth), _conv(width, following, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv(WIDTHS[-1], 3))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``(B, C, T, h, w)`` to pixels ``(B, 3, 1 + 4 (T-1), 8h, 8w)`` in [-1, 1], float32."""
        memory: dict[int, Tensor] = {}
        dtype = cast(nn.Conv2d, self.decoder[1]).weight.dtype
        # Without memory, to count what it costs, there is no autocast.
        with nullcontext() if latents.is_meta else torch.autocast(latents.device.type, enabled=False):
            pieces = [self._piece(piece.to(dtype), memory) for piece in latents.split(PIECE, dim=2)]
        return torch.cat(pieces, dim=2)[:, :, SURPLUS_FRAMES:]

    def _piece(self, latents: Tensor, memory: dict[int, Tensor]) -> Tensor:
        """Decode latent frames that follow those which left their last frames, by layer, in ``memory``."""
        batch = len(latents)
        frames = latents.transpose(1, 2).flatten(0, 1)  # (B T, C, h, w)
        for index, layer in enumerate(self.decoder):
            if isinstance(layer, MemoryBlock):
                videos = frames.unflatten(0, (batch, -1))
                first = memory.get(index, torch.zeros_like(videos[:, :1]))
                memory[index] = videos[:, -1:].clone()
                before = torch.cat([first, videos[:, :-1]], dim=1).flatten(0, 1)
                frames = layer(frames, before)
            else:
                frames = layer(frames)
        return (frames.float().clamp(0, 1) * 2 - 1).unflatten(0, (batch, -1)).transpose(1, 2)


def load_preview(path: Path, vae: AutoencoderKLWan) -> PreviewDecoder:
    """A preview decoder for a codec's latents, from a file of weights (``.safetensors``, or ``.pth`` without code).

    Args:
        path: such as the published ``taew2_1.safetensors``; an encoder in it is left out.
        vae: the codec.

    Raises:
        UserError: if the file cannot be read, naming the first weight that does not fit, or the codec's latents are
            others than Wan2.1's.
    """
    config = vae.config
    if "scale_factor_spatial" not in config:
        raise UserError(
            "The preview decoder is for codecs that make pixels, as Wan2.1's: this one moves the portrait."
        )
    if (config.scale_factor_spatial, config.scale_factor_temporal) != (8, TEMPORAL_COMPRESSION):
        raise UserError(
            f"The preview decoder is for codecs that shrink pictures 8 times, as Wan2.1's: this one shrinks them"
            f" {config.scale_factor_spatial} times."
        )
    if config.z_dim == WAN["z_dim"].default and config.latents_mean != WAN["latents_mean"].default:
        raise UserError("The preview decoder is for Wan2.1's latents: this model's codec makes others; leave it out.")
    with torch.device("meta"):
        decoder = PreviewDecoder(config.z_dim)
    weights = _read(path)
    fitting = {}
    for key, expected in decoder.state_dict().items():
        if key not in weights:
            raise UserError(f"The preview decoder {path} lacks {key}: give TAEHV's taew2_1.")
        weight = weights[key]
        if weight.shape[1:] == expected.shape[1:] and expected.shape[-1] == 1:  # of a TimeGrowth
            weight = weight[-len(expected) :]  # it may be of a larger growth, of which the last frames count
        if weight.shape != expected.shape:
            raise UserError(
                f"The preview decoder {path} has {key} of shape {tuple(weight.shape)}, but this codec's latents need"
                f" {tuple(expected.shape)}: give TAEHV's taew2_1."
            )
        fitting[key] = weight
    decoder.load_state_dict(fitting, assign=True)
    return decoder.eval().requires_grad_(False)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, by name."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is not a file of weights: give TAEHV's taew2_1.") from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"{path} holds more than weights by name: give TAEHV's taew2_1.")
    return weights
