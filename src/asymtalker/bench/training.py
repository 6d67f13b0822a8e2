"""What a measuring process of :mod:`asymtalker.bench.run` does for training: steps of the teacher on random
chunks."""

import statistics
import time
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from asymtalker import timeline
from asymtalker.bench.generation import Job, peak_memory, synchronize
from asymtalker.bench.random_weights import random_network, random_parts
from asymtalker.bench.run import describe_machine
from asymtalker.codec import Codec, latent_size, recompute_decoder
from asymtalker.config import LoopConfig, Recipe, TeacherConfig
from asymtalker.dataset.batches import AUDIO_MARGIN, Batch, ChunkSource, ClipFeatures
from asymtalker.flow import numbered_generator
from asymtalker.generate.placement import one_of
from asymtalker.models.identity import Identity
from asymtalker.models.loading import memory_said
from asymtalker.models.transformer import MASK_CHANNELS, AsymTalkerTransformer3DModel
from asymtalker.recipes import RECIPES
from asymtalker.sizing.costs import count_flops, on_meta
from asymtalker.sizing.empty import describe_parts
from asymtalker.train.teacher import teacher_losses
from asymtalker.training.checkpoint import EMA
from asymtalker.training.distributed import check_world, gradient_share, is_sharded, micro_batches, place, start, world
from asymtalker.training.frozen import Frozen
from asymtalker.training.network import build_transformer
from asymtalker.training.run_folder import build_optimizer, optimizer_step, precision

WARM_UP_STEPS = 2


class RandomChunks:
    """Random chunks of a size where a corpus' chunks would be (:class:`asymtalker.dataset.batches.ChunkSource`).

    Args:
        config: chunk and batch.
        frozen: codec and audio encoder, for the channels.
        size: height and width in pixels.
    """

    def __init__(self, config: TeacherConfig, frozen: Frozen, size: tuple[int, int]):
        self.config, self.frozen, self.size = config, frozen, size

    def batch(self, generator: torch.Generator) -> Batch:
        """A batch of whole frames."""
        count, device, spatial = self.config.loop.batch, self.frozen.device, self.frozen.codec.spatial
        frames = self.config.chunk.frames
        shape = (count, self.frozen.codec.channels, timeline.latents_of_frames(frames))
        latents, identity = (
            torch.randn((*shape, *(side // spatial for side in self.size)), generator=generator).to(device)
            for _ in range(2)
        )
        dim = self.frozen.audio_encoder.config.hidden_size
        audio = torch.randn((count, frames + 2 * AUDIO_MARGIN, dim), generator=generator).to(device)
        names = tuple(f"random-{index}" for index in range(count))
        corners = ((0, 0),) * count
        features = ClipFeatures(audio, -AUDIO_MARGIN)
        return Batch(names, (0,) * count, latents, features, Identity(latents=identity), corners, self.size)

    def mouth(self, batch: Batch) -> Tensor:
        """No cell is covered by a mouth: ``(B, 1, T, h, w)``."""
        return torch.zeros_like(batch.latents[:, :1])

    def face_mask(self, batch: Batch, start: int, stop: int) -> Tensor:
        """All of the frames is face: ``(B, 1, stop - start, H, W)``."""
        return torch.ones(len(batch.latents), 1, stop - start, *self.size, device=self.frozen.device)


def measure_training(job: Job) -> dict[str, Any]:
    """Take optimizer steps of the teacher, weights, batches and all random, and report on them.

    First ``steps`` without the losses on decoded frames, then as many in which every sample is decoded: a real step
    decodes those whose noise level is low enough.

    Args:
        job: ``recipe``, ``size``, ``device``, ``precision``, ``steps``, and ``batch`` and
            ``gradient_checkpointing``, null for the recipe's.

    Raises:
        UserError: if the GPU's memory is too small.
    """
    config = _configured(job, RECIPES[job["recipe"]]())
    with memory_said(_too_large(config.loop)):
        return _measure(job, config)


def _too_large(loop: LoopConfig) -> str:
    options = ["a smaller --batch"] * (loop.batch > 1)
    options += ["--gradient-checkpointing True"] * (not loop.gradient_checkpointing)
    options += ["more --gpus", "a smaller --size"]
    return f"The GPU's memory is too small for these steps: give {one_of(options)}."


def _measure(job: Job, config: TeacherConfig) -> dict[str, Any]:
    loop = config.loop
    frozen, transformer = _networks(job, config, RECIPES[job["recipe"]]())
    average = _network(config, frozen).requires_grad_(False) if is_sharded() else None
    ema = EMA(transformer, config.optimizer.ema_decay, average)
    optimizer = build_optimizer(transformer, config.optimizer)
    source = RandomChunks(config, frozen, tuple(job["size"]))
    batch = source.batch(numbered_generator(loop.seed, 0))

    def step(config: TeacherConfig, index: int, decode: bool) -> float:
        synchronize(frozen.device)
        begin = time.perf_counter()
        for number in micro_batches(loop, index):
            generator = numbered_generator(loop.seed, number)
            losses = teacher_losses(config, transformer, frozen, cast(ChunkSource, source), batch, generator, decode)
            total = losses["fm"]
            if decode:
                total = total + config.tgc_weight * losses["tgc"] + config.ff_weight * losses["ff"]
            (total * gradient_share(loop)).backward()
        optimizer_step(optimizer, config.optimizer, config.optimizer.lr)
        ema.update(transformer)
        synchronize(frozen.device)
        return time.perf_counter() - begin

    def series(config: TeacherConfig, decode: bool) -> tuple[float, float]:
        cold = step(config, 0, decode)
        for index in range(1, WARM_UP_STEPS):
            step(config, index, decode)
        return cold, statistics.median(step(config, WARM_UP_STEPS + index, decode) for index in range(job["steps"]))

    cold, seconds = series(config, False)
    peak = peak_memory(frozen.device)
    _, decoded = series(replace(config, pixel_max_sigma=1.0), True)
    flops = loop.batch * loop.micro_batches * count_training(config, job["size"], transformer, frozen)
    return {
        "seconds_per_step": round(seconds, 4),
        "cold_seconds": round(cold, 4),
        "samples_per_step": loop.batch * loop.micro_batches,
        "tflops": round(1e-12 * flops / seconds / world().size, 4),
        "step_flops": flops,
        **peak,
        "decoded": {"seconds_per_step": round(decoded, 4), **peak_memory(frozen.device)},
        "machine": describe_machine(str(frozen.device)),
        "network": describe_parts(transformer, frozen.codec.vae, frozen.audio_encoder)
        | {
            "size": list(job["size"]),
            "frames": config.chunk.frames,
            "device": frozen.device.type,
            "dtype": "float32",
            "autocast": "bfloat16" if precision(loop) else None,
            "batch": loop.batch,
            "micro_batches": loop.micro_batches,
            "gradient_checkpointing": loop.gradient_checkpointing,
            "lora_rank": config.lora_rank,
        },
    }


def _configured(job: Job, recipe: Recipe) -> TeacherConfig:
    """The settings of the run, on the device that is this process's."""
    config = recipe.teacher
    changes = {name: job[name] for name in ("batch", "gradient_checkpointing") if job[name] is not None}
    loop = replace(config.loop, device=str(start(job["device"])), autocast=job["precision"], **changes)
    loop = replace(loop, micro_batches=-(-loop.micro_batches // world().size) * world().size)
    check_world(loop)
    return replace(config, loop=loop)


def _networks(job: Job, config: TeacherConfig, recipe: Recipe) -> tuple[Frozen, AsymTalkerTransformer3DModel]:
    """The frozen networks and the trained one, placed as training places them."""
    loop = config.loop
    frozen = random_parts(recipe, torch.device(loop.device), torch.float32)
    frozen = replace(frozen, codec=Codec(frozen.codec.vae, precision(loop)), autocast=precision(loop))
    latent_size(tuple(job["size"]), frozen.codec.spatial, config.model.patch_size)
    transformer = _network(config, frozen)
    if loop.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
        recompute_decoder(frozen.codec.vae)
    return frozen, transformer


def _network(config: TeacherConfig, frozen: Frozen) -> AsymTalkerTransformer3DModel:
    network = random_network(lambda: build_transformer(config.model, frozen), frozen.device, torch.float32, 0)
    return place(network.requires_grad_(True).train(), config.loop)


def count_training(
    config: TeacherConfig, size: tuple[int, int], transformer: AsymTalkerTransformer3DModel, frozen: Frozen
) -> int:
    """FLOPs of the transformer's pass forwards and backwards for one sample, nothing being computed twice: those that
    the model asks for, whatever the training does to save memory."""
    sizes = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    network = on_meta(lambda: AsymTalkerTransformer3DModel(**sizes))
    num_latents = timeline.latents_of_frames(config.chunk.frames)
    area = (side // frozen.codec.spatial for side in size)
    channels = sizes["latent_channels"] + MASK_CHANNELS + sizes["identity_channels"]
    with torch.device("meta"):
        states = torch.empty(1, channels, num_latents, *area)
        audio = torch.empty(1, config.chunk.frames + 2 * config.model.audio_context, sizes["audio_dim"])
        timesteps = torch.empty(1, num_latents)
    return count_flops(lambda: network(states, timesteps, audio).sample.sum().backward())
