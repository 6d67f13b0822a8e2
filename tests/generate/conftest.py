import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asymtalker.dataset.corpus import encode_wav
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.timeline import SAMPLE_RATE
from drawn_face import background, draw_face

SETTINGS = {"sample_size": 32, "chunk_frames": 9, "continuity_frames": 5, "num_inference_steps": 2, "name": "toy"}


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
    time = np.arange(round(1.2 * SAMPLE_RATE) + 100) / SAMPLE_RATE
    return (0.4 * np.sin(2 * np.pi * 220 * time) * np.sin(np.pi * time / time[-1])).astype(np.float32)


@pytest.fixture
def voice(tmp_path, sound) -> Path:
    """The sound as a file."""
    path = tmp_path / "voice.wav"
    path.write_bytes(encode_wav(sound))
    return path
