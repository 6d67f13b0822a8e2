"""The bundled model's ear is Whisper's, whatever it is loaded from, and reads a waveform."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import asymtalker
from asymtalker.config import SpeechEncoderConfig
from asymtalker.media.sound import read_audio
from asymtalker.models.audio import ArraySource, AudioFeatures, audio_encoder_like, load_audio_encoder
from asymtalker.models.speech_encoder import SpeechEncoder, build_speech_encoder, whisper_weights
from real_data import DATA

BUNDLED = Path(asymtalker.__file__).parent / "assets" / "tiny" / "audio_encoder"
VOICE = DATA / "speech" / "LJ001-0004.wav"
MOST_APART = {8: 0.30, 4: 0.35}
"""Root mean square of the difference, in spreads of the features, by frames that are heard ahead."""
SIZE = SpeechEncoderConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
SECONDS = 2


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_speech_encoder(SIZE).eval().requires_grad_(False)


@pytest.fixture
def whisper():
    """transformers' encoder at toy width, on windows of two seconds."""
    torch.manual_seed(1)
    return WhisperEncoder(
        WhisperConfig(
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=48,
            num_mel_bins=80,
            max_source_positions=50 * SECONDS,
        )
    ).eval()


def in_ctranslate2s_form(whisper, path):
    """Write the encoder as CTranslate2's converter does: heads' maps as one, in float16, amid other variables."""
    state = whisper.state_dict()
    variables = {"decoder/layer_norm/gamma": np.ones(3, np.float32), "encoder/num_heads": np.array(2, np.int16)}

    def add(name, ours, kinds=("weight", "bias")):
        for kind, called in zip(kinds, ("weight", "bias") if "norm" not in name else ("gamma", "beta"), strict=True):
            variables[f"encoder/{name}/{called}"] = state[f"{ours}.{kind}"].numpy()

    for name in ("conv1", "conv2", "layer_norm"):
        add(name, name)
    for index in range(2):
        ours, theirs = f"layers.{index}", f"layer_{index}"
        add(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
        add(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
        add(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
        add(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
        add(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
        maps = [state[f"{ours}.self_attn.{name}_proj.weight"] for name in "qkv"]
        shifts = [state[f"{ours}.self_attn.{name}_proj.bias"] for name in "qv"]
        variables[f"encoder/{theirs}/self_attention/linear_0/weight"] = torch.cat(maps).numpy()
        shifts.insert(1, torch.zeros_like(shifts[0]))
        variables[f"encoder/{theirs}/self_attention/linear_0/bias"] = torch.cat(shifts).numpy()
    data = struct.pack("<I", 6) + name_of("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        value = value.astype(np.float16) if value.dtype == np.float32 else value
        kind = {np.dtype(np.float16): 4, np.dtype(np.int16): 2}[value.dtype]
        data += name_of(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", kind, value.nbytes) + value.tobytes()
    path.write_bytes(data + struct.pack("<I", 0))


def name_of(text):
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def test_it_is_whispers_encoder(whisper, encoder, tmp_path):
    in_ctranslate2s_form(whisper, tmp_path / "model.bin")
    encoder.load_state_dict(whisper_weights(tmp_path / "model.bin"))
    whisper.half().float()  # as the file has them
    samples = np.random.default_rng(0).normal(0, 0.1, SECONDS * 16_000).astype(np.float32)
    mel = WhisperFeatureExtractor(feature_size=80)(
        samples, sampling_rate=16_000, return_tensors="pt", padding=False
    ).input_features
    torch.testing.assert_close(encoder.spectrum(torch.from_numpy(samples)[None]), mel, atol=2e-3, rtol=0)
    with torch.no_grad():
        expected = whisper(mel).last_hidden_state
    heard = encoder(torch.from_numpy(samples)[None]).last_hidden_state
    torch.testing.assert_close(heard, expected, atol=5e-3, rtol=0)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\6\0\0\0\3\0abc" + bytes(64))
    with pytest.raises(ValueError, match="no Whisper model"):
        whisper_weights(tmp_path / "model.bin")


def test_it_is_loaded_where_a_wav2vec2_would_be(encoder, toy_audio_encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "ours")
    toy_audio_encoder.save_pretrained(tmp_path / "theirs")
    loaded = load_audio_encoder(tmp_path / "ours")
    assert isinstance(loaded, SpeechEncoder)
    samples = torch.randn(1, 6_400, generator=torch.manual_seed(0))
    assert torch.equal(loaded(samples).last_hidden_state, encoder(samples).last_hidden_state)
    assert type(load_audio_encoder(tmp_path / "theirs")) is type(toy_audio_encoder)
    assert type(audio_encoder_like(encoder.config)) is SpeechEncoder
    assert type(audio_encoder_like(toy_audio_encoder.config)) is type(toy_audio_encoder)


def test_a_click_is_heard_at_its_frame(encoder, toy_extractor):
    silence = np.zeros(220 * 640, np.float32)
    quiet = AudioFeatures(encoder, toy_extractor, ArraySource(silence)).frames(0, 220)
    for frame in (30, 99, 100, 187):
        click = silence.copy()
        click[frame * 640] = 1.0
        heard = AudioFeatures(encoder, toy_extractor, ArraySource(click)).frames(0, 220)
        assert int((heard - quiet).square().sum(-1)[0].argmax()) == frame


def test_sound_that_grows_is_heard_alike_but_for_its_end(encoder, toy_extractor):
    samples = np.random.default_rng(0).normal(0, 0.1, 200 * 640).astype(np.float32)
    cut = AudioFeatures(encoder, toy_extractor, ArraySource(samples[: 128 * 640]))
    whole = AudioFeatures(encoder, toy_extractor, ArraySource(samples))
    assert torch.equal(cut.latest(110, 120, 8), whole.latest(110, 120, 8)), "nothing is heard beyond what is given"
    assert not torch.equal(cut.latest(110, 120, 16), whole.latest(110, 120, 16))


@pytest.mark.skipif(not VOICE.exists(), reason=f"no {VOICE}")
def test_the_bundled_ear_needs_to_hear_little_ahead(toy_extractor):
    encoder = load_audio_encoder(BUNDLED).eval().requires_grad_(False)
    if not isinstance(encoder, SpeechEncoder):
        pytest.skip("a wav2vec2 is bundled")
    samples = read_audio(VOICE)
    features = AudioFeatures(encoder, toy_extractor, ArraySource(samples))
    count = len(samples) // 640
    whole = features.frames(0, count)[0]
    for ahead, most in MOST_APART.items():
        places = range(10, count - ahead, 16)
        heard = torch.cat([features.latest(frame, frame + 1, ahead)[0] for frame in places])
        apart = (heard - whole[list(places)]).square().sum(1).mean() / whole.var(0).sum()
        assert apart.sqrt() < most
