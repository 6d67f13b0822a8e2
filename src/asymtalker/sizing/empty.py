"""The networks of a pipeline without memory (:mod:`~asymtalker.sizing.costs`): to count what a chunk costs, on any
machine, and to make others like them."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from asymtalker.codec import latent_size
from asymtalker.config import ChunkConfig
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES, audio_encoder_like
from asymtalker.models.motion.painter import SIDE, Painter
from asymtalker.models.taehv import PreviewDecoder
from asymtalker.models.transformer import MASK_CHANNELS, AsymTalkerTransformer3DModel
from asymtalker.rollout import TAIL_CONTEXT
from asymtalker.sizing.costs import on_meta
from asymtalker.timeline import SAMPLES_PER_FRAME, latents_of_frames

M = TypeVar("M", bound=nn.Module)

Network = dict[str, Any]
"""What costs, memory and the stock pipeline depend on, as plain JSON values
(:meth:`asymtalker.generate.pipeline.AsymTalkerPipeline.describe`)."""


def describe_parts(transformer: Any, vae: Any, audio_encoder: Any) -> Network:
    """The networks' settings, without where they lay on this machine."""
    audio = audio_encoder if isinstance(audio_encoder, ConfigMixin) else audio_encoder.config
    configs = {"transformer": transformer, "vae": vae, "audio_encoder": audio}
    described = {part: json.loads(config.to_json_string()) for part, config in configs.items()}
    return {part: {name: of[name] for name in of if not name.startswith("_")} for part, of in described.items()}


def describe_chunk(chunk: ChunkConfig, *, preview: bool) -> Network:
    """The frames of a chunk, and how many of its latent frames the codec decodes: the end where a preview is shown."""
    tail = latents_of_frames(chunk.continuity_frames) + TAIL_CONTEXT
    return {
        "frames": chunk.frames,
        "continuity_frames": chunk.continuity_frames,
        "preview": preview,
        "decoded_latents": tail if preview else latents_of_frames(chunk.frames),
    }


def frozen_on_meta(build: Callable[[], M], dtype: torch.dtype = torch.float32) -> M:
    """The network that ``build`` makes, without memory and gradient."""
    network = on_meta(build).eval().requires_grad_(False)
    nn.Module.to(network, dtype)
    return network


def empty_transformer(network: Network) -> AsymTalkerTransformer3DModel:
    """The transformer without memory, its weights in the types they are loaded in."""
    transformer = frozen_on_meta(lambda: AsymTalkerTransformer3DModel(**network["transformer"]))
    for name, weight in transformer.named_parameters():
        kept = set(transformer._keep_in_fp32_modules) & set(name.split("."))
        weight.data = weight.data.to(torch.float32 if kept else getattr(torch, network["dtype"]))
    return transformer


def denoise(transformer: AsymTalkerTransformer3DModel, batch: int, frames: int, cells: tuple[int, int]) -> Tensor:
    """A pass of a transformer without memory on chunks of ``frames`` frames that have all conditions."""
    sizes, dtype, num_latents = transformer.config, transformer.dtype, latents_of_frames(frames)
    empty, tokens = partial(torch.empty, device="meta"), None
    if sizes.image_codebook_bits is not None:  # of VTP
        tokens = empty(batch, sizes.num_image_tokens, dtype=torch.int64)
    elif sizes.image_dim is not None:  # of CLIP
        tokens = empty(batch, sizes.num_image_tokens, sizes.image_dim, dtype=dtype)
    channels = sizes.latent_channels + MASK_CHANNELS + sizes.identity_channels
    return transformer(
        empty(batch, channels, num_latents, *cells, dtype=dtype),
        empty(batch, num_latents),
        empty(batch, frames + 2 * sizes.audio_context, sizes.audio_dim, dtype=dtype),
        tokens,
    ).sample.float()


def encode(vae: AutoencoderKLWan, batch: int, frames: int, size: tuple[int, int]) -> Tensor:
    """Latents of so many frames of a codec without memory."""
    return vae.encode(torch.empty(batch, 3, frames, *size, dtype=vae.dtype, device="meta")).latent_dist.mode()


def decode(vae: AutoencoderKLWan, batch: int, num_latents: int, cells: tuple[int, int]) -> Tensor:
    """Frames of so many latent frames of a codec without memory."""
    latents = torch.empty(batch, vae.config.z_dim, num_latents, *cells, dtype=vae.dtype, device="meta")
    return vae.decode(latents).sample.float()


def holds_motion(network: Network) -> bool:
    """Whether its codec is one of motion."""
    return "scale_factor_spatial" not in network["vae"]


def latent_cells(network: Network) -> tuple[int, int]:
    """Height and width of a latent frame: a motion has one cell, whatever the size of its frames."""
    if holds_motion(network):
        return 1, 1
    return latent_size(network["size"], network["vae"]["scale_factor_spatial"], network["transformer"]["patch_size"])


def parts_of_chunk(network: Network, transformer: AsymTalkerTransformer3DModel) -> dict[str, Callable[[], Tensor]]:
    """What runs for a later chunk of a pipeline, and once for a video (``identity``), without memory and gradient.

    By name ``transformer`` (one pass), ``decode``, ``re_encode``, ``identity``, ``audio`` (one block of sound) and,
    where one is shown, ``preview``. What a codec of motion does is the painter's work, if every mouth is open, and
    looking pixels up, which is neither matrix product nor convolution; its ``re_encode`` and ``identity`` are no work.
    """
    frames, dtype, cells = network["frames"], getattr(torch, network["codec_dtype"]), latent_cells(network)
    encoder = frozen_on_meta(lambda: audio_encoder_like(network["audio_encoder"]), dtype)
    block = torch.empty(1, (BLOCK_FRAMES + 2 * CONTEXT_FRAMES) * SAMPLES_PER_FRAME, dtype=dtype, device="meta")
    parts: dict[str, Callable[[], Tensor]] = {
        "transformer": partial(denoise, transformer, 1, frames, cells),
        **(_painting(network) if holds_motion(network) else _parts_of_codec(network, dtype, cells)),
        "audio": lambda: encoder(block).last_hidden_state,
    }
    if network["preview"]:
        channels = network["vae"]["z_dim"]
        decoder = frozen_on_meta(lambda: PreviewDecoder(channels), transformer.dtype)
        latents = torch.empty(1, channels, latents_of_frames(frames), *cells, device="meta")
        parts["preview"] = partial(decoder.decode, latents)
    return {name: torch.no_grad()(run) for name, run in parts.items()}


def _parts_of_codec(network: Network, dtype: torch.dtype, cells: tuple[int, int]) -> dict[str, Callable[[], Tensor]]:
    vae = frozen_on_meta(lambda: cast(AutoencoderKLWan, AutoencoderKLWan.from_config(network["vae"])), dtype)
    return {
        "decode": partial(decode, vae, 1, network["decoded_latents"], cells),
        "re_encode": partial(encode, vae, 1, network["continuity_frames"], network["size"]),
        "identity": partial(encode, vae, 1, network["frames"], network["size"]),
    }


def _painting(network: Network) -> dict[str, Callable[[], Tensor]]:
    painter = frozen_on_meta(lambda: Painter(network["vae"]["widths"]))
    new_frames = network["frames"] - network["continuity_frames"]
    squares = [torch.empty(new_frames, channels, SIDE, SIDE, device="meta") for channels in (3, 1, 3, 1)]
    return {"decode": partial(painter, *squares)}
