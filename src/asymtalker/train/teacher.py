"""Train the teacher (eq. 5): flow matching on ground-truth continuity, with two losses on decoded frames."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from asymtalker import flow, timeline
from asymtalker.codec import Codec, recompute_decoder
from asymtalker.config import SamplerConfig, TeacherConfig
from asymtalker.dataset.batches import Batch, BatchesAhead, ChunkSource, check_sizes, encode_all, open_held_out
from asymtalker.dataset.buckets import Size
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.loading import explain_out_of_memory
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import Conditions, predict_velocity
from asymtalker.timeline import Span
from asymtalker.train.losses import decoded_frames, flow_matching_loss, pixel_losses
from asymtalker.training.checkpoint import EMA, OptimizerState, Weights
from asymtalker.training.distributed import check_world, gradient_share, is_sharded, on_its_device
from asymtalker.training.frozen import Frozen, load_frozen
from asymtalker.training.network import NETWORKS_TOO_LARGE, save_transformer, start_transformer
from asymtalker.training.run_folder import (
    RunFolder,
    StepRecord,
    build_optimizer,
    in_its_precision,
    learning_rate,
    names_batch,
    optimizer_step,
    run_steps,
)
from asymtalker.training.sample import sample_frames, write_sample

HELD_OUT_CHUNKS = 4
HELD_OUT_SIGMAS = (0.25, 0.5, 0.75, 0.95)
SAMPLE_STEPS = 10


def train_teacher(
    config: TeacherConfig,
    run_path: Path,
    corpus_path: Path,
    model_path: Path,
    check_fits: Callable[[TeacherConfig, Frozen, Size], None] | None = None,
) -> None:
    """Train and write ``run_path/transformer`` (averaged weights, a diffusers folder) at every checkpoint.

    The corpus is encoded first, once (:mod:`asymtalker.dataset.cache`). The same command resumes, bit for bit on CPU.

    Args:
        config: sizes, losses and schedule.
        run_path: run folder.
        corpus_path: corpus; its test split, if it has one, gives the held-out loss and the sample videos.
        model_path: folder with ``vae/``, ``audio_encoder/`` and ``feature_extractor/``, such as a pipeline folder.
        check_fits: is given the settings, the frozen networks and the largest height and width in pixels before the
            transformer is made, and raises if that would not fit.

    Raises:
        UserError: if a folder does not hold what it should, all clips are shorter than a chunk, a share is none, or
            pixels are to exchange motion.
    """
    _check_shares(config)
    config = in_its_precision(on_its_device(config), run_path)
    loop = config.loop
    check_world(loop, config.lora_rank)
    frozen = load_frozen(model_path, config.model.identity, loop)
    if config.exchange and frozen.codec.spatial:
        raise UserError("Pixels can't move as others do, only motion can: leave --config.exchange at 0.")
    run = RunFolder(run_path, config, {"corpus": str(corpus_path), "model": str(model_path)})
    kept = {"buckets": config.buckets, "cache": loop.cache}
    source = ChunkSource(corpus_path, "train", frozen, config.chunk, **kept)
    check_sizes(source, config.model.patch_size)
    held_out = open_held_out(corpus_path, frozen, config.chunk, **kept)
    if check_fits:
        check_fits(config, frozen, source.largest)
    transformer, optimizer, ema = start_networks(config, frozen)
    parts = {"transformer": Weights(transformer), "optimizer": optimizer, "ema": ema}
    encode_all(source, held_out)
    batches = BatchesAhead(loop, partial(draw_batch, config, source), loop.steps)
    with run_steps(run, loop, parts) as steps:
        for step in steps:
            record, decode = StepRecord(), decodes(config, step.index)
            for batch, generator in batches.of_update(step.index):
                losses = teacher_losses(config, transformer, frozen, source, batch, generator, decode)
                pixels = config.tgc_weight * losses.get("tgc", 0.0) + config.ff_weight * losses.get("ff", 0.0)
                ((losses["fm"] + pixels) * gradient_share(loop)).backward()
                record.add(losses, keys=batch.keys, starts=batch.starts)
            with names_batch(run, step.index, record):
                lr = learning_rate(config.optimizer, step.index, loop.steps)
                norm = optimizer_step(optimizer.optimizer, config.optimizer, lr)
            ema.update(transformer)
            step.log(record.logged() | {"grad_norm": norm})
            if held_out and step.number % (10 * loop.log_every) == 0:
                run.log(step.number, held_out_losses(config, ema.module, frozen, held_out))
            if step.samples:
                sampler = SamplerConfig(num_steps=SAMPLE_STEPS, shift=config.shift)
                shown = (held_out or source).beginning(sample_frames(config.chunk))
                write_sample(run, step.number, ema.module, frozen, *shown, config.chunk, sampler)
            if step.saves:
                save_transformer(ema.module, run.path / "transformer")


def start_networks(
    config: TeacherConfig, frozen: Frozen
) -> tuple[AsymTalkerTransformer3DModel, OptimizerState, EMA[AsymTalkerTransformer3DModel]]:
    """The transformer to be trained, its optimizer, and the average that it becomes; and gradient checkpointing.

    Raises:
        UserError: if the GPU's memory is too small, or see :func:`asymtalker.training.network.start_transformer`.
    """
    with explain_out_of_memory(NETWORKS_TOO_LARGE):
        transformer = start_transformer(config, frozen).train()
        ema = EMA(transformer, config.optimizer.ema_decay, start_transformer(config, frozen) if is_sharded() else None)
        optimizer = OptimizerState(transformer, build_optimizer(transformer, config.optimizer))
    if config.loop.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
        if isinstance(frozen.codec.vae, AutoencoderKLWan):
            recompute_decoder(frozen.codec.vae)
    return transformer, optimizer, ema


def teacher_losses(
    config: TeacherConfig,
    transformer: AsymTalkerTransformer3DModel,
    frozen: Frozen,
    source: ChunkSource,
    batch: Batch,
    generator: torch.Generator,
    decode: bool,
) -> dict[str, Tensor]:
    """The terms of eq. 5 on one batch: ``fm``, and ``tgc`` and ``ff`` where some chunk is decoded.

    The flow-matching loss covers the generated latent frames, not the given head.

    Args:
        config: weights, dropout, noise levels.
        transformer: the teacher.
        frozen: the codec that decodes.
        source: where ``batch`` came from, which knows its masks.
        batch: ground truth.
        generator: source of noise levels, noise and dropout, on the CPU.
        decode: compute the pixel losses, for chunks whose noise level is low enough.
    """
    if config.exchange:
        batch = exchange_motion(config, frozen.codec, batch, generator)
    clean = batch.latents
    conditions = draw_conditions(config, batch, generator)
    sigma = flow.training_sigmas(len(clean), config.shift, config.num_timesteps, generator)
    near = sigma <= config.pixel_max_sigma  # on the CPU, which then need not wait for the GPU to know
    sigma = sigma.to(clean)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    noisy = flow.interpolate(clean, noise, sigma)
    with frozen.network():
        velocity = predict_velocity(transformer, noisy, sigma, conditions)
    head = 0 if conditions.continuity is None else conditions.continuity.shape[2]
    target = flow.velocity(clean, noise)
    losses = {"fm": flow_matching_loss(velocity[:, :, head:], target[:, :, head:])}

    first, stop = pixel_window(config, clean.shape[2], head, generator)
    if decode and near.any():
        predicted = flow.clean_from_velocity(noisy, velocity, sigma)
        mask = source.face_mask(batch, *decoded_frames(first, stop))
        losses |= pixel_losses(frozen.codec, predicted[near], clean[near], mask[near], first, stop)
    return losses


def decodes(config: TeacherConfig, index: int) -> bool:
    """Whether the step ``index`` has pixel losses."""
    return config.pixel_losses and index % config.pixel_every == 0


def draw_batch(config: TeacherConfig, source: ChunkSource, index: int, generator: torch.Generator) -> Batch:
    """A batch of the step ``index``, of first chunks of videos or of later ones, with face masks if it is decoded."""
    first_chunk, elsewhere = torch.rand(2, generator=generator) < torch.tensor(
        [config.continuity_dropout, config.elsewhere]
    )
    elapsed = 0 if first_chunk else None if elsewhere else config.chunk.frames
    return source.batch(config.loop.batch, generator, elapsed, masks=decodes(config, index))


def _check_shares(config: TeacherConfig) -> None:
    for name in ("continuity_dropout", "elsewhere", "audio_dropout", "exchange"):
        if not 0 <= (share := getattr(config, name)) <= 1:
            raise UserError(f"--config.{name.replace('_', '-')} is a share and must be from 0 to 1, not {share:g}.")


def exchange_motion(config: TeacherConfig, codec: Codec, batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of which some chunks move as others of it do, see :attr:`~asymtalker.config.TeacherConfig.exchange`."""
    count, portraits = len(batch.keys), batch.identity.latents
    order = torch.randperm(count, generator=generator).to(batch.latents.device)
    backward, exchanged = torch.rand(2, count, generator=generator) < torch.tensor([[0.5], [config.exchange]])
    # a video begins with its portrait; later on what is learned is how far from it a head goes
    about = None if batch.elapsed == 0 or portraits is None else (portraits, portraits[order])
    moved = codec.with_motion_of(batch.latents, batch.latents[order], backward, about)
    return replace(batch, latents=torch.where(exchanged.to(moved.device).view(-1, 1, 1, 1, 1), moved, batch.latents))


def draw_conditions(config: TeacherConfig, batch: Batch, generator: torch.Generator) -> Conditions:
    """Conditions: the audio of single chunks becomes null by dropout; first chunks of videos have no continuity."""
    silent = torch.rand(len(batch.keys), generator=generator) < config.audio_dropout
    audio = batch.audio.frames(*Span.alone(config.chunk.frames).heard(config.model.audio_context))
    if config.audio_noise:
        audio = audio + config.audio_noise * torch.randn(audio.shape, generator=generator).to(audio)
    head = timeline.latents_of_frames(config.chunk.continuity_frames)
    return Conditions(
        audio=audio * (~silent).to(audio)[:, None, None],
        identity=batch.identity,
        continuity=None if batch.elapsed == 0 else batch.latents[:, :, :head],  # E(x[:K]), as the codec is causal
    )


def pixel_window(config: TeacherConfig, num_latents: int, head: int, generator: torch.Generator) -> tuple[int, int]:
    """Latent frames ``[first, stop)`` that are decoded with gradient: a random window after the given head.

    With the frame before it, or at the very start of the chunk, it makes ``pixel_frames`` frames.
    """
    length = timeline.latents_of_frames(config.pixel_frames) - 1
    first = int(torch.randint(head, max(head, num_latents - length) + 1, (), generator=generator))
    return first, min(num_latents, first + length + (first == 0))


@torch.no_grad()
def held_out_losses(
    config: TeacherConfig, transformer: AsymTalkerTransformer3DModel, frozen: Frozen, source: ChunkSource
) -> dict[str, float]:
    """Velocity error on fixed held-out chunks, fixed noise and fixed noise levels, with continuity and audio; and its
    mean without the one or the other, which is larger if these matter."""
    head = timeline.latents_of_frames(config.chunk.continuity_frames)
    generator = numbered_generator(config.loop.seed, 0, "held-out")
    batch = source.batch(HELD_OUT_CHUNKS, generator, masks=False)
    noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents)
    audio = batch.audio.frames(*Span.alone(config.chunk.frames).heard(config.model.audio_context))
    conditions = Conditions(audio, batch.identity, batch.latents[:, :, :head])
    target = flow.velocity(batch.latents, noise)

    def error(level: float, conditions: Conditions) -> float:
        sigma = torch.full((len(noise),), level, device=noise.device)
        with frozen.network():
            noisy = flow.interpolate(batch.latents, noise, sigma)
            velocity = predict_velocity(transformer, noisy, sigma, conditions)
        return float(flow_matching_loss(velocity[:, :, head:], target[:, :, head:]))

    values = {f"held_out_{level}": error(level, conditions) for level in HELD_OUT_SIGMAS}
    values["held_out"] = sum(values.values()) / len(values)
    for name, less in (
        ("without_continuity", replace(conditions, continuity=None)),
        ("without_audio", conditions.without_audio()),
    ):
        values[f"held_out_{name}"] = sum(error(level, less) for level in HELD_OUT_SIGMAS) / len(HELD_OUT_SIGMAS)
    return values
