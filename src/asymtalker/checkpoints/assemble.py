"""Put trained parts together into a checkpoint for use: one diffusers folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import Wav2Vec2FeatureExtractor

from asymtalker.checkpoints.settings import Assemble
from asymtalker.config import ChunkConfig, Recipe, SamplerConfig
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.atomic import check_writable, save_atomic
from asymtalker.media.portrait import parse_size
from asymtalker.models.audio import AudioEncoder, load_audio_encoder
from asymtalker.models.codecs import codec_of, load_codec_network
from asymtalker.models.identity import load_image_encoder
from asymtalker.models.loading import load_part
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.training.run_folder import RUN_CONFIG


def assemble_checkpoint(settings: Assemble, recipe: Recipe) -> None:
    """Write ``settings.out``, whole or not at all.

    Args:
        settings: the parts and what differs from the recipe.
        recipe: gives the guidance, unless set the identity strategy, and what :func:`_trained_for` finds in no run.

    Raises:
        UserError: if a part is missing, not what it should be or does not fit the others, or the folder can't be
            written.
    """
    check_writable(settings.out, folder=True)
    dtype, size = getattr(torch, settings.dtype), parse_size(settings.size)
    identity = settings.identity or recipe.teacher.model.identity
    chunk, sampler = _trained_for(settings.transformer, recipe)
    steps = sampler.num_steps if settings.steps is None else settings.steps
    if steps < 1:
        raise UserError(f"--steps must be at least 1, not {steps}.")
    transformer = _load(AsymTalkerTransformer3DModel, settings.transformer, dtype)
    vae = _nameless(load_codec_network(settings.vae, dtype))
    audio_encoder = _nameless(load_audio_encoder(settings.audio / "audio_encoder", dtype))
    _check_fit(transformer, vae, audio_encoder, size)
    pipeline = AsymTalkerPipeline(
        transformer=transformer,
        vae=vae,
        audio_encoder=audio_encoder,
        feature_extractor=_load(Wav2Vec2FeatureExtractor, settings.audio / "feature_extractor", dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=sampler.shift),
        image_encoder=load_image_encoder(identity, settings.image_encoder),
        sample_size=size,
        chunk_frames=chunk.frames,
        continuity_frames=chunk.continuity_frames,
        num_inference_steps=steps,
        guidance_scale=sampler.guidance_scale if settings.guidance is None else settings.guidance,
        renew_noise=sampler.renew_noise if settings.renew_noise is None else settings.renew_noise,
        identity=identity,
        name=settings.name,
    )
    save_atomic(settings.out, pipeline.save_pretrained)


def _trained_for(transformer: Path, recipe: Recipe) -> tuple[ChunkConfig, SamplerConfig]:
    """The chunk, and of a student the sampling, of the run that the transformer lies in; else the recipe's."""
    saved = transformer.parent / RUN_CONFIG
    if not saved.is_file():
        return recipe.teacher.chunk, recipe.sampler
    try:
        run = json.loads(saved.read_text())
        chunk = ChunkConfig(frames=run["chunk"]["frames"], continuity_frames=run["chunk"]["continuity_frames"])
        if "steps_per_sample" not in run:  # a teacher
            return chunk, recipe.sampler
        steps, shift = run["steps_per_sample"], run["shift"]
        return chunk, replace(recipe.sampler, num_steps=steps, shift=shift, renew_noise=True)
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{saved} is not the settings of a training run: give the transformer in its run's folder"
        ) from None


def _check_fit(
    transformer: AsymTalkerTransformer3DModel,
    vae: ModelMixin,
    audio_encoder: AudioEncoder,
    size: tuple[int, int],
) -> None:
    """Refuse parts that were not trained with each other, as far as their sizes tell."""
    config, codec = transformer.config, codec_of(vae)
    if config.latent_channels != codec.channels:
        raise UserError(
            f"The transformer was trained on {config.latent_channels} latent channels, but the codec of --vae has"
            f" {codec.channels}."
        )
    if config.audio_dim != audio_encoder.config.hidden_size:
        raise UserError(
            f"The transformer was trained on {config.audio_dim} audio features, but the encoder of --audio gives"
            f" {audio_encoder.config.hidden_size}."
        )
    codec.cells(size, config.patch_size)


def _load(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    return _nameless(load_part(kind, folder, dtype))


def _nameless(part: Any) -> Any:
    if isinstance(part, ConfigMixin):
        part.register_to_config(_name_or_path="")  # where it lay on this machine is nobody's business
    return part
