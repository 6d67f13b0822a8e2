"""What the device can do at most, and what the parts of a chunk ask of it: the two numbers speed is held against."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from asymtalker.bench.machine import synchronize
from asymtalker.generate.placement import set_attention
from asymtalker.models.audio import BLOCK_FRAMES
from asymtalker.models.loading import explain_out_of_memory
from asymtalker.models.transformer import AsymTalkerTransformer3DModel, attend
from asymtalker.sizing.costs import count_flops, on_meta
from asymtalker.sizing.empty import empty_transformer, latent_cells, parts_of_chunk
from asymtalker.timeline import latents_of_frames

SQUARE = {"cuda": 8192, "cpu": 1024}
MEASURED_SECONDS = 0.5
"""For which a kernel is repeated, after a tenth of it to warm up."""


def token_count(network: dict[str, Any]) -> int:
    """Tokens of a chunk that the transformer sees at once."""
    patch = network["transformer"]["patch_size"]
    return latents_of_frames(network["frames"]) * math.prod(latent_cells(network)) // math.prod(patch)


def measure_limits(job: dict[str, Any]) -> dict[str, Any]:
    """``ceiling`` of :func:`measure_ceiling` and ``costs`` of :func:`count_costs`; what a job is, see there."""
    return {"costs": count_costs(job["network"]), "ceiling": measure_ceiling(job)}


def measure_ceiling(job: dict[str, Any]) -> dict[str, Any]:
    """TFLOP/s of matrix products, of a square one and of those in the transformer's blocks, and of its attention.

    Args:
        job: ``network`` of a pipeline, and ``attention``, a kernel by
            diffusers' name, or null.

    Returns:
        ``dtype``; ``matmul``, TFLOP/s by shape ``rows x inner x columns``; ``matmul_tflops``, the most of them: the
        ceiling; ``attention_tflops`` and ``attention_shape``.

    Raises:
        UserError: if the kernel cannot be used here, or the GPU's memory is too small.
    """
    with explain_out_of_memory("The GPU's memory is too small for the ceiling's matrix products and attention."):
        return _measure_ceiling(job)


def _measure_ceiling(job: dict[str, Any]) -> dict[str, Any]:
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
        network: of a pipeline.

    Returns:
        Those of :func:`asymtalker.sizing.empty.parts_of_chunk`, ``audio`` of a chunk; ``chunk``, all that a later
        chunk takes; ``new_frames``, what it gives.
    """
    new_frames = network["frames"] - network["continuity_frames"]
    parts = parts_of_chunk(network, empty_transformer(network))
    costs: dict[str, float] = {name: count_flops(run) for name, run in parts.items()}
    costs["audio"] *= new_frames / BLOCK_FRAMES
    once = costs | {"transformer": network["passes"] * costs["transformer"], "identity": 0}
    return costs | {"chunk": sum(once.values()), "new_frames": new_frames}
