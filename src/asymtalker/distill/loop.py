"""Asymmetric knowledge distillation (section 3.4, eq. 6-15): a few-step student from the frozen teacher.

Three networks start from the teacher's weights. The student generates on its own continuity and the critic follows it
there; the teacher judges on the continuity of the real video. Which continuity each side gets is two settings, so the
symmetric ablations of table 4 are other settings of the same loop.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from asymtalker import flow, timeline
from asymtalker.config import DistillConfig, IdentityStrategy, LoopConfig, SamplerConfig, TransformerConfig
from asymtalker.dataset.batches import Batch, BatchesAhead, ChunkSource, check_sizes, encode_all, open_held_out
from asymtalker.dataset.buckets import Size
from asymtalker.distill.losses import anchor_loss, distribution_gradient, distribution_matching_loss
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.folder import read_settings
from asymtalker.models.loading import explain_out_of_memory
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import Conditions, guided_velocity, predict_velocity, rollout
from asymtalker.timeline import Span
from asymtalker.train.losses import flow_matching_loss
from asymtalker.training.checkpoint import EMA, OptimizerState, Weights
from asymtalker.training.distributed import check_world, gradient_share, is_sharded, on_its_device
from asymtalker.training.frozen import Frozen, load_frozen
from asymtalker.training.network import (
    NETWORKS_TOO_LARGE,
    adapt,
    load_transformer,
    save_transformer,
    shared_copy,
    transformer_config,
)
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


@dataclass(frozen=True)
class Networks:
    """Teacher (real score, frozen), student and critic (fake score); all start from the teacher's weights."""

    teacher: AsymTalkerTransformer3DModel
    student: AsymTalkerTransformer3DModel
    critic: AsymTalkerTransformer3DModel

    @classmethod
    def load(cls, folder: Path, loop: LoopConfig, lora_rank: int = 0) -> "Networks":
        """Three networks of the teacher's in ``folder``; by LoRA they share all weights that stay as they are.

        Raises:
            UserError: if the folder does not hold a whole transformer.
        """
        teacher = load_transformer(folder, loop, frozen=True).eval().requires_grad_(False)
        if lora_rank:
            student, critic = (adapt(shared_copy(teacher), lora_rank, loop) for _ in range(2))
        else:
            student, critic = (load_transformer(folder, loop) for _ in range(2))
        return cls(teacher, student.train(), critic.train())


@dataclass(frozen=True)
class Extent:
    """How far a rollout goes: the same for all micro-batches of an update, as processes that share a network must go
    through it equally often.

    Attributes:
        chunks: 1 to ``DistillConfig.chunks``; one is the start of a video, without continuity.
        exit_step: of the last chunk, 0 to ``steps_per_sample - 1``; the only one that records gradients.
    """

    chunks: int
    exit_step: int

    @classmethod
    def draw(cls, config: DistillConfig, number: int) -> "Extent":
        """That of an update, counted from the start of the run: as many chunks as ``DistillConfig.rollout_shares``
        says, every exit step equally often."""
        generator = numbered_generator(config.loop.seed, number, "extent")
        chunks = 1 + int(torch.multinomial(torch.tensor(config.rollout_shares), 1, generator=generator))
        return cls(chunks, int(torch.randint(config.steps_per_sample, (), generator=generator)))


@dataclass(frozen=True)
class Generated:
    """The student's last chunk of a rollout.

    Attributes:
        latents: ``z_hat`` ``(B, C, T, h, w)``, with gradient to the student where gradients are enabled.
        student: what it was generated from: audio, identity and the continuity the student got.
        teacher: the same with the continuity the teacher judges on.
        batch: the ground truth, as it goes on from the student's head.
    """

    latents: Tensor
    student: Conditions
    teacher: Conditions
    batch: Batch

    @property
    def head(self) -> int:
        """Latent frames at the head that are given."""
        return 0 if self.student.continuity is None else self.student.continuity.shape[2]


def distill(
    config: DistillConfig,
    run_path: Path,
    corpus_path: Path,
    model_path: Path,
    check_fits: Callable[[DistillConfig, TransformerConfig, Frozen, Size], None] | None = None,
) -> None:
    """Distil and write ``run_path/transformer`` (averaged weights of the student, diffusers) at every checkpoint.

    One step is ``critic_updates`` updates of the critic, each on a fresh rollout, and one of the student. The same
    command resumes, bit for bit on a CPU.

    Args:
        config: references, sampling, losses and schedule.
        run_path: run folder.
        corpus_path: corpus; its clips must hold ``config.chunks`` chunks in a row.
        model_path: pipeline folder whose ``transformer/`` is the teacher.
        check_fits: is given the settings, the teacher's size, the frozen networks and the largest height and width in
            pixels before the three networks are made, and raises if they would not fit.

    Raises:
        UserError: if a folder does not hold what it should, or all clips are shorter than the rollout.
    """
    config = in_its_precision(on_its_device(config), run_path)
    loop = config.loop
    check_world(loop, config.lora_rank)
    frozen = load_frozen(model_path, identity_strategy(model_path), loop)
    teacher = transformer_config(model_path / "transformer", frozen.strategy)
    check_draws(config)
    run = RunFolder(run_path, config, {"corpus": str(corpus_path), "model": str(model_path)})
    kept = {"buckets": config.buckets, "cache": loop.cache}
    source = ChunkSource(corpus_path, "train", frozen, config.chunk, config.chunks, **kept)
    check_sizes(source, teacher.patch_size)
    shown = open_held_out(corpus_path, frozen, config.chunk, **kept) or source
    if check_fits:
        check_fits(config, teacher, frozen, source.largest)
    nets, student_optimizer, critic_optimizer, ema = start_networks(config, model_path / "transformer")
    parts = {
        "student": Weights(nets.student),
        "critic": Weights(nets.critic),
        "student_optimizer": student_optimizer,
        "critic_optimizer": critic_optimizer,
        "ema": ema,
    }
    encode_all(source, shown)
    updates = config.critic_updates + 1
    batches = BatchesAhead(loop, partial(draw_batch, config, source), loop.steps * updates)

    def update_critic(number: int, lr: float) -> dict[str, Tensor]:
        record, extent = StepRecord(), Extent.draw(config, number)
        for batch, generator in batches.of_update(number):
            with torch.no_grad():
                generated = generate(config, nets, frozen, extent, batch, generator)
            loss = critic_update_loss(config, nets, frozen, generated, generator)
            (loss * gradient_share(loop)).backward()
            record.add({"critic": loss}, keys=generated.batch.keys, starts=generated.batch.starts)
        with names_batch(run, number // updates, record):
            norm = optimizer_step(critic_optimizer.optimizer, config.critic, lr)
        return record.logged() | {"critic_norm": norm}

    def update_student(number: int, lr: float) -> dict[str, Tensor]:
        record, extent = StepRecord(), Extent.draw(config, number)
        for batch, generator in batches.of_update(number):
            generated = generate(config, nets, frozen, extent, batch, generator)
            losses = student_losses(config, nets, frozen, generated, generator)
            total = losses["dmd"] + config.anchor_weight * losses["anchor"]
            (total * gradient_share(loop)).backward()
            record.add(losses, keys=generated.batch.keys, starts=generated.batch.starts)
        with names_batch(run, number // updates, record):
            norm = optimizer_step(student_optimizer.optimizer, config.student, lr)
        ema.update(nets.student)
        return record.logged() | {"student_norm": norm}

    with run_steps(run, loop, parts) as steps:
        for step in steps:
            first, values = step.index * updates, dict[str, Tensor]()
            for number in range(first, first + config.critic_updates):
                values |= update_critic(number, learning_rate(config.critic, step.index, loop.steps))
            lr = learning_rate(config.student, step.index, loop.steps)
            step.log(values | update_student(first + config.critic_updates, lr))
            if step.samples:
                beginning = shown.beginning(sample_frames(config.chunk))
                write_sample(run, step.number, ema.module, frozen, *beginning, config.chunk, student_sampler(config))
            if step.saves:
                save_transformer(ema.module, run.path / "transformer")


def start_networks(
    config: DistillConfig, folder: Path
) -> tuple[Networks, OptimizerState, OptimizerState, EMA[AsymTalkerTransformer3DModel]]:
    """Teacher, student and critic of the transformer in ``folder``, the optimizers of student and critic, and the
    average that the student becomes; and gradient checkpointing.

    Raises:
        UserError: if the folder does not hold a whole transformer, or the GPU's memory is too small.
    """
    loop = config.loop
    with explain_out_of_memory(NETWORKS_TOO_LARGE):
        nets = Networks.load(folder, loop, config.lora_rank)
        ema = EMA(nets.student, config.student.ema_decay, load_transformer(folder, loop) if is_sharded() else None)
        student = OptimizerState(nets.student, build_optimizer(nets.student, config.student))
        critic = OptimizerState(nets.critic, build_optimizer(nets.critic, config.critic))
    if loop.gradient_checkpointing:
        nets.student.enable_gradient_checkpointing()
        nets.critic.enable_gradient_checkpointing()
    return nets, student, critic, ema


def check_draws(config: DistillConfig) -> None:
    """Check that lengths of rollouts can be drawn.

    Raises:
        UserError: naming what does not do.
    """
    if config.chunks < 1:
        raise UserError("--config.chunks must be at least 1.")
    if not 0 <= config.first_share <= 1:
        raise UserError(f"--config.first-share is a share from 0 to 1, not {config.first_share}.")


def draw_batch(config: DistillConfig, source: ChunkSource, number: int, generator: torch.Generator) -> Batch:
    """A batch of the update ``number``, whose portraits are how the rollouts begin. The critic's loss asks for no
    ground truth, which then is not encoded, unless the student goes on from it."""
    of_student = number % (config.critic_updates + 1) == config.critic_updates
    target = of_student or config.student_continuity == "ground_truth"
    elapsed = rollout_spans(config, Extent.draw(config, number).chunks)[-1].start
    return source.batch(config.loop.batch, generator, elapsed, target=target, masks=False)


def generate(
    config: DistillConfig,
    nets: Networks,
    frozen: Frozen,
    extent: Extent,
    batch: Batch,
    generator: torch.Generator,
) -> Generated:
    """Roll the student through the chunks of ``extent`` that end with those of ``batch``, these up to the exit step.

    Only the exit step of the last chunk records gradients, if they are enabled. Of a batch without ground truth the
    teacher's conditions are not to be used. Where the codec can, the ground truth goes on from where the student has
    the head: a teacher that had it elsewhere would teach the student to jump there where chunks meet [ours].
    """
    head = timeline.latents_of_frames(config.chunk.continuity_frames) if extent.chunks > 1 else 0
    seed = int(torch.randint(2**31, (), generator=generator))
    spans = rollout_spans(config, extent.chunks)
    origin = spans[-1].start  # the rollout's frames, counted from the last chunk's first, start here
    if config.student_continuity == "ground_truth":
        spans = spans[-1:]  # nothing of the chunks before it is used

    audio = batch.audio.moved(origin)
    with frozen.network():
        chunks = rollout(
            nets.student,
            frozen.codec,
            audio,
            batch.identity,
            spans,
            chunk=config.chunk,
            size=batch.size,
            sampler=student_sampler(config),
            seed=seed,
            batch=len(batch.keys),
            continuity=config.student_continuity,
            ground_truth=lambda _: batch.latents[:, :, :head],
            exit_chunk=spans[-1].index,
            exit_step=extent.exit_step,
        )
        last = deque(chunks, maxlen=1).pop()  # the chunks before it live on only as its continuity
    given = last.latents[:, :, :head].detach() if head else None
    if given is not None and config.student_continuity == "generated" and batch.latents.shape[2]:
        batch = replace(batch, latents=frozen.codec.going_on_from(batch.latents, given))
    real = batch.latents[:, :, :head] if head else None  # E(x[:K]) of the last chunk, as the codec is causal
    heard = audio.frames(*last.span.heard(nets.student.config.audio_context))
    student = Conditions(heard, batch.identity, given)
    teacher = Conditions(student.audio, batch.identity, real if config.teacher_continuity == "ground_truth" else given)
    return Generated(last.latents, student, teacher, batch)


def student_losses(
    config: DistillConfig, nets: Networks, frozen: Frozen, generated: Generated, generator: torch.Generator
) -> dict[str, Tensor]:
    """``dmd`` (eq. 6, 13) and ``anchor`` (eq. 7) of the student; the score networks run without gradient."""
    head = generated.head
    with torch.no_grad():
        sigma, noisy, _ = renoise(config, generated.latents, generator)
        with frozen.network():
            fake = predict_velocity(nets.critic, noisy, sigma, generated.student)
            real = guided_velocity(nets.teacher, noisy, sigma, generated.teacher, config.guidance_scale)
        clean_fake = flow.clean_from_velocity(noisy, fake, sigma)[:, :, head:]
        clean_real = flow.clean_from_velocity(noisy, real, sigma)[:, :, head:]
        gradient = distribution_gradient(generated.latents[:, :, head:], clean_fake, clean_real)
    latents = generated.latents[:, :, head:]
    return {
        "dmd": distribution_matching_loss(latents, gradient),
        "anchor": anchor_loss(latents, generated.batch.latents[:, :, head:], config.anchor_scale),
    }


def critic_update_loss(
    config: DistillConfig, nets: Networks, frozen: Frozen, generated: Generated, generator: torch.Generator
) -> Tensor:
    """Flow matching of the critic on the student's samples under the student's conditions (eq. 14, 15)."""
    latents = generated.latents.detach()
    sigma, noisy, noise = renoise(config, latents, generator)
    with frozen.network():
        velocity = predict_velocity(nets.critic, noisy, sigma, generated.student)
    target = flow.velocity(latents, noise)
    return flow_matching_loss(velocity[:, :, generated.head :], target[:, :, generated.head :])


def renoise(config: DistillConfig, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise levels ``(B,)``, uniform, shifted, kept in ``[min_sigma, max_sigma]``; noisy latents (eq. 11); noise."""
    sigma = flow.shift_sigma(torch.rand(len(latents), generator=generator), config.shift)
    sigma = sigma.clamp(config.min_sigma, config.max_sigma).to(latents)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return sigma, flow.interpolate(latents, noise, sigma), noise


def student_sampler(config: DistillConfig) -> SamplerConfig:
    """How the student samples, in training and afterwards."""
    return SamplerConfig(num_steps=config.steps_per_sample, shift=config.shift, renew_noise=True)


def rollout_spans(config: DistillConfig, chunks: int) -> list[Span]:
    """The first ``chunks`` chunks of a video."""
    frames, continuity = config.chunk.frames, config.chunk.continuity_frames
    return list(timeline.chunk_spans(frames + (chunks - 1) * (frames - continuity), frames, continuity))


def identity_strategy(model_path: Path) -> IdentityStrategy:
    """The identity strategy that a pipeline folder's ``model_index.json`` names; TRE where it names none.

    Raises:
        UserError: if it has none, or names none that there is.
    """
    path = model_path / "model_index.json"
    strategy = read_settings(path, "AsymTalkerPipeline").get("identity", "tre")
    if strategy not in get_args(IdentityStrategy):
        raise UserError(f"{path} has an identity that can't be: {strategy!r}. Make or fetch it anew.")
    return strategy
