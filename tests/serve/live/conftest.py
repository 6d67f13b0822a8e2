"""A pipeline with a codec of motion at toy width, a portrait it moves, and a server of live sessions with it."""

import base64
import io

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.serve.session import Portrait
from asymtalker.serve.stage import Stage
from live_calls import LIVE, served_live
from moving_face import mesh_points, motion_network, textured_face
from toy import TOY_CHUNK, toy_transformer


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    return textured_face()


@pytest.fixture(scope="session")
def moving_pipeline(picture, toy_audio_encoder, toy_extractor) -> AsymTalkerPipeline:
    """Chunks of 9 frames of 96 x 96."""
    return AsymTalkerPipeline(
        toy_transformer(patch_size=(1, 1, 1), prediction_type="change", latent_channels=10, identity_channels=10),
        motion_network(mesh_points(picture)),
        toy_audio_encoder,
        toy_extractor,
        FlowMatchEulerDiscreteScheduler(shift=2.0),
        sample_size=96,
        chunk_frames=TOY_CHUNK.frames,
        continuity_frames=TOY_CHUNK.continuity_frames,
        num_inference_steps=1,
    )


@pytest.fixture(scope="session")
def face(picture) -> Portrait:
    return Portrait(image=picture, crop=True, size=(96, 96), seed=3)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """1.9 s of a tone that comes and goes, 48 frames."""
    time = np.arange(30_400) / 16_000
    return (0.4 * np.sin(2 * np.pi * 180 * time) * (np.sin(2 * np.pi * 1.5 * time) > -0.3)).astype(np.float32)


@pytest.fixture(scope="module")
def stage(moving_pipeline):
    stage = Stage(moving_pipeline, LIVE)
    stage.rehearse = lambda _: 4.0  # a busy machine would refuse; test_stage.py has the real one
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def address(stage):
    with served_live(stage) as address:
        yield address


@pytest.fixture(scope="session")
def asked(picture) -> dict:
    """What a client asks for."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    portrait = base64.b64encode(file.getvalue()).decode()
    return {"type": "start", "portrait": portrait, "consent": True, "size": 96, "seed": 3}
