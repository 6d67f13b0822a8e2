"""The smallest world in which a chunk needs the one before it, to see what the asymmetry of the distillation does.

A frame is one pixel: cosine and sine of an angle, and a brightness. The sound of a frame says how far the angle turns
in it. Where a chunk's angle begins can neither be heard in the chunk nor be seen in the portrait, which shows where
the video began, and that in another light: angle and brightness are known from the continuity alone. The codec loses
a little, as every codec does, each time a chunk's tail is decoded and encoded again. Losses and rollouts are the real
ones.

``python tests/distill/turning.py [seed ...]`` writes a JSON line for each network.
"""

import copy
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from asymtalker import timeline
from asymtalker.config import ChunkConfig, DistillConfig, LoopConfig, OptimizerConfig, TransformerConfig
from asymtalker.dataset.batches import Batch, ClipFeatures
from asymtalker.distill.loop import (
    Extent,
    Generated,
    Networks,
    critic_update_loss,
    generate,
    student_losses,
    student_sampler,
)
from asymtalker.flow import numbered_generator
from asymtalker.models.identity import Identity, temporal_reference
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import rollout
from asymtalker.train.teacher import teacher_losses
from asymtalker.training.frozen import Frozen
from asymtalker.training.run_folder import build_optimizer, learning_rate, optimizer_step
from toy import FoldingCodec, toy_distill, toy_loop, toy_teacher

KEPT = 0.97  # of a value, by decoding
CHUNK = ChunkConfig(frames=17, continuity_frames=5)
NEW = CHUNK.frames - CHUNK.continuity_frames
MARGIN = 4  # frames of sound on both sides of a video
ROLLED = 20  # chunks of a measured video; those trained on have at most 3
VIDEOS = 64
MODEL = TransformerConfig(
    num_attention_heads=3,
    attention_head_dim=16,
    ffn_dim=128,
    num_layers=2,
    patch_size=(1, 1, 1),
    freq_dim=32,
    prediction_type="change",
    audio_modulation=True,
)
TEACHER = toy_teacher(
    model=MODEL,
    chunk=CHUNK,
    audio_dropout=0.0,
    loop=toy_loop(steps=1500, batch=48),
    optimizer=OptimizerConfig(lr=3e-3, warmup_steps=100, final_scale=0.02),
)
DISTILL = toy_distill(
    chunk=CHUNK,
    chunks=3,
    steps_per_sample=4,
    critic_updates=2,
    guidance_scale=1.0,
    loop=toy_loop(steps=150, batch=32),
    student=OptimizerConfig(lr=3e-4, betas=(0.0, 0.999), warmup_steps=10, final_scale=0.1),
    critic=OptimizerConfig(lr=6e-4, betas=(0.0, 0.999), warmup_steps=10, final_scale=0.1),
)
VARIANTS: dict[str, dict[str, Any]] = {  # (teacher, student) of table 4
    "gt_gen": {},
    "gen_gen": {"teacher_continuity": "generated"},
    "gt_gt": {"student_continuity": "ground_truth"},
}


@dataclass(frozen=True)
class World:
    """Clips drawn anew each time, in the place of a corpus.

    Attributes:
        kept: see :class:`toy.FoldingCodec`.
        begun: whether the portrait shows the angle at which the video begins, or any other.
    """

    kept: float = KEPT
    begun: bool = True

    @property
    def frozen(self) -> Frozen:
        """The codec; no other frozen network is asked for anything."""
        parts: Any = (FoldingCodec(self.kept), None, None)
        return Frozen(*parts, "tre", None, None, torch.device("cpu"))

    def videos(self, size: int, generator: torch.Generator, chunks: int) -> tuple[Batch, Tensor]:
        """The last of ``chunks`` chunks of ``size`` videos, and all frames ``(B, 3, F, 1, 1)``."""
        lead = (chunks - 1) * NEW
        total = lead + CHUNK.frames
        noise = torch.randn(size, 1, total + 2 * MARGIN + 8, generator=generator)
        heard = 3 * torch.nn.functional.avg_pool1d(noise, 9, 1)[:, 0]  # smooth, of unit variance
        speed = 0.15 + 0.1 * torch.tanh(heard[:, MARGIN : MARGIN + total])
        angle = 6.2832 * torch.rand(size, 1, generator=generator) + speed.cumsum(1) - speed[:, :1]
        light = 2 * torch.rand(size, 1, generator=generator) - 1
        frames = torch.stack([angle.cos(), angle.sin(), light.expand(-1, total)], 1)[..., None, None]
        seen = angle[:, 0] if self.begun else 6.2832 * torch.rand(size, generator=generator)
        shown = light[:, 0] + 0.3 * torch.randn(size, generator=generator)
        portrait = torch.stack([seen.cos(), seen.sin(), shown], 1)[:, :, None, None, None]
        codec: Any = FoldingCodec()
        batch = Batch(
            keys=("",) * size,
            starts=(lead,) * size,
            latents=codec.encode(frames[:, :, lead:]),
            audio=ClipFeatures(heard[..., None], -lead - MARGIN),
            identity=Identity(latents=temporal_reference(codec, portrait, CHUNK.frames)),
            size=(1, 1),
            elapsed=lead,
        )
        return batch, frames

    def pixels(self, batch: Batch, start: int, stop: int) -> Tensor:
        """Real frames, counted from each chunk's first."""
        return FoldingCodec().decode(batch.latents)[:, :, start:stop]


def new_transformer(seed: int) -> AsymTalkerTransformer3DModel:
    torch.manual_seed(seed)
    transformer = AsymTalkerTransformer3DModel(
        **{name: value for name, value in vars(MODEL).items() if name != "identity"},
        latent_channels=FoldingCodec.channels,
        identity_channels=FoldingCodec.channels,
        audio_dim=1,
    )
    transformer.initialize()
    return transformer


def teacher_loss(world: World, transformer: Any, generator: torch.Generator, size: int, chunks: int, given: bool):
    """Flow-matching loss on the last of ``chunks`` chunks, with or without continuity."""
    batch, _ = world.videos(size, generator, chunks)
    batch, source = replace(batch, elapsed=None if given else 0), world
    return teacher_losses(TEACHER, transformer, world.frozen, source, batch, generator, decode=False)["fm"]


def trained_teacher(world: World, seed: int, loop: LoopConfig = TEACHER.loop) -> AsymTalkerTransformer3DModel:
    """Trained on first chunks without continuity, a fifth of all, and on later ones with."""
    transformer = new_transformer(seed).train()
    optimizer = build_optimizer(transformer, TEACHER.optimizer)
    for step in range(loop.steps):
        chunks = 1 + step % 5
        generator = numbered_generator(seed, step)
        teacher_loss(world, transformer, generator, loop.batch, chunks, given=chunks > 1).backward()
        optimizer_step(optimizer, TEACHER.optimizer, learning_rate(TEACHER.optimizer, step, loop.steps))
    return transformer.eval().requires_grad_(False)


@torch.no_grad()
def teacher_errors(world: World, teacher: AsymTalkerTransformer3DModel) -> dict[str, float]:
    """Mean square of clean latents on held-out first chunks, and on third ones with and without continuity."""
    cases = {"first": (1, False), "later": (3, True), "later_without": (3, False)}
    return {
        name: float(teacher_loss(world, teacher, numbered_generator(10**6, 0), 512, chunks, given))
        for name, (chunks, given) in cases.items()
    }


def distilled(config: DistillConfig, world: World, teacher: AsymTalkerTransformer3DModel, seed: int):
    """The student that the loop of :func:`asymtalker.distill.loop.distill` makes."""
    nets = Networks(teacher, *(copy.deepcopy(teacher).requires_grad_(True).train() for _ in range(2)))
    student, critic = build_optimizer(nets.student, config.student), build_optimizer(nets.critic, config.critic)
    frozen, updates = world.frozen, config.critic_updates + 1

    def generated(number: int) -> tuple[Generated, torch.Generator]:
        generator = numbered_generator(seed + 1, number)
        extent = Extent((1, 2, 2, 3, 3)[number % 5], int(torch.randint(4, (), generator=generator)))
        batch, _ = world.videos(config.loop.batch, generator, extent.chunks)
        return generate(config, nets, frozen, extent, batch, generator), generator

    for step in range(config.loop.steps):
        for turn in range(config.critic_updates):
            with torch.no_grad():
                made, generator = generated(step * updates + turn)
            critic_update_loss(config, nets, frozen, made, generator).backward()
            optimizer_step(critic, config.critic, learning_rate(config.critic, step, config.loop.steps))
        made, generator = generated(step * updates + config.critic_updates)
        losses = student_losses(config, nets, frozen, made, generator)
        (losses["dmd"] + config.anchor_weight * losses["anchor"]).backward()
        optimizer_step(student, config.student, learning_rate(config.student, step, config.loop.steps))
    return nets.student.eval().requires_grad_(False)


@torch.no_grad()
def errors_by_chunk(world: World, transformer: AsymTalkerTransformer3DModel) -> dict[str, list[float]]:
    """How far held-out videos of ``ROLLED`` chunks are from the truth, chunk by chunk: mean absolute errors of
    brightness, of the distance from the middle and of the angle (radians); and how far the angle is ahead on average.
    """
    batch, frames = world.videos(VIDEOS, numbered_generator(10**6, 1), ROLLED)
    chunks = rollout(
        transformer,
        world.frozen.codec,
        batch.audio.moved(batch.starts[0]),
        batch.identity,
        timeline.chunk_spans(frames.shape[2], CHUNK.frames, CHUNK.continuity_frames),
        chunk=CHUNK,
        size=(1, 1),
        sampler=student_sampler(DISTILL),
        seed=7,
        batch=VIDEOS,
    )
    errors: dict[str, list[float]] = {"light": [], "radius": [], "angle": [], "ahead": []}
    for chunk in chunks:
        made, true = chunk.new_pixels[..., 0, 0], frames[:, :, chunk.span.new.start : chunk.span.new.stop, 0, 0]
        turned = torch.atan2(made[:, 1], made[:, 0]) - torch.atan2(true[:, 1], true[:, 0])
        turned = torch.atan2(turned.sin(), turned.cos())
        errors["light"].append(float((made[:, 2] - true[:, 2]).abs().mean()))
        errors["radius"].append(float((made[:, :2].norm(dim=1) - 1).abs().mean()))
        errors["angle"].append(float(turned.abs().mean()))
        errors["ahead"].append(float(turned.mean()))
    return errors


def study(seed: int, begun: bool = True) -> None:
    """Print the figures of a seed: the teacher's, and the students' with a codec that loses and one that doesn't."""

    def say(**values: Any) -> None:
        print(json.dumps({"seed": seed, "begun": begun} | values), flush=True)

    def shown(world: World, transformer: AsymTalkerTransformer3DModel) -> dict[str, list[float]]:
        errors = errors_by_chunk(world, transformer)
        return {
            name: [round(values[index - 1], 3) for index in (1, 2, 3, 5, 10, 20)] for name, values in errors.items()
        }

    teacher = trained_teacher(World(begun=begun), seed)
    say(teacher=teacher_errors(World(begun=begun), teacher))
    for kept in (KEPT, 1.0):
        world = World(kept, begun)
        say(kept=kept, network="teacher", **shown(world, teacher))
        for name, changes in VARIANTS.items():
            student = distilled(replace(DISTILL, **changes), world, teacher, seed)
            say(kept=kept, network=name, **shown(world, student))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in sys.argv[1:] or ["0"]:
        study(int(number))
