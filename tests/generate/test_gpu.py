"""Options of inference on a GPU: the same comparisons as on the CPU (test_inference.py), with the kernels of a GPU."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from test_inference import relative_error

from asymtalker.config import InferenceConfig
from asymtalker.generate.pipeline import load_pipeline
from asymtalker.media.video import read_video
from asymtalker.timeline import SAMPLE_RATE
from random_velocity import random_velocity

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def frames(checkpoint, portrait, sound, device: str = "cuda", **options) -> np.ndarray:
    made = load_pipeline(checkpoint, device, InferenceConfig(**options))(portrait, (sound, SAMPLE_RATE)).frames
    return made.astype(float)


@pytest.fixture(scope="module")
def plain(checkpoint, portrait, sound) -> np.ndarray:
    """On the GPU without options."""
    return frames(checkpoint, portrait, sound)


def test_a_gpu_makes_nearly_the_video_of_a_cpu(checkpoint, portrait, sound, plain):
    assert np.abs(plain - frames(checkpoint, portrait, sound, device="cpu")).mean() < 2


def test_fitting_lays_the_codec_out_for_a_gpu(checkpoint):
    vae = load_pipeline(checkpoint, "cuda").vae
    assert torch.backends.cudnn.benchmark
    assert vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offload_changes_nearly_nothing(checkpoint, portrait, sound, plain, offload):
    """Kernels are chosen anew by their speed, and may round otherwise."""
    assert np.abs(frames(checkpoint, portrait, sound, offload=offload) - plain).mean() < 2


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["none", "model"])
def test_a_compiled_pipeline_shows_nearly_the_same(checkpoint, portrait, sound, plain, offload):
    assert np.abs(frames(checkpoint, portrait, sound, compile=True, offload=offload) - plain).mean() < 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"compile": True}, {"fp8": True}, {"compile": True, "fp8": True}])
def test_compiled_and_8_bit_blocks_are_within_their_error(options):
    if "fp8" in options:
        pytest.importorskip("torchao")
    expected = random_velocity({}, "cuda", torch.bfloat16)
    assert relative_error(random_velocity(options, "cuda", torch.bfloat16), expected) < (
        0.08 if "fp8" in options else 0.03
    )


@pytest.mark.parametrize("attention", ["_native_math", "_native_efficient", "_native_cudnn"])
def test_kernels_of_attention_agree(attention, monkeypatch):
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    expected = random_velocity({}, "cuda", torch.bfloat16)
    assert relative_error(random_velocity({"attention": attention}, "cuda", torch.bfloat16), expected) < 0.03


@pytest.mark.slow
def test_sizes_may_change_within_a_compiled_process(checkpoint, portrait, sound):
    pipeline = load_pipeline(checkpoint, "cuda", InferenceConfig(compile=True))
    for side in (32, 64, 96):
        assert pipeline(portrait, (sound, SAMPLE_RATE), size=(32, side)).frames.shape[1:3] == (32, side)


def test_the_file_shows_what_is_returned(checkpoint, portrait, voice, sound, plain, tmp_path):
    pipeline = load_pipeline(checkpoint, "cuda")
    pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", say=lambda _: None)
    written = read_video(tmp_path / "a.mp4")[0].astype(float)
    assert len(written) == len(plain)
    blocks = [video.reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4)) for video in (written, plain)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 2  # what H.264 makes of a random codec's noise
