"""Pixels and normalised latents: the only home of range, axis order, mean and standard deviation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from asymtalker import timeline
from asymtalker.config import CodecConfig
from asymtalker.convolution import quicken_convolutions
from asymtalker.errors import UserError


def build_vae(config: CodecConfig) -> AutoencoderKLWan:
    """A codec with random weights. Every size is diffusers' own class."""
    patch = config.patch_size or 1
    return AutoencoderKLWan(
        base_dim=config.base_dim,
        decoder_base_dim=config.decoder_base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temperal_downsample),
        is_residual=config.is_residual,
        patch_size=config.patch_size,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        scale_factor_temporal=2 ** sum(config.temperal_downsample),
        scale_factor_spatial=patch * 2 ** (len(config.dim_mult) - 1),
        latents_mean=[0.0] * config.z_dim,
        latents_std=[1.0] * config.z_dim,
    )


def recompute_decoder(vae: AutoencoderKLWan, context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn) -> None:
    """Gradient checkpointing for the decoder, which diffusers has not: of what a gradient needs, what goes into its
    residual blocks and upsamplers is kept and the rest computed again. Values and gradients stay what they are.

    Args:
        vae: changed in place.
        context_fn: see :func:`torch.utils.checkpoint.checkpoint`.
    """
    for block in vae.decoder.modules():
        if isinstance(block, WanResidualBlock | WanResample):
            block.forward = partial(_recomputed, block.forward, context_fn)


def _recomputed(
    forward: Callable[..., Tensor],
    context_fn: Callable[[], tuple[Any, Any]],
    x: Tensor,
    feat_cache: list[Any],
    feat_idx: list[int],
) -> Tensor:
    """``forward``, which changes both lists, of a block; computed again it must find them as they were."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return forward(x, feat_cache=feat_cache, feat_idx=feat_idx)
    given, start = list(feat_cache), list(feat_idx)

    def run(x: Tensor) -> tuple[Tensor, list[Any], list[int]]:
        cache, index = list(given), list(start)
        return forward(x, feat_cache=cache, feat_idx=index), cache, index

    out, feat_cache[:], feat_idx[:] = cast(
        tuple[Tensor, list[Any], list[int]],
        checkpoint(run, x, use_reentrant=False, preserve_rng_state=False, context_fn=context_fn),
    )
    return out


def to_pixels(frames: np.ndarray) -> Tensor:
    """``uint8 (F, H, W, 3)`` frames as float pixels ``(1, 3, F, H, W)`` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def to_frames(pixels: Tensor) -> np.ndarray:
    """Pixels ``(1, 3, F, H, W)`` in [-1, 1] as ``uint8 (F, H, W, 3)`` frames."""
    return fetch_frames(pixels)()


def fetch_frames(pixels: Tensor) -> Callable[[], np.ndarray]:
    """:func:`to_frames` that does not wait for a GPU: the function it returns does, in whatever thread, and gives the
    frames."""
    frames = pixels[0].float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    frames = frames.permute(1, 2, 3, 0).contiguous()  # on the device: bytes in order are quick to fetch
    if frames.device.type != "cuda":
        return frames.cpu().numpy
    host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
    host.copy_(frames, non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(frames.device))

    def wait() -> np.ndarray:
        there.synchronize()
        return host.numpy()

    return wait


def latent_statistics(samples: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of raw latents ``(B, C, T, h, w)``.

    Pass posterior *samples*, not means: a channel the encoder does not use then has the prior's spread of 1 and is not
    blown up by normalisation.
    """
    count, total, square = 0, torch.zeros(1), torch.zeros(1)
    for sample in samples:
        flat = sample.double().transpose(0, 1).flatten(1)  # (C, N)
        count += flat.shape[1]
        total = total + flat.sum(1)
        square = square + flat.square().sum(1)
    mean = total / count
    return mean.tolist(), (square / count - mean.square()).clamp_min(1e-8).sqrt().tolist()


def latent_size(size: tuple[int, int], spatial: int, patch_size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of latent cells of a frame.

    Args:
        size: height and width in pixels.
        spatial: pixels on a side of a latent cell.
        patch_size: latent frames, rows and columns of cells that make one token.

    Raises:
        UserError: if tokens do not divide the frame.
    """
    steps = [spatial * side for side in patch_size[1:]]
    if any(side < step or side % step for side, step in zip(size, steps, strict=True)):
        raise UserError(
            f"The size {size[0]}x{size[1]} does not fit this model: its height must be a multiple of {steps[0]}"
            f" pixels, its width of {steps[1]}."
        )
    return size[0] // spatial, size[1] // spatial


class Codec(ABC):
    """What stands between frames and latents: all that the method knows of it.

    Attributes:
        vae: its network, saved in the folder ``vae`` of a checkpoint.
        channels: of a latent frame.
        spatial: pixels on a side of a latent cell; 0 for a codec that has a single cell whatever the frame's size.
        autocast: precision it runs in; ``None`` for the weights' own.
        statistics: settings beside the weights that change what it gives.
        pictures: what besides changes what it gives of one picture, still or repeated.
        memoryless: whether every latent frame decodes by itself, so that a long chunk need not be held at once, and
            several videos may be decoded at the same time.
    """

    vae: ModelMixin
    channels: int
    spatial: int
    autocast: torch.dtype | None
    statistics: tuple[object, ...] = ()
    pictures: tuple[object, ...] = ()
    memoryless: bool = False

    @property
    def encoder(self) -> nn.Module:
        """The part of the network that latents depend on."""
        return self.vae

    @abstractmethod
    def cells(self, size: tuple[int, int], patch_size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of latent cells of a frame of ``size``, height and width in pixels.

        Raises:
            UserError: if tokens of ``patch_size`` (latent frames, rows, columns) do not divide the frame.
        """

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels ``(B, 3, F, H, W)`` in [-1, 1] to normalised latents ``(B, C, 1 + (F-1)/4, h, w)``, float32.

        Raises:
            ValueError: if ``F`` is not ``1 + 4m``.
        """

    @abstractmethod
    def decode(self, latents: Tensor, portrait: Tensor | None = None, identity: Tensor | None = None) -> Tensor:
        """Normalised latents ``(B, C, T, h, w)`` to pixels ``(B, 3, 1 + 4 (T-1), H, W)`` in [-1, 1], float32.

        Args:
            latents: to decode.
            portrait: the picture ``(B, 3, 1, H, W)`` whose face is seen, for a codec that does not hold it in latents.
            identity: latents of that face (:class:`asymtalker.models.identity.Identity`), which ``latents`` are seen
                against; by default what is read of ``portrait``.
        """

    def decode_frames(
        self,
        latents: Tensor,
        begin: int,
        stop: int,
        portrait: Tensor | None,
        identity: Tensor | None,
        closing: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Frames ``[begin, stop)`` of what :meth:`decode` gives, a few at a time where the codec is ``memoryless``;
        where it fits frames to each other, they are fitted to those before ``begin``, which have been seen.
        Where it knows of lids, ``closing`` says how far, 0 to 1, they are to be shut at least ``(stop - begin,)``; it
        is told by what share of their opening they close themselves in all frames of ``latents`` ``(F,)``."""
        yield self.decode(latents, portrait, identity)[:, :, begin:stop]

    def compared(self, latents: Tensor) -> Tensor:
        """Decoded frames ``(B, D, F, H, W)`` as the teacher's losses on them compare them (eq. 16, 17), with gradient:
        pixels, or what the codec holds in their place."""
        return self.decode(latents)

    def with_motion_of(
        self, latents: Tensor, others: Tensor, backward: Tensor, portraits: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Latents of the people in ``latents``, who say what they say and otherwise move as those in ``others`` do.
        Only a codec of motion has this.

        Args:
            latents: to be changed ``(B, C, T, h, w)``.
            others: whose head, eyes and brows are taken, of the same shape.
            backward: ``(B,)`` bool: which of these are taken from the last frame to the first.
            portraits: identity latents of both (:class:`asymtalker.models.identity.Identity`): heads are as far from
                the one as the others' are from the other. ``None`` goes from where each chunk begins.
        """
        raise NotImplementedError

    def going_on_from(self, latents: Tensor, given: Tensor) -> Tensor:
        """A real chunk ``(B, C, T, h, w)`` as it would go on from where the head is at the end of ``given``
        ``(B, C, 1 + m, h, w)``, generated continuity, which takes the place of its own [ours]; as it is where a codec
        can't move heads."""
        return latents

    def encode_again(self, latents: Tensor, frames: range, begin: int, decoded: Callable[[], Tensor]) -> Tensor:
        """Latents of ``frames`` of those that ``latents`` decode to, encoded anew as a chunk begins (section 3.2), as
        they are seen from frame ``begin`` on (:meth:`decode_frames`); ``decoded`` gives them, decoded."""
        return self.encode(decoded())


class WanCodec(Codec):
    """The frozen 3D causal VAE with normalised latents.

    Args:
        vae: the autoencoder; its config carries ``latents_mean`` and ``latents_std``. Its convolutions are changed to
            quicker ones of the same values (:mod:`asymtalker.convolution`).
        autocast: run in this precision; ``None`` runs in the weights' own.
    """

    def __init__(self, vae: AutoencoderKLWan, autocast: torch.dtype | None = None):
        self.vae = vae
        quicken_convolutions(vae)
        self.autocast = autocast
        self.channels = vae.config.z_dim
        self.statistics = (vae.config.latents_mean, vae.config.latents_std)
        self.spatial: int = vae.config.scale_factor_spatial
        self._statistics = torch.tensor([vae.config.latents_mean, vae.config.latents_std]).view(2, 1, -1, 1, 1, 1)

    def _precision(self, device: torch.device) -> AbstractContextManager:
        return torch.autocast(device.type, self.autocast, enabled=self.autocast is not None)

    def _mean_and_std(self, device: torch.device) -> Tensor:
        """``(2, 1, C, 1, 1, 1)``; copied to a device once, as a GPU's work would be waited for each time."""
        if self._statistics.device != device:
            self._statistics = self._statistics.to(device)
        return self._statistics

    def cells(self, size: tuple[int, int], patch_size: Sequence[int]) -> tuple[int, int]:
        """See :meth:`Codec.cells`."""
        return latent_size(size, self.spatial, patch_size)

    def encode(self, pixels: Tensor) -> Tensor:
        """See :meth:`Codec.encode`."""
        timeline.latents_of_frames(pixels.shape[2])
        with self._precision(pixels.device):
            latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        mean, std = self._mean_and_std(latents.device)
        return (latents - mean) / std

    def decode(self, latents: Tensor, portrait: Tensor | None = None, identity: Tensor | None = None) -> Tensor:
        """See :meth:`Codec.decode`; the latents hold all there is."""
        mean, std = self._mean_and_std(latents.device)
        raw = latents * std + mean
        with self._precision(latents.device):
            return self.vae.decode(raw.to(self.vae.dtype)).sample.float()
