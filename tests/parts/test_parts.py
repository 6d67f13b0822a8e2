"""Training of codec, audio encoder and face readout: they learn, resume exactly, and write what is loaded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker.codec import WanCodec, to_pixels
from asymtalker.config import AudioTrainConfig, CodecTrainConfig, ReadoutTrainConfig
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.readout import FaceReadout, readings_of
from asymtalker.parts.audio import speech_batch, train_audio
from asymtalker.parts.codec import photograph_in_motion, train_codec
from asymtalker.parts.readout import train_readout
from toy import TOY_AUDIO, TOY_CODEC, TOY_OPTIMIZER, ToyFace, assert_same, saved_state, toy_loop

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
AUDIO = AudioTrainConfig(model=TOY_AUDIO, seconds=0.5, loop=toy_loop(), optimizer=TOY_OPTIMIZER)
READOUT = ReadoutTrainConfig(width=8, loop=toy_loop(batch=8), optimizer=TOY_OPTIMIZER)


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
    clips = torch.cat([to_pixels(ToyFace(seed).clip("train", 5).frames) for seed in range(4)])
    latents = codec.encode(clips)
    assert latents.mean().abs() < 1
    assert latents.std() < 3


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
    encoder = Wav2Vec2Model.from_pretrained(tmp_path / "straight" / "audio_encoder")
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "straight" / "feature_extractor")
    samples = extractor(np.zeros(16_000, np.float32), sampling_rate=16_000, return_tensors="pt").input_values
    assert encoder(samples).last_hidden_state.shape == (1, 49, TOY_AUDIO.hidden_size)


def test_speech_of_a_step_is_always_the_same_and_of_its_split():
    samples, labels = speech_batch(AUDIO, 5, "train")
    again, _ = speech_batch(AUDIO, 5, "train")
    assert torch.equal(samples, again)
    assert samples.shape == (2, 8_000)
    assert labels.shape == (2, 25)
    assert not torch.equal(samples, speech_batch(AUDIO, 5, "test")[0])


def test_the_readout_learns_what_drawn_faces_do(tmp_path, toy_corpus):
    loop = toy_loop(steps=150, batch=16, checkpoint_every=150, log_every=50)
    train_readout(replace(READOUT, loop=loop, optimizer=replace(TOY_OPTIMIZER, lr=3e-3)), tmp_path / "run", toy_corpus)
    readout = FaceReadout.from_pretrained(tmp_path / "run" / "readout")
    clip = ToyFace(4).clip("test")
    assert clip.ground_truth
    names, truth = readings_of(clip.ground_truth)
    assert tuple(readout.config.outputs) == names
    with torch.no_grad():
        read = readout(to_pixels(clip.frames)[0].transpose(0, 1)).numpy()
    # drawn heads turn by moving sideways, which training makes less certain by framing them otherwise
    for name, least in (("lip_aperture", 0.7), ("jawOpen", 0.7), ("yaw", 0.4)):
        assert np.corrcoef(read[:, readout.column(name)], truth[:, names.index(name)])[0, 1] > least, name
    # what never moved in training is read as its mean
    assert np.allclose(read[:, readout.column("eyeBlinkLeft")], 0)


def test_codec_training_goes_on_from_a_codec_of_its_size_alone(tmp_path, toy_corpus, toy_vae):
    toy_vae.save_pretrained(tmp_path / "vae")
    train_codec(replace(CODEC, init=tmp_path / "vae"), tmp_path / "run", toy_corpus, None)
    wider = replace(CODEC, model=replace(TOY_CODEC, base_dim=12), init=tmp_path / "vae")
    with pytest.raises(UserError, match="base_dim: 8 -> 12"):
        train_codec(wider, tmp_path / "wider", toy_corpus, None)
