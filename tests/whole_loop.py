"""The chunk loop of a checkpoint in float32, in one process and in several."""

from pathlib import Path

import numpy as np
import torch

from asymtalker.codec import WanCodec, to_pixels
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.models.audio import ArraySource, AudioFeatures
from asymtalker.models.identity import encode_identity
from asymtalker.rollout import rollout
from asymtalker.timeline import chunk_spans
from asymtalker.training.distributed import start, world


def whole_loop(checkpoint: Path) -> torch.Tensor:
    """Latents of three chunks, ``(3, C, T, h, w)``."""
    torch.set_num_threads(1)
    pipeline = AsymTalkerPipeline.from_pretrained(checkpoint).place(start("cpu"))
    codec, chunk = WanCodec(pipeline.vae), pipeline.settings.chunk
    rng = np.random.default_rng(0)
    sound = ArraySource(rng.normal(0, 0.1, 17 * 640).astype(np.float32))
    picture = to_pixels(rng.integers(0, 255, (1, 32, 32, 3)).astype(np.uint8))
    with torch.inference_mode():
        chunks = rollout(
            pipeline.transformer,
            codec,
            AudioFeatures(pipeline.audio_encoder, pipeline.feature_extractor, sound),
            encode_identity("tre", picture, chunk.frames, codec=codec),
            chunk_spans(17, chunk.frames, chunk.continuity_frames),
            chunk=chunk,
            size=(32, 32),
            sampler=pipeline.settings.sampler,
            seed=1,
        )
        return torch.cat([made.latents for made in chunks])


def save_whole_loop(checkpoint: Path, folder: Path) -> None:
    """The same, as what one of several processes does."""
    torch.save(whole_loop(checkpoint), folder / f"latents{world().rank}.pt")
