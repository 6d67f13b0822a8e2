"""Put trained parts together into a checkpoint for use: one diffusers folder."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker.config import ChunkConfig, Recipe
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.models.identity import load_image_encoder
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.run_folder import RUN_CONFIG
from asymtalker.stages import Assemble
from asymtalker.whole import save_whole


def assemble_checkpoint(settings: Assemble, recipe: Recipe) -> None:
    """Write ``settings.out``, whole or not at all.

    Args:
        settings: the parts and what differs from the recipe.
        recipe: gives the sampler, unless set the identity strategy, and the chunk where the transformer lies outside
            the folder of its run.

    Raises:
        UserError: if a part is missing or not what it should be, or the folder can't be written.
    """
    dtype = getattr(torch, settings.dtype)
    sampler = recipe.sampler
    identity = settings.identity or recipe.teacher.model.identity
    chunk = _trained_chunk(settings.transformer) or recipe.teacher.chunk
    pipeline = AsymTalkerPipeline(
        transformer=_load(AsymTalkerTransformer3DModel, settings.transformer, torch_dtype=dtype),
        vae=_load(AutoencoderKLWan, settings.vae, torch_dtype=dtype),
        audio_encoder=_load(Wav2Vec2Model, settings.audio / "audio_encoder", dtype=dtype),
        feature_extractor=_load(Wav2Vec2FeatureExtractor, settings.audio / "feature_extractor"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=sampler.shift),
        image_encoder=load_image_encoder(identity, settings.image_encoder),
        sample_size=settings.size,
        chunk_frames=chunk.frames,
        continuity_frames=chunk.continuity_frames,
        num_inference_steps=settings.steps or sampler.num_steps,
        guidance_scale=sampler.guidance_scale if settings.guidance is None else settings.guidance,
        renew_noise=sampler.renew_noise if settings.renew_noise is None else settings.renew_noise,
        identity=identity,
        name=settings.name,
    )
    try:
        save_whole(settings.out, pipeline.save_pretrained)
    except OSError as error:
        raise UserError(f"The checkpoint {settings.out} can't be written: {error.strerror}.") from error


def _trained_chunk(transformer: Path) -> ChunkConfig | None:
    """The chunk of the run that the transformer lies in."""
    saved = transformer.parent / RUN_CONFIG
    if not saved.is_file():
        return None
    try:
        settings = json.loads(saved.read_text())["chunk"]
        return ChunkConfig(frames=settings["frames"], continuity_frames=settings["continuity_frames"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{saved} is not the settings of a training run: give the transformer in its run's folder"
        ) from None


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give the folder of a trained {kind.__name__}.")
    try:
        part = kind.from_pretrained(folder, **options)
        if issubclass(kind, ConfigMixin):
            part.register_to_config(_name_or_path="")  # where it lay on this machine is nobody's business
        return part
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} does not hold a {kind.__name__} ({str(error).splitlines()[0]}).") from error
