"""The whole system at toy width: a corpus of drawn faces, a codec, a wav2vec2 and a transformer, in seconds."""

import json
import os
import shutil
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read at import, here and in what tests start: workers share the cores

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

from asymtalker import timeline
from asymtalker.codec import Codec, WanCodec, build_vae, latent_statistics, to_pixels
from asymtalker.dataset.corpus import ShardWriter, open_clip
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.video import write_video
from asymtalker.media.wav import encode_wav
from asymtalker.models.audio import build_audio_encoder
from drawn_face import background, draw_face
from toy import TOY_AUDIO, TOY_CHUNK, TOY_CODEC, TOY_SIZE, ToyFace, toy_transformer

SETTINGS = {"sample_size": 32, "chunk_frames": 9, "continuity_frames": 5, "num_inference_steps": 2, "name": "toy"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a worker that begins one last leaves the other idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c():
    """What runs in the background of a shell ignores Ctrl-C, and so would the commands that tests stop by it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory) -> Path:
    """Four training clips and two held-out ones of 21 frames, 32 x 32."""
    writer = ShardWriter(tmp_path_factory.mktemp("corpus"))
    writer.write(0, [ToyFace(seed).clip("train") for seed in range(4)])
    writer.write(1, [ToyFace(seed).clip("test") for seed in range(4, 6)])
    writer.write_manifest()
    return writer.folder


@pytest.fixture(scope="session")
def drawn_corpus(tmp_path_factory) -> Path:
    """Three held-out clips of drawn faces that talk, of 60 frames, 160 x 160."""
    from drawn_face import drawn_clip  # draws with OpenCV, which tests on a rented GPU do without

    writer = ShardWriter(tmp_path_factory.mktemp("drawn"))
    writer.write(0, [drawn_clip(seed) for seed in range(3)])
    writer.write_manifest()
    return writer.folder


@pytest.fixture(scope="session")
def drawn_videos(drawn_corpus, tmp_path_factory) -> Path:
    """The same clips as files."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        clip = open_clip(drawn_corpus, f"drawn{seed}")
        write_video(folder / f"drawn{seed}.mp4", clip.frames(), clip.audio())
    return folder


@pytest.fixture(scope="session")
def toy_vae():
    """A codec with random weights, frozen: 8 times in space, 4 times in time, with the statistics of drawn faces."""
    torch.manual_seed(0)
    vae = build_vae(TOY_CODEC).eval().requires_grad_(False)
    pixels = to_pixels(ToyFace(0).clip("train", TOY_CHUNK.frames).frames)
    mean, std = latent_statistics([vae.encode(pixels).latent_dist.mode()])
    vae.register_to_config(latents_mean=mean, latents_std=std)
    return vae


@pytest.fixture
def toy_codec(toy_vae) -> Codec:
    """The toy codec in float32."""
    return WanCodec(toy_vae)


@pytest.fixture(scope="session")
def toy_audio_encoder():
    """A wav2vec2 with random weights, frozen."""
    torch.manual_seed(0)
    return build_audio_encoder(TOY_AUDIO).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def toy_extractor() -> Wav2Vec2FeatureExtractor:
    """The feature extractor that goes with the toy wav2vec2."""
    return Wav2Vec2FeatureExtractor(sampling_rate=timeline.SAMPLE_RATE, do_normalize=False)


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory, toy_vae, toy_audio_encoder, toy_extractor) -> Path:
    """A pipeline folder as :class:`asymtalker.generate.pipeline.AsymTalkerPipeline` reads it, at toy width."""
    folder = tmp_path_factory.mktemp("model") / "toy"
    toy_transformer().save_pretrained(folder / "transformer")
    toy_vae.save_pretrained(folder / "vae")
    toy_audio_encoder.save_pretrained(folder / "audio_encoder")
    toy_extractor.save_pretrained(folder / "feature_extractor")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "AsymTalkerPipeline",
        "sample_size": TOY_SIZE,
        "chunk_frames": TOY_CHUNK.frames,
        "continuity_frames": TOY_CHUNK.continuity_frames,
        "num_inference_steps": 2,
        "identity": "tre",
        "name": "toy",
        "transformer": ["asymtalker.models.transformer", "AsymTalkerTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "audio_encoder": ["transformers", "Wav2Vec2Model"],
        "feature_extractor": ["transformers", "Wav2Vec2FeatureExtractor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tiny_pipeline_folder, tmp_path_factory) -> Path:
    """A checkpoint with random weights and chunks of 9 frames of 32 x 32."""
    folder = tmp_path_factory.mktemp("checkpoint") / "toy"
    shutil.copytree(tiny_pipeline_folder, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | SETTINGS))
    return folder


@pytest.fixture(scope="session")
def pipeline(checkpoint) -> AsymTalkerPipeline:
    """That checkpoint, loaded."""
    return AsymTalkerPipeline.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def portrait(tmp_path_factory) -> Path:
    """A drawn face, 300 x 400."""
    path = tmp_path_factory.mktemp("portrait") / "face.png"
    Image.fromarray(draw_face(background(301, 401), (220, 150), 120)).save(path)
    return path


@pytest.fixture(scope="session")
def sound() -> np.ndarray:
    """1.2 s of a tone that swells."""
    time = np.arange(round(1.2 * timeline.SAMPLE_RATE) + 100) / timeline.SAMPLE_RATE
    return (0.4 * np.sin(2 * np.pi * 220 * time) * np.sin(np.pi * time / time[-1])).astype(np.float32)


@pytest.fixture
def voice(tmp_path, sound) -> Path:
    """The sound as a file."""
    path = tmp_path / "voice.wav"
    path.write_bytes(encode_wav(sound))
    return path
