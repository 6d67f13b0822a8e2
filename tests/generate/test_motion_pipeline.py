"""The pipeline with a codec of motion: what is seen is the portrait itself, whole or cut out, at any size."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.generate.inputs import Request, read_inputs
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.video import read_video
from asymtalker.models.motion.blinks import Blinks
from asymtalker.models.motion.codec import MotionCodecModel
from asymtalker.models.motion.control import MotionControl
from drawn_face import background, draw_face
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


@pytest.fixture(scope="module")
def whole(picture) -> np.ndarray:
    around = np.full((600, 500, 3), 120, np.uint8)
    around[150 : 150 + SIDE, 100 : 100 + SIDE] = picture
    return around


def test_a_crop_is_made_chunk_by_chunk_at_any_size(pipeline, picture):
    frames = pipeline(picture, SOUND, crop=True, size=(160, 120)).frames
    assert frames.shape == (25, 160, 120, 3)
    streamed = np.concatenate(list(pipeline.stream(picture, SOUND, crop=True, size=(160, 120))))
    assert np.array_equal(frames, streamed)
    with pytest.raises(UserError, match="must be even, not 160x121"):
        pipeline(picture, SOUND, crop=True, size=(160, 121))


def test_a_crop_of_a_close_picture_stays_within_it(pipeline, picture):
    """And what the network is shown does not change."""
    close = picture[20:-20, 20:-20]
    said = []
    inputs = pipeline.inputs(Request(close, SOUND, crop=True, size=(160, 104), say=said.append))
    usual = read_inputs(Request(close, SOUND, crop=True, say=lambda _: None), (160, 104), None)
    assert np.array_equal(inputs.portrait.picture, usual.portrait.picture)
    assert usual.portrait.placement.beyond(close.shape) > 0.05
    assert inputs.seen.shape == (160, 104, 3)
    assert not [sentence for sentence in said if "reaches beyond" in sentence]
    frames = np.concatenate(list(pipeline.stream(close, SOUND, crop=True, size=(160, 104))))
    assert frames.shape == (25, 160, 104, 3)
    seen, framed = (np.abs(frames[0].astype(int) - each).mean() for each in (inputs.seen, inputs.portrait.picture))
    assert seen < 0.5 * framed


def test_a_control_is_seen(pipeline, picture):
    """Of a network that is not trained, whose head and lids do move."""
    made = pipeline(picture, SOUND, crop=True).frames.astype(int)
    gazes = pipeline(picture, SOUND, crop=True, control=MotionControl(gaze="camera")).frames.astype(int)
    assert np.abs(gazes - made).max() > 3
    rests = pipeline(picture, SOUND, crop=True, control=MotionControl(motion=0)).frames.astype(int)
    corner = np.s_[:, 20:40, 54:74]  # the forehead
    assert np.abs(rests - rests[:1])[corner].mean() < 0.5 * np.abs(made - made[:1])[corner].mean()


def test_blinks_are_given_by_the_seed_unless_they_are_not_wanted(pipeline, picture, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "asymtalker.generate.pipeline.rollout", lambda *_, **options: asked.append(options) or iter(())
    )
    for control in (MotionControl(), MotionControl(blinks=False)):
        list(pipeline.stream(picture, SOUND, crop=True, seed=5, control=control))
    wanted, unwanted = (options["closing"] for options in asked)
    known = range(1000), 0, torch.zeros(1000)
    assert torch.equal(wanted(*known), Blinks(5).closing(*known))
    assert unwanted is None


def test_streaming_leaves_torch_as_it_was(pipeline, picture):
    torch.set_num_threads(2)
    for _ in pipeline.stream(picture, SOUND, crop=True):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_the_networks_of_motion_work_in_one_thread_and_frames_in_several(pipeline, picture, monkeypatch):
    """Their operations are small: shared out they take twice as long."""
    seen = {"network": set(), "frames": set()}
    network, frames = pipeline.transformer.forward, MotionCodecModel.frames
    monkeypatch.setattr(
        pipeline.transformer,
        "forward",
        lambda *a, **k: seen["network"].add(torch.get_num_threads()) or network(*a, **k),
    )
    monkeypatch.setattr(
        MotionCodecModel, "frames", lambda *a, **k: seen["frames"].add(torch.get_num_threads()) or frames(*a, **k)
    )
    torch.set_num_threads(2)
    for _ in pipeline.stream(picture, SOUND, crop=True):
        pass
    torch.set_num_threads(1)
    assert seen == {"network": {1}, "frames": {1}}


def test_a_whole_picture_is_seen_and_rests_far_from_the_face(pipeline, whole, tmp_path):
    frames, _ = read_video(pipeline.generate_to_file(whole, SOUND, tmp_path / "out.mp4"))
    assert frames.shape == (25, 600, 500, 3)
    assert np.abs(frames[:, :30].astype(int) - 120).mean() < 3


def test_a_whole_picture_fits_into_the_size_that_is_asked_for(pipeline, whole):
    assert next(pipeline.stream(whole, SOUND, size=(300, 900))).shape[1:3] == (300, 250)
    assert next(pipeline.stream(whole, SOUND, size=(720, 720))).shape[1:3] == (720, 600)


def test_saved_and_loaded_it_makes_the_same(pipeline, picture, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    again = AsymTalkerPipeline.from_pretrained(tmp_path / "model")
    made, expected = (p(Image.fromarray(picture), SOUND).frames for p in (again, pipeline))
    assert np.array_equal(made, expected)


def test_of_several_faces_the_chosen_one_moves(pipeline):
    two = draw_face(draw_face(background(400, 700), (150, 200), 90), (480, 200), 160)
    left, right = slice(0, 260), slice(320, 700)
    for face, moves, rests in ((1, right, left), (2, left, right)):
        frames = pipeline(two, SOUND, face=face, say=lambda _: None).frames.astype(int)
        change = np.abs(frames - two).mean((0, 1, 3))
        assert change[moves].max() > 3 * change[rests].max(), f"face {face} rests, or the other one moves"
