"""The audio contract: frame k of the video hears second k/25, whatever is asked for and in whatever pieces."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Model

from asymtalker import timeline
from asymtalker.models.audio import BLOCK_FRAMES, ArraySource, AudioFeatures, at_frames
from asymtalker.models.loading import load_network

FRAMES = 520  # five blocks and a bit


@pytest.fixture
def sound():
    return np.random.default_rng(0).normal(0, 0.1, FRAMES * timeline.SAMPLES_PER_FRAME).astype(np.float32)


@pytest.fixture
def features(toy_audio_encoder, toy_extractor, sound):
    return AudioFeatures(toy_audio_encoder, toy_extractor, ArraySource(sound))


def test_a_frame_has_the_same_features_whatever_else_is_asked_for(features, toy_audio_encoder, toy_extractor, sound):
    whole = AudioFeatures(toy_audio_encoder, toy_extractor, ArraySource(sound)).frames(0, FRAMES)
    for start, stop in ((76, 157), (95, 105), (499, 501), (98, 300), (0, 1)):  # across block edges, and back again
        assert torch.equal(features.frames(start, stop), whole[:, start:stop])


def test_a_click_is_heard_at_its_frame(toy_audio_encoder, toy_extractor):
    silence = np.zeros(FRAMES * timeline.SAMPLES_PER_FRAME, np.float32)
    quiet = AudioFeatures(toy_audio_encoder, toy_extractor, ArraySource(silence)).frames(0, FRAMES)
    for frame in (30, BLOCK_FRAMES - 1, BLOCK_FRAMES, 437):
        click = silence.copy()
        click[frame * timeline.SAMPLES_PER_FRAME] = 1.0
        heard = AudioFeatures(toy_audio_encoder, toy_extractor, ArraySource(click)).frames(0, FRAMES)
        change = (heard - quiet).square().sum(-1)[0]
        assert int(change.argmax()) == pytest.approx(frame, abs=1)


def test_frames_are_taken_at_the_centre_of_what_wav2vec2_outputs():
    outputs = torch.arange(40.0).view(1, 40, 1)  # output j is centred on sample 320 j + 200
    taken = at_frames(outputs, 1480, 3)[0, :, 0]
    torch.testing.assert_close(taken, torch.tensor([4.0, 6.0, 8.0]))


def test_memory_does_not_grow_with_the_sound(features):
    for start in range(0, FRAMES - 81, 76):
        features.frames(start - 2, start + 83)
        assert len(features._blocks) <= 4


def test_weights_that_are_missing_are_not_drawn_at_random(toy_audio_encoder, tmp_path):
    toy_audio_encoder.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    assert weights.pop("masked_spec_embed") is not None  # published encoders lack it; it serves their training only
    save_file(weights, path, {"format": "pt"})
    loaded = load_network(Wav2Vec2Model, tmp_path, torch.float32)
    expected = toy_audio_encoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items() if name in weights)
    del weights["encoder.layer_norm.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 of its weights are missing, such as encoder\.layer_norm\.weight"):
        load_network(Wav2Vec2Model, tmp_path, torch.float32)
