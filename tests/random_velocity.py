"""A pass of the smoke recipe's transformer with random weights, in one process and in several."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from asymtalker.bench.random_weights import random_pipeline
from asymtalker.config import InferenceConfig
from asymtalker.models.identity import Identity
from asymtalker.recipes import smoke
from asymtalker.rollout import Conditions, predict_velocity
from asymtalker.timeline import latents_of_frames
from asymtalker.training.distributed import start, world


def random_velocity(options: dict[str, Any], device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Of a second chunk of 32 x 64 pixels, ``(1, C, T, h, w)``, with random conditions and options of inference."""
    torch.set_num_threads(1)
    where = start(device)
    pipeline = random_pipeline(smoke(), (32, 64), where, dtype).place(where, InferenceConfig(**options))
    config, frames = pipeline.transformer.config, pipeline.settings.chunk.frames
    generator = torch.Generator().manual_seed(1)
    noisy, identity = torch.randn(2, 1, config.latent_channels, latents_of_frames(frames), 4, 8, generator=generator)
    audio = torch.randn(1, frames + 2 * config.audio_context, config.audio_dim, generator=generator)
    noisy, identity, audio = noisy.to(where), identity.to(where), audio.to(where)
    conditions = Conditions(audio, Identity(identity), noisy[:, :, :2])
    torch._dynamo.utils.counters.clear()
    with torch.inference_mode():
        velocity = predict_velocity(pipeline.transformer, noisy, torch.tensor([0.7], device=where), conditions)
    assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == ("compile" in options)
    return velocity.cpu()


def save_random_velocity(options: dict[str, Any], folder: Path) -> None:
    """The same, as what one of several processes does."""
    torch.compile = partial(torch.compile, backend="aot_eager")  # whether it is whole graphs, without C++'s minutes
    torch.save(random_velocity(options), folder / f"velocity{world().rank}.pt")
