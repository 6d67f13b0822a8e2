"""The audio contract: frame k of the video hears second k/25, whatever is asked for and in whatever pieces."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker import timeline
from asymtalker.models.audio import (
    BLOCK_FRAMES,
    CONTEXT_FRAMES,
    FLOOR_VARIANCE,
    SCAN_SAMPLES,
    ArraySource,
    AudioFeatures,
    Level,
    at_frames,
    build_audio_encoder,
)
from asymtalker.models.loading import load_network
from toy import TOY_AUDIO

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


NORMALIZING = Wav2Vec2FeatureExtractor(sampling_rate=timeline.SAMPLE_RATE, do_normalize=True)


@pytest.fixture
def paused():
    """Eight seconds of speech's level with an offset, twelve of a pause at -66 dBFS, and speech again."""
    rng = np.random.default_rng(1)
    level = np.repeat([0.1, 5e-4, 0.1], [8 * 16_000, 12 * 16_000, 5 * 16_000 + 321])
    return (0.01 + level * rng.normal(0, 1, len(level))).astype(np.float32)


@pytest.fixture
def local_encoder():
    """A wav2vec2 without attention, whose outputs depend on a second of sound at most, on the paper's kind of norm."""
    torch.manual_seed(0)
    encoder = build_audio_encoder(replace(TOY_AUDIO, num_hidden_layers=0)).eval().requires_grad_(False)
    assert encoder.config.feat_extract_norm == "group"
    return encoder


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_a_normalised_sound_is_that_of_a_pass_over_all_of_it(paused, local_encoder, gain):
    """However loud it was recorded."""
    paused = np.float32(gain) * paused
    whole = NORMALIZING(paused, sampling_rate=timeline.SAMPLE_RATE, return_tensors="pt").input_values
    level = Level(local_encoder, ArraySource(paused))
    level.measure(1)
    torch.testing.assert_close(level.normalize(torch.from_numpy(paused)[None]), whole, atol=1e-4, rtol=1e-4)

    expected = at_frames(local_encoder(whole).last_hidden_state, 0, len(paused) // 640)
    frames = range(CONTEXT_FRAMES, len(paused) // 640 - CONTEXT_FRAMES)  # at its ends a pass over all sees no silence
    features = AudioFeatures(local_encoder, NORMALIZING, ArraySource(paused)).frames(frames.start, frames.stop)
    torch.testing.assert_close(features, expected[:, frames.start : frames.stop], atol=2e-3, rtol=2e-3)
    assert expected[0, 300:400].std(0).mean() > 0.01, "there is something to hear in the pause"


def test_the_level_is_measured_once_in_pieces(paused, local_encoder):
    class Noted(ArraySource):
        asked: ClassVar[list[tuple[int, int]]] = []

        def read(self, start, stop):
            self.asked.append((start, stop))
            return super().read(start, stop)

    source = Noted(paused)
    features = AudioFeatures(local_encoder, NORMALIZING, source)
    features.frames(0, 200)
    scanned = len(source.asked) - 2  # two blocks
    assert scanned == -(-len(paused) // SCAN_SAMPLES)
    assert max(stop - start for start, stop in source.asked) <= SCAN_SAMPLES + 16
    features.frames(400, 500)
    assert len(source.asked) == scanned + 3


def test_the_encoder_runs_as_a_whole_and_keeps_nothing(paused, local_encoder):
    """Offloading brings a network to the GPU when it is called, not when its parts are."""
    calls = []
    local_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    features = AudioFeatures(local_encoder, NORMALIZING, ArraySource(paused))
    before = local_encoder(torch.from_numpy(paused[None, :16_000])).last_hidden_state
    features.frames(0, 50)
    assert len(calls) == 2
    assert torch.equal(local_encoder(torch.from_numpy(paused[None, :16_000])).last_hidden_state, before)


def test_a_pause_at_the_start_of_growing_sound_is_no_speech(paused, local_encoder):
    class Growing(ArraySource):
        def __init__(self, samples):
            super().__init__(samples)
            self.num_samples = None

    quiet = Growing(paused[8 * 16_000 : 20 * 16_000] - 0.01)
    level = Level(local_encoder, quiet)
    level.measure(5 * 16_000)
    heard = level.normalize(torch.from_numpy(quiet.samples)[None])
    assert heard.square().mean() < 1.1 * 5e-4**2 / FLOOR_VARIANCE
    loud = Level(local_encoder, Growing(paused))
    loud.measure(10 * 16_000)
    so_far = torch.from_numpy(paused[: 10 * 16_000])[None]
    torch.testing.assert_close(loud.normalize(so_far).std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    channels = [Level(local_encoder, source) for source in (quiet, ArraySource(quiet.samples))]
    for one in channels:
        one.measure(len(quiet.samples))
    quiet_variance, own_variance = (one._of_channels()[1] for one in channels)
    torch.testing.assert_close(quiet_variance, own_variance, rtol=0.5, atol=0)  # that of sound as loud as the floor
