"""What the device can do at most, and what the parts of a chunk ask of it: the two numbers speed is held against."""

import math
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from transformers import Wav2Vec2Config, Wav2Vec2Model

from asymtalker.codec import latent_size
from asymtalker.costs import count_flops, on_meta
from asymtalker.generate.bench_measure import Job, synchronize
from asymtalker.generate.placement import memory_said, set_attention
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES
from asymtalker.models.transformer import MASK_CHANNELS, AsymTalkerTransformer3DModel, attend
from asymtalker.timeline import SAMPLES_PER_FRAME, latents_of_frames

SQUARE = {"cuda": 8192, "cpu": 1024}
MEASURED_SECONDS = 0.5
"""For which a kernel is repeated, after a tenth of it to warm up."""


def token_count(network: dict[str, Any]) -> int:
    """Tokens of a chunk that the transformer sees at once."""
    patch = network["transformer"]["patch_size"]
    cells = math.prod(latent_size(network["size"], network["vae"]["scale_factor_spatial"], patch))
    return latents_of_frames(network["frames"]) * cells // math.prod(patch)


def measure_ceiling(job: Job) -> dict[str, Any]:
    """TFLOP/s of matrix products, of a square one and of those in the transformer's blocks, and of its attention.

    Args:
        job: ``network`` of :func:`asymtalker.generate.bench_measure.describe_network`, and ``attention``, a kernel by
            diffusers' name, or null.

    Returns:
        ``dtype``; ``matmul``, TFLOP/s by shape ``rows x inner x columns``; ``matmul_tflops``, the most of them: the
        ceiling; ``attention_tflops`` and ``attention_shape``.

    Raises:
        UserError: if the kernel cannot be used here, or the GPU's memory is too small.
    """
    with memory_said("The GPU's memory is too small for the ceiling's matrix products and attention."):
        return _measure_ceiling(job)


def _measure_ceiling(job: Job) -> dict[str, Any]:
    network, device = job["network"], torch.device(job["network"]["device"])
    dtype = getattr(torch, network["autocast"] or network["dtype"])
    sizes, tokens = network["transformer"], token_count(network)
    heads, head_dim = sizes["num_attention_heads"], sizes["attention_head_dim"]
    width, side = heads * head_dim, SQUARE[device.type]
    shapes = [(side, side, side), (tokens, width, width), (tokens, width, sizes["ffn_dim"])]
    shapes.append((tokens, sizes["ffn_dim"], width))
    matmul = {}
    for rows, inner, columns in shapes:
        left, right = _random(device, dtype, rows, inner), _random(device, dtype, inner, columns)
        seconds = seconds_of(lambda left=left, right=right: left @ right, device)
        matmul[f"{rows}x{inner}x{columns}"] = round(2e-12 * rows * inner * columns / seconds, 4)
    query, key, value = (_random(device, dtype, 1, tokens, heads, head_dim) for _ in range(3))
    backend = None
    if job["attention"]:
        set_attention(on_meta(lambda: AsymTalkerTransformer3DModel(**sizes)), job["attention"], device)  # loads it
        backend = AttentionBackendName(job["attention"])
    with torch.no_grad():
        seconds = seconds_of(lambda: attend(query, key, value, backend), device)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_tflops": max(matmul.values()),
        "matmul": matmul,
        "attention_tflops": round(4e-12 * tokens**2 * width / seconds, 4),
        "attention_shape": f"{tokens} tokens, {heads} heads of {head_dim}",
    }


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, over as many as fill ``MEASURED_SECONDS``."""
    spent = _repeat(work, device, 1)  # which chooses the kernel
    spent = _repeat(work, device, max(1, round(0.1 * MEASURED_SECONDS / spent)))
    count = max(3, round(MEASURED_SECONDS / spent))
    return _repeat(work, device, count)


def _repeat(work: Callable[[], object], device: torch.device, count: int) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / count


def _random(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Not zeros, which some devices multiply faster."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)


def count_costs(network: dict[str, Any]) -> dict[str, float]:
    """FLOPs of the parts of a later chunk, multiply-add counting as two, by running them without memory.

    Args:
        network: of :func:`asymtalker.generate.bench_measure.describe_network`.

    Returns:
        ``transformer``, one pass; ``decode``, ``re_encode``, ``audio``; ``identity``, once for a video; ``chunk``, all
        that a later chunk takes; ``new_frames``, what it gives.
    """
    sizes = network["transformer"]
    transformer = on_meta(lambda: AsymTalkerTransformer3DModel(**sizes)).eval()
    vae = on_meta(lambda: cast(AutoencoderKLWan, AutoencoderKLWan.from_config(network["vae"]))).eval()
    encoder = on_meta(lambda: Wav2Vec2Model(Wav2Vec2Config(**network["audio_encoder"]))).eval()
    with torch.device("meta"):
        timesteps = torch.empty(1, latents_of_frames(network["frames"]))
        num_latents, (height, width) = latents_of_frames(network["frames"]), network["size"]
        area = latent_size((height, width), network["vae"]["scale_factor_spatial"], sizes["patch_size"])
        latents = torch.empty(1, network["vae"]["z_dim"], network["decoded_latents"], *area)
        channels = sizes["latent_channels"] + MASK_CHANNELS + sizes["identity_channels"]
        states = torch.empty(1, channels, num_latents, *area)
        audio = torch.empty(1, network["frames"] + 2 * sizes["audio_context"], sizes["audio_dim"])
        pixels = torch.empty(1, 3, network["frames"], height, width)
        block = torch.empty(1, (BLOCK_FRAMES + 2 * CONTEXT_FRAMES) * SAMPLES_PER_FRAME)
    continuity = network["continuity_frames"]
    new_frames = network["frames"] - continuity
    with torch.no_grad():
        costs: dict[str, float] = {
            "transformer": count_flops(lambda: transformer(states, timesteps, audio)),
            "decode": count_flops(lambda: vae.decode(latents)),
            "re_encode": count_flops(lambda: vae.encode(pixels[:, :, :continuity])),
            "identity": count_flops(lambda: vae.encode(pixels)),
            "audio": count_flops(lambda: encoder(block)) * new_frames / BLOCK_FRAMES,
        }
    chunk = network["passes"] * costs["transformer"] + costs["decode"] + costs["re_encode"] + costs["audio"]
    return costs | {"chunk": chunk, "new_frames": new_frames}
