"""The pipeline with a codec of motion: what is seen is the portrait itself, whole or cut out, at any size."""

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.video import read_video
from moving_face import SIDE, mesh_points, motion_network, textured_face
from toy import TOY_CHUNK, toy_transformer

SOUND = (np.sin(np.arange(16_000) / 20).astype(np.float32), 16_000)  # 25 frames


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return textured_face()


@pytest.fixture(scope="module")
def pipeline(picture, toy_audio_encoder, toy_extractor) -> AsymTalkerPipeline:
    network = motion_network(mesh_points(picture))
    transformer = toy_transformer(
        patch_size=(1, 1, 1), prediction_type="change", latent_channels=10, identity_channels=10
    )
    return AsymTalkerPipeline(
        transformer,
        network,
        toy_audio_encoder,
        toy_extractor,
        FlowMatchEulerDiscreteScheduler(shift=2.0),
        sample_size=128,
        chunk_frames=TOY_CHUNK.frames,
        continuity_frames=TOY_CHUNK.continuity_frames,
        num_inference_steps=1,
    )


def test_frames_are_made_chunk_by_chunk_at_any_size(pipeline, picture):
    frames = pipeline(picture, SOUND, size=(160, 120)).frames
    assert frames.shape == (25, 160, 120, 3)
    streamed = np.concatenate(list(pipeline.stream(picture, SOUND, size=(160, 120))))
    assert np.array_equal(frames, streamed)


def test_a_whole_picture_is_seen_and_rests_far_from_the_face(pipeline, picture, tmp_path):
    whole = np.full((600, 500, 3), 120, np.uint8)
    whole[150 : 150 + SIDE, 100 : 100 + SIDE] = picture
    output = pipeline.generate_to_file(whole, SOUND, tmp_path / "out.mp4", paste=True)
    frames, _ = read_video(output)
    assert frames.shape == (25, 600, 500, 3)
    assert np.abs(frames[:, :30].astype(int) - 120).mean() < 3


def test_saved_and_loaded_it_makes_the_same(pipeline, picture, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    again = AsymTalkerPipeline.from_pretrained(tmp_path / "model")
    made, expected = (p(Image.fromarray(picture), SOUND).frames for p in (again, pipeline))
    assert np.array_equal(made, expected)
