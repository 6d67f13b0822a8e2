"""Train a codec (``AutoencoderKLWan``) on clips of a corpus and on photographs in motion, then freeze it.

At the paper's size the codec is Wan2.1's own and this file is not used.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor

from asymtalker.codec import build_vae, latent_statistics, to_pixels
from asymtalker.config import CodecTrainConfig, LoopConfig
from asymtalker.dataset import corpus
from asymtalker.errors import UserError
from asymtalker.flow import hashed_seed, numbered_generator
from asymtalker.media.atomic import save_atomic
from asymtalker.media.picture import PICTURE_SUFFIXES, read_picture
from asymtalker.synth.portraits import photo_identity, reserved_portraits
from asymtalker.synth.speech import split_of
from asymtalker.training.checkpoint import EMA, OptimizerState, Weights
from asymtalker.training.distributed import on_its_device
from asymtalker.training.frozen import load_like
from asymtalker.training.run_folder import (
    RunFolder,
    autocast,
    build_optimizer,
    in_its_precision,
    learning_rate,
    optimizer_step,
    run_steps,
)


def train_codec(config: CodecTrainConfig, run_path: Path, corpus_path: Path | None, portraits: Path | None) -> None:
    """Train and write ``run_path/vae`` (a diffusers folder with latent statistics in its config).

    Args:
        config: sizes and schedule.
        run_path: run folder; the same command resumes.
        corpus_path: corpus whose training clips are used, or ``None``.
        portraits: folder of pictures that are set in motion, or ``None``.

    Raises:
        UserError: if neither source is given or one is empty.
    """
    source = ClipSource.open(config, corpus_path, portraits)
    config = in_its_precision(on_its_device(config), run_path)
    loop = config.loop
    run = RunFolder(run_path, config, {"corpus": str(corpus_path), "portraits": str(portraits)})
    torch.manual_seed(hashed_seed(loop.seed, "weights"))
    vae = build_vae(config.model)
    if config.init:
        vae = load_like(vae, config.init)
    torch.nn.Module.to(vae.train(), loop.device)
    optimizer = build_optimizer(vae, config.optimizer)
    ema = EMA(vae, config.optimizer.ema_decay)

    parts = {"vae": Weights(vae), "optimizer": OptimizerState(vae, optimizer), "ema": ema}
    with run_steps(run, loop, parts) as steps:
        for step in steps:
            losses = codec_losses(config, vae, source, numbered_generator(loop.seed, step.index))
            (losses["l1"] + config.edge_weight * losses["edges"] + config.kl_weight * losses["kl"]).backward()
            lr = learning_rate(config.optimizer, step.index, loop.steps)
            norm = optimizer_step(optimizer, config.optimizer, lr)
            ema.update(vae)
            step.log({name: losses[name].detach() for name in ("l1", "kl", "psnr")} | {"grad_norm": norm})
            if step.saves:
                save_codec(ema.module, source, loop, run_path / "vae")


def codec_losses(
    config: CodecTrainConfig, vae: AutoencoderKLWan, source: "ClipSource", generator: torch.Generator
) -> dict[str, Tensor]:
    """What a random batch of clips costs: ``l1`` of pixels, ``edges``, ``kl``; and ``psnr`` in dB."""
    loop = config.loop
    pixels = source.batch(loop.batch, generator).to(loop.device)  # (B, 3, F, s, s)
    with autocast(loop):
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * _noise_like(posterior.mean, generator)
        decoded = _decode_unclamped(vae, latents).float()
    mse = F.mse_loss(decoded.clamp(-1, 1), pixels).detach()
    return {
        "l1": (decoded - pixels).abs().mean(),
        "edges": _edge_distance(decoded, pixels),
        "kl": 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean(),
        "psnr": 10 * torch.log10(4 / mse),
    }


@torch.no_grad()
def save_codec(vae: AutoencoderKLWan, source: "ClipSource", loop: LoopConfig, folder: Path) -> None:
    """Write a codec with latent statistics measured on training clips."""

    def samples() -> Iterator[Tensor]:
        for index in range(8):
            generator = numbered_generator(loop.seed, index, "statistics")
            pixels = source.batch(loop.batch, generator).to(loop.device)
            with autocast(loop):
                posterior = vae.encode(pixels).latent_dist
            yield (posterior.mean + posterior.std * _noise_like(posterior.mean, generator)).float().cpu()

    mean, std = latent_statistics(samples())
    pixels = source.batch(loop.batch, numbered_generator(loop.seed, 0, "statistics")).to(loop.device)
    visible = channel_visibility(vae, pixels, std)  # in float32: rounding would drown what a weak channel does
    vae.register_to_config(latents_mean=mean, latents_std=equal_visibility(std, visible))
    save_atomic(folder, vae.save_pretrained)


def _noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise from a generator on the CPU, so that devices agree; float32 also beside a narrower type."""
    return torch.randn(like.shape, generator=generator).to(like.device)


@torch.no_grad()
def channel_visibility(vae: AutoencoderKLWan, pixels: Tensor, std: Sequence[float]) -> list[float]:
    """How much the picture changes with each latent channel: RMS of the pixels' change per unit of the channel.

    Args:
        vae: a trained codec.
        pixels: clips ``(B, 3, F, H, W)`` in [-1, 1].
        std: standard deviation of each channel; the change is measured over a tenth of it, up or down at random.
    """
    latents = vae.encode(pixels).latent_dist.mode()
    signs = torch.randint(2, latents[:, 0].shape, generator=torch.Generator().manual_seed(0)).to(latents) * 2 - 1
    decoded = _decode_unclamped(vae, latents).float()
    changes = []
    for channel, spread in enumerate(std):
        moved = latents.clone()
        moved[:, channel] += 0.1 * spread * signs
        changes.append(
            float((_decode_unclamped(vae, moved).float() - decoded).square().mean().sqrt()) / (0.1 * spread)
        )
    return changes


def equal_visibility(std: Sequence[float], visibility: Sequence[float]) -> list[float]:
    """Divisors of the latent channels after which a step in any channel is seen equally well.

    The flow-matching loss is then about the error in pixels, and noise hides fine detail first and the coarse shape
    last, as in pixel space. The mean variance over the channels is 1.

    Args:
        std: standard deviation of each channel.
        visibility: of :func:`channel_visibility`; a channel that does next to nothing counts as a fiftieth of the
            strongest, so that an error in it can't grow into a huge raw latent.
    """
    visible = np.maximum(visibility, max(visibility) / 50)
    return (np.sqrt(np.mean((np.asarray(std) * visible) ** 2)) / visible).tolist()


def _decode_unclamped(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode with gradient everywhere: diffusers clamps to [-1, 1], which would kill it outside."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    frames = []
    for index in range(hidden.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )
        )
    vae.clear_cache()
    decoded = torch.cat(frames, 2)
    return unpatchify(decoded, vae.config.patch_size) if vae.config.patch_size else decoded


def _edge_distance(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean L1 distance of horizontal and vertical differences: keeps lips, teeth and lids sharp."""
    error = decoded - pixels
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


@dataclass(frozen=True)
class ClipSource:
    """Random training clips, each a pure function of a generator."""

    config: CodecTrainConfig
    corpus_path: Path | None
    keys: tuple[str, ...]
    pictures: tuple[Path, ...]

    @classmethod
    def open(cls, config: CodecTrainConfig, corpus_path: Path | None, portraits: Path | None) -> "ClipSource":
        """List the training clips of ``corpus_path`` and the pictures below ``portraits`` that are not held out."""
        keys: tuple[str, ...] = ()
        if corpus_path:
            rows = corpus.read_manifest(corpus_path)
            keys = tuple(row.key for row in rows if row.split == "train" and not row.rejected_by)
            if not keys:
                raise UserError(f"{corpus_path}: no training clip in this corpus")
        pictures: tuple[Path, ...] = ()
        if portraits:
            found = sorted(p for p in portraits.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
            reserved = reserved_portraits(portraits)
            kept = [path for path in found if path.relative_to(portraits).as_posix() not in reserved]
            pictures = tuple(path for path in kept if split_of(photo_identity(path)) == "train")
            if not pictures:
                raise UserError(f"{portraits}: no picture to train on here; give a folder with .jpg or .png files")
        if not keys and not pictures:
            raise UserError("codec training needs --corpus, --portraits or both")
        return cls(config, corpus_path, keys, pictures)

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """Pixels ``(size, 3, frames, crop, crop)`` in [-1, 1]."""
        return torch.cat([self._sample(generator) for _ in range(size)])

    def _sample(self, generator: torch.Generator) -> Tensor:
        from_picture = _uniform(generator) < self.config.picture_fraction
        if self.pictures and (from_picture or not self.keys):
            path = self.pictures[_index(len(self.pictures), generator)]
            return photograph_in_motion(_thumbnail(path), self.config.frames, self.config.crop, generator)
        key = self.keys[_index(len(self.keys), generator)]
        assert self.corpus_path
        frames = _clip_frames(self.corpus_path, key)
        start = _index(max(1, len(frames) - self.config.frames + 1), generator)
        return random_crop(frames[start : start + self.config.frames], self.config.crop, generator)


@lru_cache(maxsize=1024)
def _thumbnail(path: Path) -> np.ndarray:
    """The picture with its short side at most 384 px: about the scale of framed faces."""
    picture = read_picture(path)
    scale = 384 / min(picture.shape[:2])
    if scale < 1:
        tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        tensor = F.interpolate(tensor, scale_factor=scale, mode="bilinear", antialias=True)
        picture = tensor[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return picture


@lru_cache(maxsize=64)
def _clip_frames(folder: Path, key: str) -> np.ndarray:
    return corpus.open_clip(folder, key).frames()


def random_crop(frames: np.ndarray, crop: int, generator: torch.Generator) -> Tensor:
    """A random square window of ``(F, H, W, 3)`` frames, mirrored half the time: ``(1, 3, F, crop, crop)``."""
    top = _index(frames.shape[1] - crop + 1, generator)
    left = _index(frames.shape[2] - crop + 1, generator)
    pixels = to_pixels(frames[:, top : top + crop, left : left + crop])
    return pixels.flip(-1) if _uniform(generator) < 0.5 else pixels


def photograph_in_motion(picture: np.ndarray, num_frames: int, crop: int, generator: torch.Generator) -> Tensor:
    """A clip ``(1, 3, F, crop, crop)`` of ``picture`` shifting, turning, zooming and bending smoothly."""
    height, width = picture.shape[:2]
    zoom = math.exp(-0.7 + 0.9 * _uniform(generator))  # picture pixels per crop pixel
    zoom = min(zoom, 0.95 * min(height, width) / crop)
    centre = torch.rand(2, generator=generator) * torch.tensor([height - zoom * crop, width - zoom * crop])
    speed = 2.0 ** (-3 + 4 * _uniform(generator))
    path = _smooth_noise((4, num_frames), 5, generator) * speed  # dy, dx, angle, log zoom
    bend = _smooth_noise((2, num_frames), 2, generator)  # two local bumps open and close, as lips and lids do
    axis = torch.linspace(-0.5, 0.5, crop)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, scale = 0.04 * path[2], zoom * crop * torch.exp(0.03 * path[3])
    cos, sin = (angle.cos() * scale)[:, None, None], (angle.sin() * scale)[:, None, None]
    rows = cos * y + sin * x + (0.02 * crop * path[0])[:, None, None] + centre[0] + zoom * crop / 2
    columns = cos * x - sin * y + (0.02 * crop * path[1])[:, None, None] + centre[1] + zoom * crop / 2
    for bump in bend:
        at = torch.rand(2, generator=generator) - 0.5
        radius = 0.05 + 0.15 * _uniform(generator)
        weight = torch.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * radius**2))
        rows = rows + 0.06 * zoom * crop * bump[:, None, None] * weight * torch.sign(y - at[0])
    grid = torch.stack([columns / (width - 1), rows / (height - 1)], -1) * 2 - 1
    source = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    frames = F.grid_sample(source.expand(num_frames, -1, -1, -1), grid, padding_mode="reflection", align_corners=True)
    return frames.transpose(0, 1)[None].clamp(-1, 1)


def _smooth_noise(shape: tuple[int, int], knots: int, generator: torch.Generator) -> Tensor:
    """``shape`` of unit normal knots, interpolated in time."""
    values = torch.randn(1, shape[0], knots, generator=generator)
    return F.interpolate(values, shape[1], mode="linear", align_corners=True)[0]


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _index(length: int, generator: torch.Generator) -> int:
    return int(torch.randint(length, (), generator=generator))
