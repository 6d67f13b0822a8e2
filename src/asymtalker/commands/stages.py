"""The verbs that make a model: their settings, what is checked of them, and what each calls.

Every default comes from a recipe, and every value of it can be given as a flag: ``--config.loop.steps 100``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from asymtalker import timeline
from asymtalker.checkpoints.settings import Assemble, Convert
from asymtalker.config import (
    AudioTrainConfig,
    CodecTrainConfig,
    DistillConfig,
    LoopConfig,
    MotionCodecTrainConfig,
    TeacherConfig,
)
from asymtalker.errors import UserError
from asymtalker.media.registry import named_portraits
from asymtalker.recipes import recipe_named


@dataclass(frozen=True, kw_only=True)
class _Run:
    recipe: str = "tiny"
    """Where the defaults come from: smoke, tiny, tiny_gt_gt, tiny_gen_gen, wan_1_3b or wan_14b."""
    run: Path
    """Run folder: settings, log, samples, checkpoint. The same command resumes it."""


@dataclass(frozen=True, kw_only=True)
class TrainCodec(_Run):
    """Train a codec on clips of a corpus and on photographs in motion; writes RUN/vae."""

    config: CodecTrainConfig
    part: Literal["codec"] = "codec"
    """Which network to train."""
    corpus: Path | None = None
    """Corpus folder."""
    portraits: Path | None = None
    """Folder of photographs to set in motion; ``cc0`` fetches the registered set."""


@dataclass(frozen=True, kw_only=True)
class TrainMotionCodec(_Run):
    """Train a codec of motion on clips of talking heads of any kind together; writes RUN/vae."""

    config: MotionCodecTrainConfig
    part: Literal["codec"] = "codec"
    """Which network to train."""
    corpus: Path
    """Corpus folder."""


@dataclass(frozen=True, kw_only=True)
class TrainAudio(_Run):
    """Train the speech encoder on synthetic voices and recordings; writes RUN/audio_encoder and
    RUN/feature_extractor."""

    config: AudioTrainConfig
    part: Literal["audio"] = "audio"
    """Which network to train."""
    speech: Path | None = None
    """Folder of recordings of real people, as runs/speech.py makes it."""
    whisper: Path | None = None
    """Folder of a Whisper model in CTranslate2's form, of the recipe's size, to begin with its encoder."""


@dataclass(frozen=True, kw_only=True)
class TrainTeacher(_Run):
    """Train the teacher (eq. 5); writes RUN/transformer. With --dry-run, say what it would need and train nothing:
    see asymtalker train --dry-run --help."""

    config: TeacherConfig
    part: Literal["teacher"] = "teacher"
    """Which network to train: codec, audio or teacher."""
    corpus: Path
    """Corpus folder."""
    model: Path
    """Folder with vae/, audio_encoder/ and feature_extractor/, such as a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Distill(_Run):
    """Distil the student by asymmetric knowledge distillation (eq. 6-15); writes RUN/transformer. With --dry-run, say
    what it would need and distil nothing."""

    config: DistillConfig
    corpus: Path
    """Corpus folder; clips must be long enough for the chunks of one rollout."""
    model: Path
    """Checkpoint folder whose transformer is the teacher."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    recipe: str = "tiny"
    """Where the defaults come from: smoke, tiny, tiny_gt_gt, tiny_gen_gen, wan_1_3b or wan_14b."""
    dry_run: bool = False
    """Say what it would need and do nothing."""
    gpus: int = 1
    """How many GPUs share the work."""
    gpu: str = "H100"
    """Which: A100-40GB, A100, H100, H200, L40S, RTX4090 or RTX5090; of H100 and H200 the SXM module."""
    size: str | None = None
    """HEIGHTxWIDTH in pixels, such as 640x416; the first of --config.buckets by default, else 512x512."""
    efficiency: float = 0.4
    """Share of the GPU's peak that is reached: an assumption."""
    run: Path | None = None
    """Not needed here."""
    corpus: Path | None = None
    """Not needed here."""
    model: Path | None = None
    """Not needed here: the networks' sizes are the recipe's."""


@dataclass(frozen=True, kw_only=True)
class PlanTeacher(_Plan):
    """Say what training the teacher would need: memory by part, operations, hours. Nothing is trained or loaded."""

    config: TeacherConfig
    part: Literal["teacher"] = "teacher"
    """Which network."""


@dataclass(frozen=True, kw_only=True)
class PlanDistill(_Plan):
    """Say what distillation would need: memory by part, operations, hours. Nothing is trained or loaded."""

    config: DistillConfig


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode a corpus for training beforehand: latents, identity references, audio features and face masks, kept in
    CORPUS/cache. The same command goes on where it was stopped; under torchrun each process encodes its share."""

    config: TeacherConfig
    recipe: str = "tiny"
    """Where the defaults come from: smoke, tiny, tiny_gt_gt, tiny_gen_gen, wan_1_3b or wan_14b."""
    corpus: Path
    """Corpus folder; both its splits are encoded."""
    model: Path
    """Folder with vae/, audio_encoder/ and feature_extractor/, such as a checkpoint."""


TRAINED: dict[str, type] = {
    "codec": TrainCodec,
    "audio": TrainAudio,
    "teacher": TrainTeacher,
}
"""What ``--part`` can be, and so the name of its settings in a recipe."""


def train_settings(arguments: Sequence[str]) -> tuple[type, Any]:
    """The settings of ``asymtalker train`` and their defaults: both depend on ``--part`` and ``--recipe``."""
    part = flag_value(arguments, "--part") or "teacher"
    if part not in TRAINED:
        raise UserError(f"There is no part {part} to train: choose {', '.join(TRAINED)}.")
    dry = "--dry-run" in arguments
    if dry and part != "teacher":
        raise UserError(f"There is nothing to plan for --part {part}: it trains on any machine; leave out --dry-run.")
    config = vars(recipe_named(flag_value(arguments, "--recipe") or "tiny"))[part]
    if config is None:
        raise UserError(f"This recipe takes a published {part}; there is nothing to train.")
    _check_planned(arguments)
    if isinstance(config, MotionCodecTrainConfig):
        return TrainMotionCodec, config
    return PlanTeacher if dry else TRAINED[part], config


def distill_settings(arguments: Sequence[str]) -> tuple[type, Any]:
    """The settings of ``asymtalker distill`` and their defaults."""
    _check_planned(arguments)
    settings = PlanDistill if "--dry-run" in arguments else Distill
    return settings, recipe_named(flag_value(arguments, "--recipe") or "tiny").distill


def _check_planned(arguments: Sequence[str]) -> None:
    for flag in ("--gpus", "--gpu", "--size", "--efficiency"):
        if flag_value(arguments, flag) and "--dry-run" not in arguments:
            raise UserError(
                f"{flag} goes with --dry-run; a training has the GPUs that torchrun gives it and the sizes of"
                " --config.buckets."
            )


def encode_settings(arguments: Sequence[str]) -> tuple[type, Any]:
    """The settings of ``asymtalker encode`` and their defaults."""
    return Encode, recipe_named(flag_value(arguments, "--recipe") or "tiny").teacher


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value given to ``flag``, as ``--flag value`` or ``--flag=value``."""
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{flag}="):
            return argument.split("=", 1)[1]
    return None


def check_lengths(config: CodecTrainConfig | MotionCodecTrainConfig | TeacherConfig | DistillConfig) -> None:
    """Check that a causal codec makes clips of the lengths in a config, and that the audio of a chunk reaches no
    further than what is cached of it.

    Raises:
        UserError: naming the flag that does not fit.
    """
    lengths: dict[str, int] = {}
    if isinstance(config, CodecTrainConfig):
        lengths["frames"] = config.frames
    elif not isinstance(config, MotionCodecTrainConfig):
        lengths["chunk.frames"] = config.chunk.frames
        lengths["chunk.continuity-frames"] = config.chunk.continuity_frames
        if config.chunk.continuity_frames >= config.chunk.frames:
            raise UserError("--config.chunk.continuity-frames must be less than --config.chunk.frames.")
    if isinstance(config, TeacherConfig):
        lengths["pixel-frames"] = config.pixel_frames
        _check_teacher(config)
    elif isinstance(config, DistillConfig) and config.teacher_continuity == "generated" != config.student_continuity:
        raise UserError(
            "--config.teacher-continuity generated needs --config.student-continuity generated: no other frames are"
            " generated."
        )
    for name, frames in lengths.items():
        try:
            timeline.latents_of_frames(frames)
        except ValueError as error:
            raise UserError(f"--config.{name}: {error}.") from error


def _check_teacher(config: TeacherConfig) -> None:
    from asymtalker.dataset.chunks import AUDIO_MARGIN

    for name in ("num_attention_heads", "attention_head_dim", "ffn_dim", "num_layers"):
        if vars(config.model)[name] < 1:
            raise UserError(f"--config.model.{name.replace('_', '-')} must be at least 1.")
    if config.pixel_frames == 1:
        raise UserError("--config.pixel-frames must be at least 5: the consistency loss compares frames.")
    if config.pixel_every < 1:
        raise UserError("--config.pixel-every must be at least 1; above --config.loop.steps it is never.")
    if config.model.audio_context > AUDIO_MARGIN:
        raise UserError(f"--config.model.audio-context can be {AUDIO_MARGIN} at most.")
    if config.model.prediction_type == "change" and config.model.identity not in ("tre", "etr"):
        raise UserError(
            "--config.model.prediction-type change is one of identity latents, which"
            f" {config.model.identity} has not: give velocity."
        )


def check_loop(loop: LoopConfig) -> None:
    """Check the numbers every training has.

    Raises:
        UserError: naming the flag that makes no sense.
    """
    for name in ("steps", "batch", "micro_batches", "log_every", "checkpoint_every"):
        if getattr(loop, name) < 1:
            raise UserError(f"--config.loop.{name.replace('_', '-')} must be at least 1.")


def check_alone(part: str, loop: LoopConfig) -> None:
    """Check that nothing is asked of the training of a small network that only the transformer's can do.

    Raises:
        UserError: naming it.
    """
    from asymtalker.training.distributed import world

    asked = {
        "torchrun": world().size > 1,
        "--config.loop.micro-batches": loop.micro_batches > 1,
        "--config.loop.cpu-offload": loop.cpu_offload,
        "--config.loop.gradient-checkpointing": loop.gradient_checkpointing,
    }
    if found := [name for name, wanted in asked.items() if wanted]:
        raise UserError(f"The {part} is trained by one process in whole batches: leave out {', '.join(found)}.")


def train(settings: TrainCodec | TrainMotionCodec | TrainAudio | TrainTeacher | PlanTeacher) -> None:
    """The ``train`` verb."""
    check_loop(settings.config.loop)
    if isinstance(settings, PlanTeacher):
        plan(settings)
        return
    if not isinstance(settings, TrainTeacher):
        check_alone(settings.part, settings.config.loop)
    if isinstance(settings, TrainCodec):
        from asymtalker.parts.codec import train_codec

        check_lengths(settings.config)
        portraits = settings.portraits and named_portraits(settings.portraits)
        train_codec(settings.config, settings.run, settings.corpus, portraits)
    elif isinstance(settings, TrainMotionCodec):
        from asymtalker.parts.motion_codec import train_motion_codec

        train_motion_codec(settings.config, settings.run, settings.corpus)
    elif isinstance(settings, TrainAudio):
        from asymtalker.parts.audio import train_audio

        train_audio(settings.config, settings.run, settings.speech, settings.whisper)
    else:
        from asymtalker.sizing.training import check_fits
        from asymtalker.train.teacher import train_teacher

        check_lengths(settings.config)
        train_teacher(
            settings.config,
            settings.run,
            settings.corpus,
            settings.model,
            lambda config, frozen, size: check_fits(config, config.model, frozen, size),
        )


def distill(settings: Distill | PlanDistill) -> None:
    """The ``distill`` verb."""
    check_loop(settings.config.loop)
    if isinstance(settings, PlanDistill):
        plan(settings)
        return
    from asymtalker.distill.loop import distill as run
    from asymtalker.sizing.training import check_fits

    check_lengths(settings.config)
    run(settings.config, settings.run, settings.corpus, settings.model, check_fits)


def plan(settings: PlanTeacher | PlanDistill) -> None:
    """``--dry-run`` of ``train`` and ``distill``: tables on stdout.

    Raises:
        UserError: if a setting makes no sense, or the GPU is not known.
    """
    from asymtalker.media.portrait import parse_size
    from asymtalker.sizing.plan import gpu_named, print_plan
    from asymtalker.sizing.training import frozen_of_recipe, plan_training

    check_lengths(settings.config)
    if not 0 < settings.efficiency <= 1:
        raise UserError(f"--efficiency is a share above 0 and at most 1, not {settings.efficiency}.")
    gpu, recipe = gpu_named(settings.gpu), recipe_named(settings.recipe)
    size = parse_size(settings.size) if settings.size else (*settings.config.buckets, (512, 512))[0]
    if isinstance(settings, PlanTeacher):
        recipe = replace(recipe, teacher=settings.config)
    made = plan_training(settings.config, recipe.teacher.model, frozen_of_recipe(recipe), size, settings.gpus)
    print_plan(made, gpu, settings.efficiency)


def encode(settings: Encode) -> None:
    """The ``encode`` verb: what was done on stderr, the folder of the cache on stdout."""
    from asymtalker.dataset.cache import encode as run
    from asymtalker.training.distributed import world

    check_lengths(settings.config)
    folder = run(settings.config, settings.corpus, settings.model)
    if world().main:
        print(folder)


def assemble(settings: Assemble) -> None:
    """The ``assemble`` verb: the folder of the checkpoint on stdout."""
    from asymtalker.checkpoints.assemble import assemble_checkpoint

    assemble_checkpoint(settings, recipe_named(settings.recipe))
    print(settings.out)


def convert(settings: Convert) -> None:
    """The ``convert`` verb: what became of which weights on stderr, the folder of the checkpoint on stdout."""
    from asymtalker.checkpoints.convert import convert_checkpoint

    convert_checkpoint(settings, recipe_named(settings.recipe))
    print(settings.out)
