"""What the trainings need, measured on their own networks without memory (:mod:`asymtalker.sizing.costs`).

The networks run on the meta device with the settings of a run. A transformer's cost is exactly linear in its blocks,
which are all alike: two and three blocks are measured, the rest follows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn
from transformers import CLIPVisionModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker import flow, timeline
from asymtalker.codec import Codec, latent_size
from asymtalker.config import ChunkConfig, DistillConfig, LoopConfig, Recipe, TeacherConfig, TransformerConfig
from asymtalker.dataset.chunks import AUDIO_MARGIN
from asymtalker.errors import UserError
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES
from asymtalker.models.identity import Identity
from asymtalker.models.magvit import MagvitTokenizer
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import Conditions, predict_velocity
from asymtalker.sizing.costs import (
    Cost,
    checkpoint_blocks,
    checkpoint_decoder,
    measure,
    num_parameters,
    on_meta,
    recipe_audio_encoder,
    recipe_codec,
)
from asymtalker.sizing.plan import Plan, Weights, check_gpus, check_memory
from asymtalker.timeline import SAMPLE_RATE, SAMPLES_PER_FRAME
from asymtalker.train.losses import LEAD_LATENTS
from asymtalker.training.distributed import TrainConfig, from_all, world
from asymtalker.training.frozen import Frozen
from asymtalker.training.network import adapt, build_transformer, store_as_computed
from asymtalker.training.run_folder import precision

M = TypeVar("M", bound=nn.Module)

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
    vae, encoder = on_meta(lambda: recipe_codec(recipe)), on_meta(lambda: recipe_audio_encoder(recipe))
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE)
    return Frozen(_codec(vae), _frozen(encoder), extractor, strategy, None, None, torch.device("meta"))


def frozen_like(frozen: Frozen) -> Frozen:
    """Frozen networks without memory, of the sizes of those of a run."""
    vae = on_meta(lambda: cast(AutoencoderKLWan, AutoencoderKLWan.from_config(frozen.codec.vae.config)))
    encoder = on_meta(lambda: Wav2Vec2Model(frozen.audio_encoder.config))
    return replace(frozen, codec=_codec(vae), audio_encoder=_frozen(encoder), device=torch.device("meta"))


def _codec(vae: AutoencoderKLWan) -> Codec:
    return Codec(_frozen(vae))


def _frozen(network: M) -> M:
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Passes:
    """What the passes of a transformer cost for one micro-batch.

    Attributes:
        forward: without gradient.
        backward: operations of a backward pass, without what is computed anew.
        again: operations of what gradient checkpointing computes anew; 0 without.
        peak: most bytes of activations in a forward and backward pass.
        kept: bytes of them at its turning point, when all is forward and nothing backward yet.
    """

    forward: Cost
    backward: int
    again: int
    peak: int
    kept: int


def passes(
    config: TransformerConfig,
    chunk: ChunkConfig,
    frozen: Frozen,
    loop: LoopConfig,
    lora_rank: int,
    cells: tuple[int, int],
    batch: int,
) -> Passes:
    """Measure a transformer.

    Args:
        config: its size.
        chunk: length of a chunk.
        frozen: networks without memory.
        loop: precision, gradient checkpointing.
        lora_rank: 0 trains all weights.
        cells: rows and columns of latent cells.
        batch: chunks that go through it together.
    """
    autocast = precision(loop)
    costs: list[tuple[Cost, Cost, Cost]] = []
    for num_layers in MEASURED_BLOCKS:
        network = empty_transformer(replace(config, num_layers=num_layers), frozen, loop, lora_rank)
        run = partial(_predict, network, config, chunk, frozen, cells, batch)
        forward = measure(torch.no_grad()(run), autocast)
        train = plain = measure(run, autocast)
        if loop.gradient_checkpointing:
            checkpoint_blocks(network, autocast)
            train = measure(run, autocast)
        costs.append((forward, plain, train))
    forward, plain, train = (
        _extended(few, more, config.num_layers) for few, more in zip(costs[0], costs[1], strict=True)
    )
    return Passes(forward, plain.flops - forward.flops, train.flops - plain.flops, train.peak, train.kept)


def _extended(few: Cost, more: Cost, num_layers: int) -> Cost:
    """The cost of ``num_layers`` blocks, of that of ``MEASURED_BLOCKS``."""
    steps = num_layers - MEASURED_BLOCKS[0]
    return Cost(
        few.flops + steps * (more.flops - few.flops),
        few.peak + steps * (more.peak - few.peak),
        few.kept + steps * (more.kept - few.kept),
    )


def empty_transformer(
    config: TransformerConfig, frozen: Frozen, loop: LoopConfig, lora_rank: int
) -> AsymTalkerTransformer3DModel:
    """The transformer of a run without memory, in the types it is computed in."""

    def build() -> AsymTalkerTransformer3DModel:
        network = build_transformer(config, frozen)
        if lora_rank:
            store_as_computed(network, loop)
            return adapt(network, lora_rank, loop)
        nn.Module.to(network, precision(loop) or torch.float32)
        return network

    return on_meta(build).train()


def _predict(
    network: AsymTalkerTransformer3DModel,
    config: TransformerConfig,
    chunk: ChunkConfig,
    frozen: Frozen,
    cells: tuple[int, int],
    batch: int,
) -> Tensor:
    """A loss of the velocity of a chunk that has all conditions."""
    empty = partial(torch.empty, device="meta")
    latents = empty(batch, frozen.codec.channels, timeline.latents_of_frames(chunk.frames), *cells)
    match frozen.image_encoder:
        case CLIPVisionModel() as clip:
            tokens = (clip.config.image_size // clip.config.patch_size) ** 2  # pyright: ignore[reportOperatorIssue]
            identity = Identity(tokens=empty(batch, tokens, clip.config.hidden_size))
        case MagvitTokenizer() as magvit:
            identity = Identity(tokens=empty(batch, magvit.num_tokens, dtype=torch.int64))
        case _:
            identity = Identity(latents=latents)
    audio = empty(batch, chunk.frames + 2 * config.audio_context, frozen.audio_encoder.config.hidden_size)
    head = timeline.latents_of_frames(chunk.continuity_frames)
    conditions = Conditions(audio, identity, latents[:, :, :head])
    return predict_velocity(network, latents, empty(batch), conditions).square().mean()


def _decode(
    frozen: Frozen, autocast: torch.dtype | None, batch: int, num_latents: int, cells: tuple[int, int]
) -> Cost:
    """Decoding without gradient."""

    @torch.no_grad()
    def run() -> Tensor:
        latents = torch.empty(batch, frozen.codec.channels, num_latents, *cells, device="meta")
        return frozen.codec.vae.decode(latents).sample

    return measure(run, autocast)


def _encode(frozen: Frozen, autocast: torch.dtype | None, batch: int, num_frames: int, size: tuple[int, int]) -> Cost:
    @torch.no_grad()
    def run() -> Tensor:
        pixels = torch.empty(batch, 3, num_frames, *size, device="meta")
        return frozen.codec.vae.encode(pixels).latent_dist.mode()

    return measure(run, autocast)


def _encode_on_the_fly(
    config: TeacherConfig | DistillConfig, frozen: Frozen, size: tuple[int, int], frames: int
) -> tuple[float, float, int]:
    """Operations of encoding a chunk when it is drawn, of its portrait and ``frames`` frames of its sound, and the
    most bytes of activations."""
    autocast = precision(config.loop)
    chunk = _encode(frozen, autocast, 1, config.chunk.frames, size)
    portrait = 0
    if frozen.strategy == "tre":
        portrait = chunk.flops
    elif frozen.strategy == "etr":
        portrait = _encode(frozen, autocast, 1, 1, size).flops
    samples = (BLOCK_FRAMES + 2 * CONTEXT_FRAMES) * SAMPLES_PER_FRAME

    @torch.no_grad()
    def hear() -> Tensor:
        return frozen.audio_encoder(torch.empty(1, samples, device="meta")).last_hidden_state

    blocks = 1 + (frames + 2 * AUDIO_MARGIN - 1) / BLOCK_FRAMES  # a piece that begins anywhere touches so many
    return chunk.flops, portrait + blocks * measure(hear, autocast).flops, chunk.peak


def check_fits(make_plan: Callable[[], Plan], device: torch.device) -> None:
    """Check that a training fits on its GPUs before its network is made; where there are none, nothing is checked.

    Args:
        make_plan: gives the plan, of :func:`plan_teacher` or :func:`plan_distill`.
        device: this process's; it may hold the frozen networks already.

    Raises:
        UserError: what is needed, what the GPU with the least has free, and what would fit.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        check_memory(make_plan(), min(from_all(free + torch.cuda.memory_reserved(device))))


def teacher_fits(config: TeacherConfig, frozen: Frozen, size: tuple[int, int]) -> None:
    """:func:`check_fits` of training a teacher with the frozen networks of a run, at most at ``size`` pixels."""
    check_fits(lambda: plan_teacher(config, frozen_like(frozen), size, world().size), frozen.device)


def distill_fits(config: DistillConfig, model: TransformerConfig, frozen: Frozen, size: tuple[int, int]) -> None:
    """:func:`check_fits` of distilling a teacher of the size ``model``."""
    check_fits(lambda: plan_distill(config, model, frozen_like(frozen), size, world().size), frozen.device)


def _on_gpus(config: TrainConfig) -> TrainConfig:
    """The settings with the device that a plan is of: the machine that plans may compute in another precision."""
    return replace(config, loop=replace(config.loop, device="cuda"))


def plan_teacher(config: TeacherConfig, frozen: Frozen, size: tuple[int, int], gpus: int) -> Plan:
    """What training the teacher needs.

    Args:
        config: its settings.
        frozen: networks without memory (:func:`frozen_of_recipe`, :func:`frozen_like`).
        size: height and width in pixels.
        gpus: how many share the work.

    Raises:
        UserError: if tokens do not divide the size, or the GPUs not the micro-batches.
    """
    config = _on_gpus(config)
    loop = config.loop
    check_gpus(config, gpus)
    whole = latent_size(size, frozen.codec.spatial, config.model.patch_size)
    shapes = [(1.0, loop.batch, whole)]  # share of the steps, chunks, cells
    if config.crop and config.model.identity in ("tre", "etr"):
        fewer = max(1, loop.batch * config.crop**2 // (whole[0] * whole[1]))
        shapes = [(1 - config.whole_share, loop.batch, (config.crop, config.crop)), (config.whole_share, fewer, whole)]

    flops: dict[str, float] = {}
    phases: dict[str, int] = {}
    for share, batch, cells in shapes:
        network = passes(config.model, config.chunk, frozen, loop, config.lora_rank, cells, batch)
        pixels = _pixel_losses(config, frozen, batch, cells)
        parts = {
            "transformer: forward": network.forward.flops,
            "transformer: backward": network.backward,
            "transformer: computed anew": network.again,
            "pixel losses: decoding, there and back": pixels.flops * decoded_share(config),
        }
        for name, value in parts.items():
            flops[name] = flops.get(name, 0) + share * loop.micro_batches * value
        phase = {"forward and backward": network.peak}
        if config.pixel_losses:
            phase["pixel losses of all chunks"] = network.kept + pixels.peak
        phases = {name: max(value, phases.get(name, 0)) for name, value in phase.items()}
    reading = 0
    if not loop.cache:
        chunks = loop.micro_batches * sum(share * batch for share, batch, _ in shapes)
        chunk, beside, reading = _encode_on_the_fly(config, frozen, size, config.chunk.frames)
        flops["encoding on the fly"] = chunks * (chunk + beside)
    weights = _weights(config.model, frozen, loop, config.lora_rank, trained=1, teacher=False)
    again: Callable[[TeacherConfig], Plan] = partial(plan_teacher, frozen=frozen, size=size, gpus=gpus)
    return Plan("teacher", config, size, gpus, weights, flops, phases, reading, again)


def decoded_share(config: TeacherConfig) -> float:
    """Share of all chunks, on average, whose frames are decoded for the pixel losses."""
    if not config.pixel_losses:
        return 0.0
    generator = flow.numbered_generator(config.loop.seed, 0, "plan")
    sigma = flow.training_sigmas(DRAWS, config.shift, config.num_timesteps, generator)
    return (sigma <= config.pixel_max_sigma).float().mean().item() / config.pixel_every


def _pixel_losses(config: TeacherConfig, frozen: Frozen, batch: int, cells: tuple[int, int]) -> Cost:
    """Decoding the window of the pixel losses with gradient, and the true latents without: the operations of a window
    behind its lead-in, as nearly all are, and the memory of the larger one at the very start of a video."""
    vae, autocast = frozen.codec.vae, precision(config.loop)
    if config.loop.gradient_checkpointing:
        vae = checkpoint_decoder(vae, autocast)
    length = timeline.latents_of_frames(config.pixel_frames) - 1

    def run(lead: int, window: int) -> Tensor:
        given, predicted = (
            torch.empty(batch, frozen.codec.channels, frames, *cells, device="meta") for frames in (lead, window)
        )
        decoded = vae.decode(torch.cat([given, predicted.requires_grad_()], dim=2)).sample.float()
        with torch.no_grad():
            pixels = vae.decode(torch.cat([given, predicted], dim=2)).sample.float()
        return (decoded - pixels).abs().mean()

    behind, start = (measure(partial(run, *frames), autocast) for frames in ((LEAD_LATENTS, length), (0, length + 1)))
    return replace(behind, peak=max(behind.peak, start.peak))


def plan_distill(
    config: DistillConfig, model: TransformerConfig, frozen: Frozen, size: tuple[int, int], gpus: int
) -> Plan:
    """What distillation needs. Of random lengths (chunks of a rollout, exit step) the mean is taken.

    Args:
        config: its settings.
        model: size of teacher, student and critic.
        frozen: networks without memory.
        size: height and width in pixels.
        gpus: how many share the work.

    Raises:
        UserError: if tokens do not divide the size, or the GPUs not the micro-batches.
    """
    config = _on_gpus(config)
    loop, autocast = config.loop, precision(config.loop)
    check_gpus(config, gpus)
    cells = latent_size(size, frozen.codec.spatial, model.patch_size)
    network = passes(model, config.chunk, frozen, loop, config.lora_rank, cells, loop.batch)
    forward, there_and_back = network.forward.flops, network.forward.flops + network.backward + network.again
    decode = _decode(frozen, autocast, loop.batch, timeline.latents_of_frames(config.chunk.frames), cells)
    encode = _encode(frozen, autocast, loop.batch, config.chunk.continuity_frames, size)

    generated = config.student_continuity == "generated"
    shares = config.rollout_shares
    before = sum(index * share for index, share in enumerate(shares)) if generated else 0.0  # chunks before the last
    heads = before if generated else sum(shares[1:])
    denoised = before * config.steps_per_sample + (config.steps_per_sample + 1) / 2  # steps of a rollout
    updates = config.critic_updates + 1
    scores = 2 if config.guidance_scale == 1 else 3  # of critic and teacher
    step = {
        "student: rollouts": forward * (updates * denoised - 1),
        "student: the step with gradient, there and back": there_and_back,
        "critic: there and back": config.critic_updates * there_and_back,
        "critic and teacher: scores": scores * forward,
        "codec: decoding and encoding again": updates * (before * decode.flops + heads * encode.flops),
    }
    flops = {name: loop.micro_batches * value for name, value in step.items()}
    reading = 0
    if not loop.cache:
        frames = (
            config.chunks * (config.chunk.frames - config.chunk.continuity_frames) + config.chunk.continuity_frames
        )
        chunk, beside, reading = _encode_on_the_fly(config, frozen, size, frames)
        # the critic's updates need no ground truth
        flops["encoding on the fly"] = loop.micro_batches * loop.batch * (chunk + updates * beside)
    phases = {
        "forward and backward": network.peak,
        "scores beside the student's graph": network.kept + network.forward.peak,
    }
    if before:
        phases["decoding a chunk of the rollout"] = decode.peak
    weights = _weights(model, frozen, loop, config.lora_rank, trained=2, teacher=True)
    again: Callable[[DistillConfig], Plan] = partial(plan_distill, model=model, frozen=frozen, size=size, gpus=gpus)
    return Plan("distillation", config, size, gpus, weights, flops, phases, reading, again)


def _weights(
    config: TransformerConfig, frozen: Frozen, loop: LoopConfig, lora_rank: int, *, trained: int, teacher: bool
) -> Weights:
    """What ``trained`` networks and a teacher hold, and an average of one of them. By LoRA all share what stays."""
    held = on_meta(lambda: build_transformer(config, frozen))  # by a teacher
    store_as_computed(held, loop)
    network = empty_transformer(config, frozen, loop, lora_rank)
    total = num_parameters(network.parameters())
    learned = num_parameters(p for p in network.parameters() if p.requires_grad)
    once = [p for p in (held if teacher else network).parameters() if teacher or not p.requires_grad]
    networks = "weights of teacher, student and critic" if teacher else "weights"
    states = {
        networks: sum(p.numel() * p.itemsize for p in once) + 4 * learned * trained,
        "gradients, of one network at a time": 4 * learned,
        "AdamW's two moments": 8 * learned * trained,
        "averaged weights (EMA)": 4 * learned,
    }
    block = num_parameters(network.blocks[0].parameters())
    whole = frozen.codec.vae, frozen.audio_encoder, *([frozen.image_encoder] if frozen.image_encoder else [])
    names = ["student", "critic"] if teacher else ["transformer"]
    parameters = {name: (total, learned) for name in names} | ({"teacher": (total, 0)} if teacher else {})
    parameters |= {"codec": (num_parameters(frozen.codec.vae.parameters()), 0)}
    parameters |= {"audio encoder": (num_parameters(frozen.audio_encoder.parameters()), 0)}
    return Weights(
        parameters,
        states,
        block=block,
        outside=total - config.num_layers * block,
        num_blocks=config.num_layers,
        frozen=sum(p.numel() * p.itemsize for part in whole for p in part.parameters()),
    )
