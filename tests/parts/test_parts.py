"""Training of codec and audio encoder: they learn, resume exactly, and write what is loaded."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

from asymtalker.codec import WanCodec, build_vae, latent_statistics, to_pixels
from asymtalker.config import AudioTrainConfig, CodecTrainConfig
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.audio import load_audio_encoder
from asymtalker.parts.audio import RealSpeech, speech_batch, train_audio
from asymtalker.parts.codec import channel_visibility, equal_visibility, photograph_in_motion, train_codec
from asymtalker.synth.recordings import Recording, read_index, write_index
from asymtalker.synth.speech import split_of
from toy import TOY_CODEC, TOY_OPTIMIZER, TOY_SPEECH, ToyFace, assert_same, saved_state, toy_loop

CODEC = CodecTrainConfig(
    model=TOY_CODEC,
    frames=5,
    crop=16,
    picture_fraction=0.5,
    kl_weight=1e-4,
    edge_weight=0.5,
    loop=toy_loop(),
    optimizer=TOY_OPTIMIZER,
)
AUDIO = AudioTrainConfig(model=TOY_SPEECH, seconds=0.5, loop=toy_loop(), optimizer=TOY_OPTIMIZER)


def faces(seeds: range, num_frames: int = 9) -> torch.Tensor:
    return torch.cat([to_pixels(ToyFace(seed).clip("train", num_frames).frames) for seed in seeds])


@pytest.fixture
def portraits(tmp_path):
    folder = tmp_path / "portraits"
    folder.mkdir()
    for seed in range(2):
        picture = ToyFace(seed).clip("train", 1, size=96).frames[0]
        Image.fromarray(picture).save(folder / f"{seed}.png")
    return folder


def test_codec_training_resumes_bit_for_bit_and_writes_a_normalising_codec(tmp_path, toy_corpus, portraits):
    train_codec(CODEC, tmp_path / "straight", toy_corpus, portraits)
    half = replace(CODEC, loop=toy_loop(steps=3))
    train_codec(half, tmp_path / "resumed", toy_corpus, portraits)
    train_codec(CODEC, tmp_path / "resumed", toy_corpus, portraits)
    assert_same(saved_state(tmp_path / "straight"), saved_state(tmp_path / "resumed"))
    codec = WanCodec(AutoencoderKLWan.from_pretrained(tmp_path / "straight" / "vae"))
    latents = codec.encode(faces(range(4), 5))
    assert latents.mean().abs() < 1
    assert latents.std() < 3


def test_scaled_latents_are_seen_equally_well_in_every_channel(toy_vae):
    vae, pixels = build_vae(TOY_CODEC).eval().requires_grad_(False), faces(range(4))
    vae.load_state_dict(toy_vae.state_dict())
    vae.post_quant_conv.weight *= torch.tensor([0.3, 0.6, 1.0, 1.5, 2.0, 3.0]).view(1, -1, 1, 1, 1)
    _, std = latent_statistics([vae.encode(pixels).latent_dist.mode()])
    visible = channel_visibility(vae, pixels, std)
    assert max(visible) > 5 * min(visible)
    vae.register_to_config(latents_std=equal_visibility(std, visible))
    codec = WanCodec(vae)
    latents = codec.encode(pixels)
    assert float(latents.var((0, 2, 3, 4)).mean()) == pytest.approx(1.0, rel=0.2)
    decoded, changes = codec.decode(latents), []
    for channel in range(codec.channels):
        moved = latents.clone()
        moved[:, channel] += 0.05 * torch.randn(latents[:, 0].shape, generator=torch.Generator().manual_seed(channel))
        changes.append(float((codec.decode(moved) - decoded).square().mean().sqrt()))
    assert max(changes) < 1.5 * min(changes)


def test_another_setting_in_the_same_folder_is_refused_by_name(tmp_path, portraits):
    config = replace(CODEC, loop=toy_loop(steps=1))
    train_codec(config, tmp_path / "run", None, portraits)
    with pytest.raises(UserError, match=r"kl_weight: 0.0001 -> 0.1"):
        train_codec(replace(config, kl_weight=0.1), tmp_path / "run", None, portraits)


def test_codec_training_needs_something_to_look_at(tmp_path):
    with pytest.raises(UserError, match="--corpus, --portraits"):
        train_codec(CODEC, tmp_path / "run", None, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture to train on"):
        train_codec(CODEC, tmp_path / "run", None, tmp_path / "empty")


def test_a_photograph_in_motion_moves_smoothly_and_repeatably():
    picture = ToyFace(0).clip("train", 1, size=64).frames[0]
    one = photograph_in_motion(picture, 9, 32, numbered_generator(0, 1))
    assert one.shape == (1, 3, 9, 32, 32)
    assert torch.equal(one, photograph_in_motion(picture, 9, 32, numbered_generator(0, 1)))
    change = one.diff(dim=2).abs().mean()
    assert 0 < change < (one[:, :, 0] - one[:, :, -1]).abs().mean() + 0.2


def test_audio_training_resumes_bit_for_bit_and_writes_what_transformers_loads(tmp_path):
    train_audio(AUDIO, tmp_path / "straight")
    train_audio(replace(AUDIO, loop=toy_loop(steps=3)), tmp_path / "resumed")
    train_audio(AUDIO, tmp_path / "resumed")
    assert_same(saved_state(tmp_path / "straight"), saved_state(tmp_path / "resumed"))
    encoder = load_audio_encoder(tmp_path / "straight" / "audio_encoder")
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "straight" / "feature_extractor")
    samples = extractor(np.zeros(16_000, np.float32), sampling_rate=16_000, return_tensors="pt").input_values
    assert encoder(samples).last_hidden_state.shape == (1, 50, TOY_SPEECH.hidden_size)


def test_speech_of_a_step_is_always_the_same_and_of_its_split():
    batch, again = speech_batch(AUDIO, 5, "train"), speech_batch(AUDIO, 5, "train")
    assert torch.equal(batch.samples, again.samples)
    held_out = speech_batch(AUDIO, 5, "test")
    assert held_out.samples.shape == (2, 8_000)
    assert held_out.labels.shape == (2, 25)
    assert held_out.targets.isnan().all(), "Whisper has not heard synthetic voices"
    shapes = {speech_batch(AUDIO, index, "train").samples.shape for index in range(12)}
    assert shapes == {(2, 8_000), (4, 5_440), (6, 2_560)}, "lengths differ, seconds of a step hardly"
    whole = held_out.samples.view(2, 25, 320)
    torch.testing.assert_close(whole[0, held_out.shift :], whole[1, : -held_out.shift])


@pytest.fixture
def recordings(tmp_path):
    """Six speakers who say a vowel where Whisper hears how loud it is."""
    folder = tmp_path / "speech"
    folder.mkdir()
    speakers = ("libri-1", "libri-2", "libri-3", "grid-s1", "grid-s4", "grid-s31")
    for seed, speaker in enumerate(speakers):
        loud = np.repeat(np.random.default_rng(seed).integers(0, 2, 25), 1_600).astype(np.float32)
        vowel = 0.5 * np.sin(np.arange(len(loud)) / 7).astype(np.float32) * loud
        targets = np.repeat(loud[::320, None], 4, axis=1) + np.arange(4)
        phonemes = [("ɑ" if loud[1_600 * k] else "sil", k / 10, (k + 1) / 10) for k in range(25)]
        Recording(samples=vowel, phonemes=phonemes, targets=targets).save(folder / f"{speaker}-0.npz", speaker)
    write_index(folder)
    return folder


def test_recordings_are_kept_and_split_by_speaker(recordings):
    rows = {row["speaker"]: row["split"] for row in read_index(recordings)}
    assert rows["grid-s1"] == "train"
    assert rows["grid-s31"] == "test"
    assert rows["libri-1"] == split_of("libri-1")
    name = "grid-s1-0.npz"
    kept = Recording.load(recordings / name)
    kept.save(recordings / "again.npz", "grid-s1")
    again = Recording.load(recordings / "again.npz")
    assert again.phonemes == kept.phonemes
    assert np.array_equal(again.samples, kept.samples)
    with pytest.raises(UserError, match=r"runs/speech\.py"):
        read_index(recordings.parent)


def test_what_is_drawn_of_a_recording_belongs_together(recordings):
    """Whatever piece is taken, however fast it is spoken, sound, phonemes and Whisper's outputs are of one moment."""
    real = RealSpeech(recordings)
    for seed in range(12):
        samples, labels, targets = real.draw(np.random.default_rng(seed), 1.0, "train")
        assert (len(samples), len(labels), len(targets)) == (16_000, 50, 50)
        level = np.abs(samples.reshape(50, 320)).mean(1) > 0.05
        edges = np.flatnonzero(np.diff(level.astype(int)))
        inside = np.array([k for k in range(50) if not len(edges) or np.abs(edges - k).min() > 2])
        assert np.array_equal(labels[inside] > 0, level[inside])
        known = inside[~np.isnan(targets[inside, 0])]
        assert np.array_equal(targets[known, 0] > 0.5, level[known])


def test_audio_training_on_recordings_resumes_bit_for_bit_and_learns_what_whisper_hears(tmp_path, recordings):
    faster = replace(TOY_OPTIMIZER, lr=1e-2)
    config = replace(AUDIO, real_share=1.0, loop=toy_loop(steps=40, checkpoint_every=20), optimizer=faster)
    train_audio(config, tmp_path / "straight", recordings)
    train_audio(replace(config, loop=toy_loop(steps=20, checkpoint_every=20)), tmp_path / "resumed", recordings)
    train_audio(config, tmp_path / "resumed", recordings)
    assert_same(saved_state(tmp_path / "straight"), saved_state(tmp_path / "resumed"))
    lines = [json.loads(line) for line in (tmp_path / "straight" / "stats.jsonl").read_text().splitlines()]
    heard = [line["teacher"] for line in lines if "teacher" in line]
    assert np.mean(heard[-10:]) < 0.9 * np.mean(heard[:10])


def test_codec_training_goes_on_from_a_codec_of_its_size_alone(tmp_path, toy_corpus, toy_vae):
    toy_vae.save_pretrained(tmp_path / "vae")
    train_codec(replace(CODEC, init=tmp_path / "vae"), tmp_path / "run", toy_corpus, None)
    wider = replace(CODEC, model=replace(TOY_CODEC, base_dim=12), init=tmp_path / "vae")
    with pytest.raises(UserError, match="base_dim: 8 -> 12"):
        train_codec(wider, tmp_path / "wider", toy_corpus, None)
