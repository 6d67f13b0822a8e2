"""Sample videos of a training run: what the network makes of a clip, beside the clip itself."""

import numpy as np
import torch

from asymtalker import timeline
from asymtalker.codec import to_frames, to_pixels
from asymtalker.config import ChunkConfig, SamplerConfig
from asymtalker.media.video import write_video
from asymtalker.models.audio import ArraySource, AudioFeatures
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import rollout
from asymtalker.training.distributed import world
from asymtalker.training.frozen import Frozen
from asymtalker.training.run_folder import RunFolder

SAMPLE_CHUNKS = 2
STRIP = 8  # frames in TensorBoard's picture


def sample_frames(chunk: ChunkConfig) -> int:
    """Frames of a sample video."""
    return chunk.frames + (SAMPLE_CHUNKS - 1) * (chunk.frames - chunk.continuity_frames)


@torch.no_grad()
def write_sample(
    run: RunFolder,
    step: int,
    transformer: AsymTalkerTransformer3DModel,
    frozen: Frozen,
    real: np.ndarray,
    samples: np.ndarray,
    chunk: ChunkConfig,
    sampler: SamplerConfig,
) -> None:
    """Generate the start of a clip from its first frame and its sound, through :func:`asymtalker.rollout.rollout`.

    Writes ``samples/step-<step>.mp4`` (left the clip, right the sample, with sound), and to the log ``sample_l1``, the
    mean distance of the two in [0, 255], and ``sample_motion``, the mean change from frame to frame in [0, 255].

    Args:
        run: where it is written and logged.
        step: its number.
        transformer: makes the sample.
        frozen: the other networks.
        real: the clip's first frames ``(F, H, W, 3)`` uint8, at most :func:`sample_frames` of them.
        samples: its sound, 16 kHz, at least as long.
        chunk: chunk length and continuity window.
        sampler: how a chunk is sampled.
    """
    num_frames = len(real)
    samples = samples[: num_frames * timeline.SAMPLES_PER_FRAME]
    audio = AudioFeatures(frozen.audio_encoder, frozen.extractor, ArraySource(samples), frozen.autocast)
    portrait = to_pixels(real[:1]).to(frozen.device)
    identity = frozen.encode_identity(portrait, chunk.frames)
    with frozen.network():
        chunks = rollout(
            transformer,
            frozen.codec,
            audio,
            identity,
            timeline.chunk_spans(num_frames, chunk.frames, chunk.continuity_frames),
            chunk=chunk,
            size=real.shape[1:3],
            sampler=sampler,
            seed=0,
            portrait=portrait,
        )
        made = np.concatenate([to_frames(piece.new_pixels) for piece in chunks])
    if not world().main:  # which makes a sample as its share of a sharded network is needed for it
        return
    (run.path / "samples").mkdir(exist_ok=True)
    write_video(run.path / "samples" / f"step-{step:06d}.mp4", np.concatenate([real, made], axis=2), samples)
    shown = np.linspace(0, num_frames - 1, STRIP).astype(int)
    strip = np.concatenate([np.concatenate([real[i], made[i]]) for i in shown], axis=1)
    run.board.add_image("sample", strip, step, dataformats="HWC")
    run.log(step, {"sample_l1": float(np.abs(real.astype(np.float32) - made).mean()), "sample_motion": _change(made)})


def _change(frames: np.ndarray) -> float:
    """Mean change from frame to frame, in [0, 255]."""
    return float(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean())
