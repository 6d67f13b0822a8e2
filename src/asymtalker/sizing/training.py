"""What the trainings need, measured on their own networks without memory (:mod:`asymtalker.sizing.costs`).

A transformer costs exactly linearly in its blocks, which are all alike: two and three are measured, the rest follows.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Wav2Vec2FeatureExtractor

from asymtalker import flow
from asymtalker.codec import WanCodec, latent_size, recompute_decoder
from asymtalker.config import DistillConfig, LoopConfig, Recipe, TeacherConfig, TransformerConfig
from asymtalker.dataset.buckets import Size
from asymtalker.errors import UserError
from asymtalker.models.audio import audio_encoder_like
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.sizing.costs import (
    Cost,
    measure,
    num_parameters,
    on_meta,
    recipe_audio_encoder,
    recipe_codec,
    recomputed,
)
from asymtalker.sizing.empty import decode, denoise, encode, frozen_on_meta
from asymtalker.sizing.fit import SLACK, available_bytes
from asymtalker.sizing.plan import Plan, describe_shortage
from asymtalker.timeline import SAMPLE_RATE, latents_of_frames
from asymtalker.train.losses import LEAD_LATENTS
from asymtalker.training.distributed import check_processes, from_all, world
from asymtalker.training.frozen import Frozen
from asymtalker.training.network import adapt, build_transformer, store_as_computed
from asymtalker.training.run_folder import precision

DRAWS = 100_000  # noise levels drawn to find the share of chunks whose frames are decoded
MEASURED_BLOCKS = 2, 3


def frozen_of_recipe(recipe: Recipe) -> Frozen:
    """The frozen networks of a recipe without memory: the published ones' sizes where it trains none.

    Raises:
        UserError: if the identity strategy needs a published image encoder, whose size no recipe tells.
    """
    strategy = recipe.teacher.model.identity
    if strategy not in ("tre", "etr"):
        raise UserError(f"There is no plan for the identity strategy {strategy}: its image encoder is of any size.")
    vae, encoder = frozen_on_meta(lambda: recipe_codec(recipe)), frozen_on_meta(lambda: recipe_audio_encoder(recipe))
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE)
    return Frozen(WanCodec(vae), encoder, extractor, strategy, None, None, torch.device("meta"))


def frozen_like(frozen: Frozen) -> Frozen:
    """Frozen networks without memory, of the sizes of those of a run."""
    vae = frozen_on_meta(lambda: cast(AutoencoderKLWan, AutoencoderKLWan.from_config(frozen.codec.vae.config)))
    encoder = frozen_on_meta(lambda: audio_encoder_like(frozen.audio_encoder.config))
    return replace(frozen, codec=WanCodec(vae), audio_encoder=encoder, device=torch.device("meta"))


def _vae(frozen: Frozen) -> AutoencoderKLWan:
    return cast(AutoencoderKLWan, frozen.codec.vae)


class Passes(NamedTuple):
    """A transformer, and what its passes cost for one micro-batch: operations, and most bytes of activations."""

    parameters: int
    trained: int
    block: int  # parameters of one block
    held: int  # bytes of weights where they are not trained
    forward: int  # without gradient
    forward_peak: int
    backward: int  # without what gradient checkpointing computes anew
    again: int  # that
    peak: int  # of a forward and backward pass
    kept: int  # at its turning point, when all is forward and nothing backward yet


@cache
def passes(
    model: TransformerConfig, frames: int, frozen: Frozen, loop: LoopConfig, lora_rank: int, cells: Size
) -> Passes:
    """Measure a transformer, of ``model``'s size, beside frozen networks without memory, on a batch of chunks of
    ``frames`` frames and ``cells`` rows and columns of latent cells; of ``loop`` count batch, precision and gradient
    checkpointing."""
    few, more = (
        _measure(replace(model, num_layers=count), frames, frozen, loop, lora_rank, cells) for count in MEASURED_BLOCKS
    )
    further = model.num_layers - MEASURED_BLOCKS[0]
    return Passes(*(a + further * (b - a) for a, b in zip(few, more, strict=True)))


@cache
def _measure(
    model: TransformerConfig, frames: int, frozen: Frozen, loop: LoopConfig, lora_rank: int, cells: Size
) -> Passes:
    def build(held: bool) -> AsymTalkerTransformer3DModel:
        transformer = build_transformer(model, frozen)
        if held or lora_rank:
            store_as_computed(transformer, loop)
        return transformer if held or not lora_rank else adapt(transformer, lora_rank, loop)

    def loss() -> Tensor:
        return denoise(network, loop.batch, frames, cells).square().mean()

    network, autocast = on_meta(lambda: build(False)).train(), precision(loop)
    if loop.gradient_checkpointing:
        plain = _measure(model, frames, frozen, replace(loop, gradient_checkpointing=False), lora_rank, cells)
        anew = partial(checkpoint, use_reentrant=False, context_fn=partial(recomputed, autocast))
        network.enable_gradient_checkpointing(anew)
        train = measure(loss, autocast)
        return plain._replace(again=train.flops - plain.forward - plain.backward, peak=train.peak, kept=train.kept)
    forward, train = measure(torch.no_grad()(loss), autocast), measure(loss, autocast)
    return Passes(
        parameters=num_parameters(network.parameters()),
        trained=num_parameters(p for p in network.parameters() if p.requires_grad),
        block=num_parameters(network.blocks[0].parameters()),
        held=sum(p.nbytes for p in on_meta(lambda: build(True)).parameters()),
        forward=forward.flops,
        forward_peak=forward.peak,
        backward=train.flops - forward.flops,
        again=0,
        peak=train.peak,
        kept=train.kept,
    )


@cache
def _coding(
    code: Callable[..., Tensor], frozen: Frozen, autocast: torch.dtype | None, batch: int, count: int, size: Size
) -> Cost:
    """What :func:`encode` or :func:`decode` costs without gradient."""
    return measure(torch.no_grad()(partial(code, _vae(frozen), batch, count, size)), autocast)


@cache
def _pixel_losses(frozen: Frozen, loop: LoopConfig, frames: int, cells: Size) -> Cost:
    """Decoding the window of the pixel losses with gradient, and the true latents without: the operations of a window
    behind its lead-in, as nearly all are, and the memory of the larger one at the very start of a video."""
    vae, autocast = _vae(frozen), precision(loop)
    if loop.gradient_checkpointing:
        vae = copy.deepcopy(vae)
        recompute_decoder(vae, partial(recomputed, autocast))
    length = latents_of_frames(frames) - 1

    def run(lead: int, window: int) -> Tensor:
        given, predicted = (
            torch.empty(loop.batch, frozen.codec.channels, count, *cells, device="meta") for count in (lead, window)
        )
        decoded = vae.decode(torch.cat([given, predicted.requires_grad_()], dim=2)).sample.float()
        with torch.no_grad():
            pixels = decode(vae, loop.batch, lead + window, cells)
        return (decoded - pixels).abs().mean()

    behind, start = (measure(partial(run, *each), autocast) for each in ((LEAD_LATENTS, length), (0, length + 1)))
    return replace(behind, peak=max(behind.peak, start.peak))


Costs = tuple[dict[str, float], dict[str, int]]  # operations of a micro-batch by part, and bytes by phase


def _teacher_costs(config: TeacherConfig, loop: LoopConfig, network: Passes, frozen: Frozen, cells: Size) -> Costs:
    flops: dict[str, float] = {
        "transformer: forward": network.forward,
        "transformer: backward": network.backward,
        "transformer: computed anew": network.again,
    }
    phases = {"forward and backward": network.peak}
    if config.pixel_losses:
        pixels = _pixel_losses(frozen, loop, config.pixel_frames, cells)
        generator = flow.numbered_generator(loop.seed, 0, "plan")
        sigma = flow.training_sigmas(DRAWS, config.shift, config.num_timesteps, generator)
        share = (sigma <= config.pixel_max_sigma).float().mean().item() / config.pixel_every  # of chunks, decoded
        flops["pixel losses: decoding, there and back"] = pixels.flops * share
        phases["pixel losses of all chunks"] = network.kept + pixels.peak
    return flops, phases


def _distill_costs(
    config: DistillConfig, loop: LoopConfig, network: Passes, frozen: Frozen, size: Size, cells: Size
) -> Costs:
    """Of random lengths (chunks of a rollout, exit step) the mean is taken."""
    autocast, chunk = precision(loop), config.chunk
    decoding = _coding(decode, frozen, autocast, loop.batch, latents_of_frames(chunk.frames), cells)
    encoding = _coding(encode, frozen, autocast, loop.batch, chunk.continuity_frames, size)
    there_and_back = network.forward + network.backward + network.again
    generated, shares = config.student_continuity == "generated", config.rollout_shares
    before = sum(index * share for index, share in enumerate(shares)) if generated else 0.0  # chunks before the last
    denoised = before * config.steps_per_sample + (config.steps_per_sample + 1) / 2  # steps of a rollout
    updates = config.critic_updates + 1
    scores = 2 if config.guidance_scale == 1 else 3  # of critic and teacher
    flops = {
        "student: rollouts": network.forward * (updates * denoised - 1),
        "student: the step with gradient, there and back": there_and_back,
        "critic: there and back": config.critic_updates * there_and_back,
        "critic and teacher: scores": scores * network.forward,
        "codec: decoding and encoding again": updates * before * (decoding.flops + encoding.flops),
    }
    phases = {
        "forward and backward": network.peak,
        "scores beside the student's graph": network.kept + network.forward_peak,
    }
    return flops, phases | ({"decoding a chunk of the rollout": decoding.peak} if before else {})


def plan_training(
    config: TeacherConfig | DistillConfig, model: TransformerConfig, frozen: Frozen, size: Size, gpus: int
) -> Plan:
    """What training a teacher of the size ``model``, or distilling it, needs on so many GPUs, a process on each.

    ``frozen`` are networks without memory (:func:`frozen_of_recipe`, :func:`frozen_like`), ``size`` is height and
    width in pixels.

    Raises:
        UserError: if tokens do not divide the size, or the GPUs not the micro-batches.
    """
    if gpus < 1:
        raise UserError("--gpus must be at least 1.")
    check_processes(config.loop, config.lora_rank, gpus)
    # What passes do not depend on is left out, so that they are measured once for all of it.
    loop = replace(config.loop, device="cuda", micro_batches=1, cache=True, cpu_offload=False)
    cells = latent_size(size, frozen.codec.spatial, model.patch_size)
    network = passes(model, config.chunk.frames, frozen, loop, config.lora_rank, cells)
    distilled, updates, verb, names = False, 1, "teacher", ["transformer"]
    if isinstance(config, DistillConfig):
        distilled, updates, verb, names = True, config.critic_updates + 1, "distillation", ["student", "critic"]
        flops, phases = _distill_costs(config, loop, network, frozen, size, cells)
    else:
        flops, phases = _teacher_costs(config, loop, network, frozen, cells)
    reading = 0
    if not config.loop.cache:  # a chunk, and a portrait for each update; sound is less than a percent of that
        chunk = _coding(encode, frozen, precision(loop), 1, config.chunk.frames, size)
        flops["encoding on the fly"] = loop.batch * chunk.flops * (1 + updates * (frozen.strategy == "tre"))
        reading = chunk.peak
    block, held = network.block, network.held * (distilled or config.lora_rank > 0)  # by LoRA all share what stays
    outside, half = 4 * (network.parameters - model.num_layers * block), (precision(loop) or torch.float32).itemsize
    whole = frozen.codec.vae, frozen.audio_encoder, *([frozen.image_encoder] if frozen.image_encoder else [])
    learned = 4 * network.trained * (2 if distilled else 1)  # bytes of all weights that are trained
    parameters = {name: (network.parameters, network.trained) for name in names}
    parameters |= {"teacher": (network.parameters, 0)} if distilled else {}
    parameters |= {"codec": (num_parameters(whole[0].parameters()), 0)}
    return Plan(
        verb,
        config,
        size,
        gpus,
        parameters | {"audio encoder": (num_parameters(whole[1].parameters()), 0)},
        states={
            f"weights{' of teacher, student and critic' * distilled}": held + learned,
            "gradients, of one network at a time": 4 * network.trained,
            "AdamW's two moments": 2 * learned,
            "averaged weights (EMA)": 4 * network.trained,
        },
        # Two blocks and what is outside; gradients are of float32 once more where they are shared out.
        passing=2 * half * block + 2 * outside + max((half + 4) * block, outside),
        frozen=sum(p.nbytes for part in whole for p in part.parameters()),
        flops={name: config.loop.micro_batches * value for name, value in flops.items()},
        phases=phases,
        reading=reading,
        again=lambda config, gpus: plan_training(config, model, frozen, size, gpus),
    )


def check_fits(config: TeacherConfig | DistillConfig, model: TransformerConfig, frozen: Frozen, size: Size) -> None:
    """Check that a training, at most of so many pixels, fits on its GPUs before its networks are made; its frozen ones
    may be there already. Where there are no GPUs nothing is checked.

    Raises:
        UserError: what is needed, what the GPU with the least has free, and what would fit.
    """
    if frozen.device.type == "cuda" and isinstance(frozen.codec, WanCodec):  # one of motion fits anywhere
        plan = plan_training(config, model, frozen_like(frozen), size, world().size)
        available = min(from_all(available_bytes(frozen.device)))
        if plan.total() / (1 + SLACK) > available:  # what is only assumed refuses nobody
            raise UserError(describe_shortage(plan, available))
