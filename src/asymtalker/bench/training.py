"""What a measuring process of :mod:`asymtalker.bench.run` does for training: steps of the teacher, or updates of the
critic and the student, on random chunks."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from asymtalker import timeline
from asymtalker.bench.machine import describe_machine, peak_memory, synchronize
from asymtalker.bench.random_weights import random_network, random_parts
from asymtalker.codec import latent_size, recompute_decoder
from asymtalker.config import ChunkConfig, DistillConfig, LoopConfig, Recipe, TeacherConfig, TransformerConfig
from asymtalker.dataset.batches import Batch, ChunkSource, ClipFeatures
from asymtalker.dataset.chunks import AUDIO_MARGIN
from asymtalker.distill.loop import Extent, Networks, critic_update_loss, generate, student_losses
from asymtalker.errors import join_or
from asymtalker.models.codecs import codec_of
from asymtalker.models.identity import Identity
from asymtalker.models.loading import explain_out_of_memory
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.recipes import recipe_named
from asymtalker.sizing.empty import describe_parts
from asymtalker.sizing.training import frozen_like, passes
from asymtalker.train.teacher import teacher_losses
from asymtalker.training.checkpoint import EMA
from asymtalker.training.distributed import check_world, gradient_share, is_sharded, micro_batches, place, start, world
from asymtalker.training.frozen import Frozen
from asymtalker.training.network import build_transformer, store_as_computed
from asymtalker.training.run_folder import build_optimizer, optimizer_step, precision

WARM_UP_STEPS = 2

C = TypeVar("C", TeacherConfig, DistillConfig)


class RandomChunks:
    """Random chunks of a size where a corpus' chunks would be (:class:`asymtalker.dataset.batches.ChunkSource`).

    Args:
        frozen: codec and audio encoder, for the channels.
        chunk: its length.
        batch: how many at a time.
        size: height and width in pixels.
        lead: frames before the chunks that their sound reaches back over.
    """

    def __init__(self, frozen: Frozen, chunk: ChunkConfig, batch: int, size: tuple[int, int], lead: int = 0):
        self.frozen, self.frames, self.count, self.size, self.lead = frozen, chunk.frames, batch, size, lead

    def batch(self, seed: int) -> Batch:
        """A batch of chunks."""
        generator, device, codec = _generator(seed), self.frozen.device, self.frozen.codec
        shape = (self.count, codec.channels, timeline.latents_of_frames(self.frames))
        latents, identity = (
            torch.randn((*shape, *(side // codec.spatial for side in self.size)), generator=generator).to(device)
            for _ in range(2)
        )
        dim, before = self.frozen.audio_encoder.config.hidden_size, self.lead + AUDIO_MARGIN
        audio = torch.randn((self.count, before + self.frames + AUDIO_MARGIN, dim), generator=generator).to(device)
        names = tuple(f"random-{index}" for index in range(self.count))
        features = ClipFeatures(audio, -before)
        return Batch(names, (0,) * self.count, latents, features, Identity(latents=identity), self.size)

    def face_mask(self, batch: Batch, start: int, stop: int) -> Tensor:
        """All of the frames is face: ``(B, 1, stop - start, H, W)``."""
        return torch.ones(len(batch.latents), 1, stop - start, *self.size, device=self.frozen.device)

    def pixels(self, batch: Batch, start: int, stop: int) -> Tensor:
        """Grey frames: ``(B, 3, stop - start, H, W)``."""
        return torch.zeros(len(batch.latents), 3, stop - start, *self.size, device=self.frozen.device)


def measure_train(job: dict[str, Any]) -> dict[str, Any]:
    """Take optimizer steps of the teacher, weights, batches and all random, and report on them.

    First ``steps`` without the losses on decoded frames, then as many in which every sample is decoded: a real step
    decodes those whose noise level is low enough.

    Args:
        job: ``recipe``, ``size``, ``device``, ``precision``, ``steps``, and ``batch`` and ``gradient_checkpointing``,
            null for the recipe's.

    Raises:
        UserError: if the GPU's memory is too small.
    """
    recipe = recipe_named(job["recipe"])
    config = _configured(job, recipe.teacher)
    with explain_out_of_memory(_too_large(config.loop)):
        return _measure_train(job, recipe, config)


def measure_distill(job: dict[str, Any]) -> dict[str, Any]:
    """Take updates of the critic and of the student, weights, batches and all random, and report on them: a step is
    ``critic_updates`` of the first and one of the second.

    Each follows the longest rollout, whose last chunk is denoised to its last step: in a training they are drawn.

    Args:
        job: see :func:`measure_train`.

    Raises:
        UserError: if the GPU's memory is too small.
    """
    recipe = recipe_named(job["recipe"])
    config = _configured(job, recipe.distill)
    with explain_out_of_memory(_too_large(config.loop)):
        return _measure_distill(job, recipe, config)


def _too_large(loop: LoopConfig) -> str:
    options = ["a smaller --batch"] * (loop.batch > 1)
    options += ["--gradient-checkpointing True"] * (not loop.gradient_checkpointing)
    options += ["more --gpus", "a smaller --size"]
    return f"The GPU's memory is too small for these steps: give {join_or(options)}."


def _measure_train(job: dict[str, Any], recipe: Recipe, config: TeacherConfig) -> dict[str, Any]:
    loop, frozen = config.loop, _frozen(job, config.loop, recipe)
    transformer = _network(config.model, frozen, loop)
    ema = _average(transformer, config.model, frozen, loop, config.optimizer.ema_decay)
    if loop.gradient_checkpointing:
        recompute_decoder(cast(AutoencoderKLWan, frozen.codec.vae))
    optimizer = build_optimizer(transformer, config.optimizer)
    source = RandomChunks(frozen, config.chunk, loop.batch, tuple(job["size"]))
    batch = source.batch(loop.seed)

    def step(config: TeacherConfig, index: int, decode: bool) -> None:
        for number in micro_batches(loop, index):
            losses = teacher_losses(
                config, transformer, frozen, cast(ChunkSource, source), batch, _generator(number), decode
            )
            total = losses["fm"]
            if decode:
                total = total + config.tgc_weight * losses["tgc"] + config.ff_weight * losses["ff"]
            (total * gradient_share(loop)).backward()
        optimizer_step(optimizer, config.optimizer, config.optimizer.lr)
        ema.update(transformer)

    plain = _times(job, frozen, lambda index: step(config, index, False))
    peak = peak_memory(frozen.device)
    every = replace(config, pixel_max_sigma=1.0)
    decoded = _times(job, frozen, lambda index: step(every, index, True))
    _, both = count_passes(config.model, config.chunk, job["size"], frozen, loop)
    timed = _timed(plain, loop.batch * loop.micro_batches * both)
    return {
        "seconds_per_step": timed.pop("seconds"),
        **timed,
        "samples_per_step": loop.batch * loop.micro_batches,
        **peak,
        "decoded": {"seconds_per_step": round(decoded[1], 4), **peak_memory(frozen.device)},
        **_described(job, config, transformer, frozen),
    }


def _measure_distill(job: dict[str, Any], recipe: Recipe, config: DistillConfig) -> dict[str, Any]:
    loop, model, frozen = config.loop, recipe.teacher.model, _frozen(job, config.loop, recipe)
    nets = Networks(
        _network(model, frozen, loop, trained=False), _network(model, frozen, loop), _network(model, frozen, loop)
    )
    ema = _average(nets.student, model, frozen, loop, config.student.ema_decay)
    optimizers = build_optimizer(nets.critic, config.critic), build_optimizer(nets.student, config.student)
    extent = Extent(config.chunks, config.steps_per_sample - 1)
    lead = (config.chunks - 1) * (config.chunk.frames - config.chunk.continuity_frames)
    batch = RandomChunks(frozen, config.chunk, loop.batch, tuple(job["size"]), lead).batch(loop.seed)

    def update_critic(index: int) -> None:
        for number in micro_batches(loop, index):
            generator = _generator(number)
            with torch.no_grad():
                generated = generate(config, nets, frozen, extent, batch, generator)
            (critic_update_loss(config, nets, frozen, generated, generator) * gradient_share(loop)).backward()
        optimizer_step(optimizers[0], config.critic, config.critic.lr)

    def update_student(index: int) -> None:
        for number in micro_batches(loop, index):
            generator = _generator(number)
            generated = generate(config, nets, frozen, extent, batch, generator)
            losses = student_losses(config, nets, frozen, generated, generator)
            total = losses["dmd"] + config.anchor_weight * losses["anchor"]
            (total * gradient_share(loop)).backward()
        optimizer_step(optimizers[1], config.student, config.student.lr)
        ema.update(nets.student)

    forward, both = count_passes(model, config.chunk, job["size"], frozen, loop)
    chunks = config.chunks if config.student_continuity == "generated" else 1  # without it none before the last
    rollout, scores = chunks * config.steps_per_sample, 2 if config.guidance_scale == 1 else 3
    samples = loop.batch * loop.micro_batches
    critic = _timed(_times(job, frozen, update_critic), samples * (rollout * forward + both))
    student = _timed(_times(job, frozen, update_student), samples * ((rollout - 1 + scores) * forward + both))
    seconds = config.critic_updates * critic["seconds"] + student["seconds"]
    flops = config.critic_updates * critic["step_flops"] + student["step_flops"]
    return {
        "seconds_per_step": round(seconds, 4),
        "samples_per_step": samples,
        "tflops": round(1e-12 * flops / seconds / world().size, 4),
        "step_flops": flops,
        "chunks": config.chunks,
        "critic_updates": config.critic_updates,
        "critic_update": critic,
        "student_update": student,
        **peak_memory(frozen.device),
        **_described(job, config, nets.student, frozen),
    }


def _times(job: dict[str, Any], frozen: Frozen, step: Callable[[int], None]) -> tuple[float, float]:
    """Seconds of the first step, and the median of those after the warm-up."""
    seconds = []
    for index in range(WARM_UP_STEPS + job["steps"]):
        synchronize(frozen.device)
        begin = time.perf_counter()
        step(index)
        synchronize(frozen.device)
        seconds.append(time.perf_counter() - begin)
    return seconds[0], statistics.median(seconds[WARM_UP_STEPS:])


def _timed(times: tuple[float, float], flops: int) -> dict[str, Any]:
    """What is reported of steps that ask for ``flops`` operations each."""
    cold, seconds = times
    return {
        "seconds": round(seconds, 4),
        "cold_seconds": round(cold, 4),
        "tflops": round(1e-12 * flops / seconds / world().size, 4),
        "step_flops": flops,
    }


def _described(
    job: dict[str, Any],
    config: TeacherConfig | DistillConfig,
    transformer: AsymTalkerTransformer3DModel,
    frozen: Frozen,
) -> dict[str, Any]:
    """The machine, and the network with the settings that its speed depends on."""
    loop = config.loop
    return {
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
            "lora_rank": 0,
        },
    }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _configured(job: dict[str, Any], config: C) -> C:
    """The settings of the run, on the device that is this process's."""
    changes = {name: job[name] for name in ("batch", "gradient_checkpointing") if job[name] is not None}
    loop = replace(config.loop, device=str(start(job["device"])), autocast=job["precision"], **changes)
    loop = replace(loop, micro_batches=world().size)  # one of each process: a recipe's step may have 64
    check_world(loop)
    return replace(config, loop=loop, lora_rank=0)  # which changes weights that are there, and random ones are new


def _frozen(job: dict[str, Any], loop: LoopConfig, recipe: Recipe) -> Frozen:
    """The frozen networks as training holds them."""
    frozen = random_parts(recipe, torch.device(loop.device), torch.float32)
    latent_size(tuple(job["size"]), frozen.codec.spatial, recipe.teacher.model.patch_size)
    return replace(frozen, codec=codec_of(frozen.codec.vae, precision(loop)), autocast=precision(loop))


def _network(
    model: TransformerConfig, frozen: Frozen, loop: LoopConfig, trained: bool = True
) -> AsymTalkerTransformer3DModel:
    """A transformer as training holds and places it."""
    network = random_network(lambda: build_transformer(model, frozen), frozen.device, torch.float32, 0)
    if not trained:
        store_as_computed(network, loop)
    network = place(network.requires_grad_(trained).train(trained), loop)
    if trained and loop.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def _average(
    network: AsymTalkerTransformer3DModel, model: TransformerConfig, frozen: Frozen, loop: LoopConfig, decay: float
) -> EMA[AsymTalkerTransformer3DModel]:
    return EMA(network, decay, _network(model, frozen, loop).requires_grad_(False) if is_sharded() else None)


def count_passes(
    model: TransformerConfig, chunk: ChunkConfig, size: tuple[int, int], frozen: Frozen, loop: LoopConfig
) -> tuple[int, int]:
    """FLOPs of the transformer's pass for one sample, forwards, and forwards and backwards, nothing being computed
    twice: those that the model asks for, whatever the training does to save memory."""
    cells = latent_size(size, frozen.codec.spatial, model.patch_size)
    plain = replace(loop, gradient_checkpointing=False, batch=1)
    cost = passes(model, chunk.frames, frozen_like(frozen), plain, lora_rank=0, cells=cells)
    return cost.forward, cost.forward + cost.backward
