"""The networks of a pipeline without memory (:mod:`~asymtalker.sizing.costs`): to count what a chunk costs, on any
machine, and to make others like them."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from asymtalker.codec import latent_size
from asymtalker.config import ChunkConfig
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES
from asymtalker.models.taehv import PreviewDecoder
from asymtalker.models.transformer import MASK_CHANNELS, AsymTalkerTransformer3DModel
from asymtalker.rollout import TAIL_CONTEXT
from asymtalker.sizing.costs import on_meta
from asymtalker.timeline import SAMPLES_PER_FRAME, latents_of_frames

Network = dict[str, Any]
"""What costs, memory and the stock pipeline depend on, as plain JSON values
(:meth:`asymtalker.generate.pipeline.AsymTalkerPipeline.describe`)."""


def describe_parts(transformer: Any, vae: Any, audio_encoder: Any) -> Network:
    """The networks' settings, without where they lay on this machine."""
    texts = {
        "transformer": transformer.to_json_string(),
        "vae": vae.to_json_string(),
        "audio_encoder": audio_encoder.config.to_json_string(),
    }
    return {
        part: {name: value for name, value in json.loads(text).items() if not name.startswith("_")}
        for part, text in texts.items()
    }


def describe_chunk(chunk: ChunkConfig, *, preview: bool) -> Network:
    """The frames of a chunk, and how many of its latent frames the codec decodes: the end where a preview is shown."""
    tail = latents_of_frames(chunk.continuity_frames) + TAIL_CONTEXT
    return {
        "frames": chunk.frames,
        "continuity_frames": chunk.continuity_frames,
        "preview": preview,
        "decoded_latents": tail if preview else latents_of_frames(chunk.frames),
    }


def empty_transformer(network: Network) -> AsymTalkerTransformer3DModel:
    """The transformer without memory, its weights in the types they are loaded in."""
    transformer = on_meta(lambda: AsymTalkerTransformer3DModel(**network["transformer"])).eval().requires_grad_(False)
    for name, weight in transformer.named_parameters():
        kept = set(transformer._keep_in_fp32_modules) & set(name.split("."))
        weight.data = weight.data.to(torch.float32 if kept else getattr(torch, network["dtype"]))
    return transformer


def parts_of_chunk(network: Network, transformer: AsymTalkerTransformer3DModel) -> dict[str, Callable[[], Tensor]]:
    """What runs for a later chunk, and once for a video (``identity``), without memory and gradient.

    Args:
        network: of a pipeline.
        transformer: of :func:`empty_transformer`.

    Returns:
        By name ``transformer`` (one pass), ``decode``, ``re_encode``, ``identity``, ``audio`` (one block of sound)
        and, where one is shown, ``preview``.
    """
    sizes, frames = network["transformer"], network["frames"]
    codec_dtype = getattr(torch, network["codec_dtype"])
    vae = _frozen(lambda: cast(nn.Module, AutoencoderKLWan.from_config(network["vae"])), codec_dtype)
    encoder = _frozen(lambda: Wav2Vec2Model(Wav2Vec2Config(**network["audio_encoder"])), codec_dtype)
    channels, num_latents = network["vae"]["z_dim"], latents_of_frames(frames)
    cells = latent_size(network["size"], network["vae"]["scale_factor_spatial"], sizes["patch_size"])
    empty = partial(torch.empty, device="meta")
    states = channels + MASK_CHANNELS + sizes["identity_channels"]
    inputs = (
        empty(1, states, num_latents, *cells, dtype=transformer.dtype),
        empty(1, num_latents),
        empty(1, frames + 2 * sizes["audio_context"], sizes["audio_dim"], dtype=transformer.dtype),
        _image_tokens(sizes, transformer.dtype),
    )
    latents = empty(1, channels, network["decoded_latents"], *cells, dtype=codec_dtype)
    pixels = empty(1, 3, frames, *network["size"], dtype=codec_dtype)
    block = empty(1, (BLOCK_FRAMES + 2 * CONTEXT_FRAMES) * SAMPLES_PER_FRAME, dtype=codec_dtype)

    def encode(count: int) -> Tensor:
        return vae.encode(pixels[:, :, :count]).latent_dist.mode()

    parts: dict[str, Callable[[], Tensor]] = {
        "transformer": lambda: transformer(*inputs).sample.float(),
        "decode": lambda: vae.decode(latents).sample.float(),
        "re_encode": lambda: encode(network["continuity_frames"]),
        "identity": lambda: encode(frames),
        "audio": lambda: encoder(block).last_hidden_state,
    }
    if network["preview"]:
        decoder = _frozen(lambda: PreviewDecoder(channels), transformer.dtype)
        parts["preview"] = lambda: decoder.decode(empty(1, channels, num_latents, *cells))
    return {name: torch.no_grad()(run) for name, run in parts.items()}


def _frozen(build: Callable[[], nn.Module], dtype: torch.dtype) -> Any:
    network = on_meta(build).eval().requires_grad_(False)
    nn.Module.to(network, dtype)
    return network


def _image_tokens(sizes: dict[str, Any], dtype: torch.dtype) -> Tensor | None:
    """Of CLIP or VTP: features, or numbers of a codebook."""
    count = sizes["num_image_tokens"]
    if sizes["image_codebook_bits"] is not None:
        return torch.empty(1, count, dtype=torch.int64, device="meta")
    return (
        None if sizes["image_dim"] is None else torch.empty(1, count, sizes["image_dim"], dtype=dtype, device="meta")
    )
