"""The Open-MAGVIT2 image tokenizer, encoder and lookup-free quantiser only, for the VTP identity strategy.

Appendix G; architecture and checkpoint layout as published by TencentARC (Open-MAGVIT2, arXiv 2409.04410). The
defaults are those of the 256-pixel ImageNet tokenizer: ``imagenet_256_L.ckpt`` in
``TencentARC/Open-MAGVIT2-Tokenizer-256-resolution`` on the Hugging Face hub.
"""

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from asymtalker.errors import UserError

NORM_GROUPS = 32
NORM_EPS = 1e-6


class MagvitResBlock(nn.Module):
    """Two normalised 3x3 convolutions without bias around a residual, ``(B, C_in, h, w)`` to ``(B, C_out, h, w)``."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, in_channels, NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, out_channels, NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else nn.Identity()
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        residual = self.shortcut(hidden_states)
        hidden_states = self.conv1(F.silu(self.norm1(hidden_states)))
        return residual + self.conv2(F.silu(self.norm2(hidden_states)))


class MagvitDownBlock(nn.Module):
    """Residual blocks at one resolution, then a strided convolution that halves it (not after the last level)."""

    def __init__(self, in_channels: int, out_channels: int, num_res_blocks: int, downsample: bool):
        super().__init__()
        self.resnets = nn.ModuleList(
            MagvitResBlock(in_channels if index == 0 else out_channels, out_channels)
            for index in range(num_res_blocks)
        )
        self.downsampler = (
            nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) if downsample else nn.Identity()
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
        return self.downsampler(hidden_states)


class MagvitTokenizer(ModelMixin, ConfigMixin):
    """A picture to a grid of discrete tokens; the signs of the encoder's ``codebook_bits`` channels are the token.

    Args:
        in_channels: channels of the picture.
        base_channels: channels at full resolution.
        channel_multipliers: channels of each level in units of ``base_channels``; each but the last halves the side.
        num_res_blocks: residual blocks per level, and in the middle.
        codebook_bits: bits of a token; the codebook has ``2 ** codebook_bits`` entries.
        sample_size: side in pixels of the pictures it tokenises.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 4,
        codebook_bits: int = 18,
        sample_size: int = 256,
    ) -> None:
        super().__init__()
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        self.conv_in = nn.Conv2d(in_channels, base_channels, 3, padding=1, bias=False)
        self.down_blocks = nn.ModuleList(
            MagvitDownBlock(before, after, num_res_blocks, downsample=level < len(widths) - 1)
            for level, (before, after) in enumerate(zip([base_channels, *widths[:-1]], widths, strict=True))
        )
        self.mid_blocks = nn.ModuleList(MagvitResBlock(widths[-1], widths[-1]) for _ in range(num_res_blocks))
        self.norm_out = nn.GroupNorm(NORM_GROUPS, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], codebook_bits, 1)

    @property
    def num_tokens(self) -> int:
        """Tokens of a picture of ``sample_size``."""
        return (self.config.sample_size // 2 ** (len(self.config.channel_multipliers) - 1)) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(B, 3, H, W)`` in [-1, 1] to bits before quantisation ``(B, codebook_bits, H/16, W/16)``."""
        hidden_states = self.conv_in(pixels)
        for block in self.down_blocks:
            hidden_states = block(hidden_states)
        for block in self.mid_blocks:
            hidden_states = block(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states)))

    def encode(self, pixels: Tensor) -> Tensor:
        """Token indices of a picture (eq. 27).

        Args:
            pixels: ``(B, 3, H, W)`` in [-1, 1].

        Returns:
            ``(B, H/16 * W/16)``, int64 in ``[0, 2 ** codebook_bits)``, rows from the top.
        """
        return lookup_free_indices(self(pixels)).flatten(1)


def lookup_free_indices(bits: Tensor) -> Tensor:
    """Lookup-free quantisation: bit ``k`` of the token is set where channel ``k`` is positive.

    Args:
        bits: ``(B, K, ...)``.

    Returns:
        ``(B, ...)``, int64 in ``[0, 2**K)``.
    """
    weights = 2 ** torch.arange(bits.shape[1], device=bits.device)
    return ((bits > 0).long() * weights.view(-1, *[1] * (bits.ndim - 2))).sum(1)


def published_name(name: str) -> str:
    """Where Open-MAGVIT2's checkpoints keep a parameter of :class:`MagvitTokenizer`, below ``encoder.``."""
    name = re.sub(r"^down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"^down_blocks\.(\d+)\.downsampler\.", r"down.\1.downsample.", name)
    name = name.replace("mid_blocks.", "mid_block.")
    return name.replace(".shortcut.", ".nin_shortcut.")


def load_published(path: Path, tokenizer: MagvitTokenizer) -> MagvitTokenizer:
    """Fill a tokenizer from a published Open-MAGVIT2 checkpoint.

    The averaged weights are taken where the checkpoint has them (under ``model_ema``, names without dots), because the
    published image generators were trained on their tokens.

    Args:
        path: a ``.ckpt`` with ``state_dict``, read without running any code in it.
        tokenizer: of the checkpoint's size.

    Returns:
        ``tokenizer``.

    Raises:
        UserError: if the file is not such a checkpoint or of another size.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, UnpicklingError) as error:
        raise UserError(f"{path} is not an Open-MAGVIT2 checkpoint that can be read safely: {error}") from error
    weights = {}
    for name, parameter in tokenizer.state_dict().items():
        published = f"encoder.{published_name(name)}"
        averaged = f"model_ema.{published.replace('.', '')}"
        value = state.get(averaged, state.get(published))
        if value is None:
            raise UserError(f"{path} has no {published}: it is not an Open-MAGVIT2 image tokenizer of this size")
        if value.shape != parameter.shape:
            raise UserError(
                f"{path} has {published} of shape {tuple(value.shape)} where {tuple(parameter.shape)} is needed: "
                "its config is another one"
            )
        weights[name] = value
    tokenizer.load_state_dict(weights)
    return tokenizer
