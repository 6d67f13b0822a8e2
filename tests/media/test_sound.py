"""Sound of every kind of file, and in memory: its length, its channels, its tracks, its clock."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.channels import CANCELLED, PassingChannels
from asymtalker.media.sound import AudioFile, AudioSamples, read_audio
from asymtalker.media.wav import encode_wav
from asymtalker.timeline import SAMPLE_RATE
from real_data import INPUTS, needs_inputs

CODECS = {"wav": "pcm_s16le", "mp3": "libmp3lame", "m4a": "aac", "aac": "aac", "flac": "flac", "ogg": "libopus"}


def clicks(rate: int, seconds: float, channels: int) -> np.ndarray:
    """Short bursts every half second: their places show any shift."""
    samples = np.zeros((round(rate * seconds), channels), np.float32)
    for start in np.arange(0.2, seconds - 0.05, 0.5):
        at = round(start * rate)
        burst = 0.7 * np.sin(2 * np.pi * 1000 * np.arange(round(0.02 * rate)) / rate)
        samples[at : at + len(burst)] = burst[:, None]
    return samples


def write_sound(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Encode with the codec that the file's ending stands for."""
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in (frame, None):
            container.mux(stream.encode(part))
    return path


def write_wav(path: Path, samples: np.ndarray) -> Path:
    path.write_bytes(encode_wav(samples))
    return path


@pytest.mark.parametrize(
    ("ending", "rate", "channels"),
    [
        ("wav", 8000, 1),
        ("wav", 22050, 2),
        ("wav", 96000, 1),
        ("mp3", 44100, 2),
        ("m4a", 48000, 1),
        ("m4a", 16000, 2),
        ("flac", 44100, 1),
        ("ogg", 48000, 2),
    ],
)
def test_sound_keeps_its_length_and_place(tmp_path, ending, rate, channels):
    path = write_sound(tmp_path / f"sound.{ending}", clicks(rate, 2.3, channels), rate)
    audio = AudioFile(path)
    samples = audio.read(0, audio.num_samples)
    assert abs(len(samples) - round(2.3 * SAMPLE_RATE)) <= (0 if ending in ("wav", "flac", "m4a") else 2)
    expected = clicks(SAMPLE_RATE, 2.3, 1)[:, 0]
    shifts = range(-40, 41)
    match = [float(np.dot(np.roll(samples, -shift)[: len(expected)], expected[: len(samples)])) for shift in shifts]
    assert abs(shifts[int(np.argmax(match))]) <= 1
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1


def test_windows_and_whole_agree(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(44100 * 25.3), 1)).astype(np.float32)
    audio = AudioFile(write_sound(tmp_path / "long.flac", noise, 44100))
    whole = read_audio(audio.path)
    assert len(whole) == audio.num_samples
    for start, stop in [(0, 700), (1000, 90_000), (80_000, 200_000), (350_000, 360_000), (5, 50)]:
        assert np.array_equal(audio.read(start, stop), whole[start:stop])
    edge = audio.read(-100, 100)
    assert not edge[:100].any()
    assert np.array_equal(edge[100:], whole[:100])
    end = audio.read(len(whole) - 50, len(whole) + 50)
    assert np.array_equal(end[:50], whole[-50:])
    assert not end[50:].any()


def test_forward_reading_holds_little(tmp_path):
    audio = AudioFile(write_wav(tmp_path / "long.wav", np.zeros(SAMPLE_RATE * 120)))
    for start in range(0, audio.num_samples, SAMPLE_RATE):
        audio.read(start, start + 2 * SAMPLE_RATE)
        assert len(audio._held) < 15 * SAMPLE_RATE


def test_track_keeps_rate_and_channels(tmp_path):
    source = clicks(44100, 1.7, 2) * [1, 0.5]
    track = AudioFile(write_sound(tmp_path / "stereo.flac", source.astype(np.float32), 44100)).track()
    assert (track.rate, track.channels) == (44100, 2)
    parts = [track.take_until(0.5), track.take_until(0.5), track.take_until(1.2), track.take_until(None)]
    assert [len(part) for part in parts] == [22050, 0, 30870, len(source) - 52920]
    assert np.allclose(np.concatenate(parts), source, atol=1e-3)


def test_samples_in_memory_equal_the_file(tmp_path):
    sound = clicks(22050, 1.1, 1)
    path = write_sound(tmp_path / "a.wav", sound, 22050)
    memory = AudioSamples(sound, 22050)
    assert np.allclose(memory.read(-10, memory.num_samples + 10)[10:-10], read_audio(path), atol=1e-4)
    assert memory.track().rate == 22050


def test_a_rate_that_changes_midway_loses_nothing(tmp_path):
    parts = [write_sound(tmp_path / f"{rate}.aac", clicks(rate, 2, 1), rate) for rate in (44100, 22050, 48000)]
    joined = tmp_path / "joined.aac"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    samples, lengths = read_audio(joined), [AudioFile(part).num_samples for part in parts]
    assert abs(len(samples) - sum(lengths)) < 20
    loud = np.abs(samples[: len(samples) // 160 * 160]).reshape(-1, 160).max(axis=1) > 0.2
    assert np.diff(loud.astype(int)).clip(0).sum() == 3 * 4  # every click of every part, and no other


def test_one_sample_and_silence_are_sound(tmp_path):
    assert AudioFile(write_wav(tmp_path / "one.wav", np.zeros(1))).num_samples == 1
    assert not read_audio(write_wav(tmp_path / "still.wav", np.zeros(4000))).any()


def bad_sound(folder: Path, name: str) -> Path:
    path = folder / name
    match name:
        case "folder.wav":
            path.mkdir()
        case "empty.wav":
            path.touch()
        case "text.wav":
            path.write_text("not a sound at all " * 50)
        case "picture.png":
            Image.new("RGB", (80, 80)).save(path)
        case "header.wav":
            write_wav(path, np.zeros(0))
        case "noise.mp3":
            path.write_bytes(np.random.default_rng(1).bytes(20_000))
        case "playlist.m3u8":
            path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
        case "nan.wav":
            with av.open(str(path), "w") as container:
                stream = container.add_stream("pcm_f32le", rate=16000, layout="mono")
                frame = av.AudioFrame.from_ndarray(np.full((1, 1000), np.nan, np.float32), "flt", "mono")
                frame.sample_rate = 16000
                container.mux(stream.encode(frame))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "no.wav",
        "folder.wav",
        "empty.wav",
        "text.wav",
        "picture.png",
        "header.wav",
        "noise.mp3",
        "playlist.m3u8",
        "nan.wav",
    ],
)
def test_bad_sound_is_one_sentence(tmp_path, name):
    path = bad_sound(tmp_path, name)
    with pytest.raises(UserError) as error:
        AudioFile(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_sound_cut_off_in_transfer_is_read_as_far_as_it_goes(tmp_path):
    path = write_sound(tmp_path / "a.mp3", clicks(44100, 3, 1), 44100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 0.4 < AudioFile(path).num_samples / (3 * SAMPLE_RATE) < 0.6


def voice_like(seconds: float = 1.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Noise whose loudness rises and falls ``(n,)``."""
    count = round(seconds * rate)
    loud = 0.3 * np.sin(2 * np.pi * 3 * np.arange(count) / rate) ** 2
    return (loud * np.random.default_rng(0).standard_normal(count)).clip(-1, 1).astype(np.float32)


def write_raw_wav(path: Path, samples: np.ndarray, form: str = "<i2", mask: int | None = None) -> Path:
    """A WAV file ``(n, channels)`` whose channels have names only by a ``mask``."""
    wave = (samples * 32767).astype(form) if form == "<i2" else samples.astype(form)
    count, width = samples.shape[1], wave.itemsize
    code = 1 if form == "<i2" else 3
    head = struct.pack("<HIIHH", count, SAMPLE_RATE, SAMPLE_RATE * count * width, count * width, 8 * width)
    if mask is None:
        head = struct.pack("<H", code) + head
    else:
        head = struct.pack("<H", 0xFFFE) + head + struct.pack("<HHIH", 22, 8 * width, mask, code)
        head += bytes.fromhex("000000001000800000aa00389b71")
    body = wave.tobytes()
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(body)) + body
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def test_sides_that_cancel_are_heard_by_the_louder_one(tmp_path):
    voice = voice_like()
    for name, sides in {"one": [0.5, -0.4], "other": [-0.4, 0.5]}.items():
        path = write_raw_wav(tmp_path / f"{name}.wav", voice[:, None] * sides)
        audio = AudioFile(path)
        assert np.allclose(audio.read(0, audio.num_samples), voice * 0.5, atol=1e-3)
        assert any("cancel" in remark for remark in audio.remarks)
        memory = AudioSamples(voice[:, None] * np.float32(sides), SAMPLE_RATE)
        assert np.allclose(memory.read(0, memory.num_samples), voice * 0.5, atol=1e-3)
        assert audio.track().channels == 2, "who listens hears both, as given"


def test_alike_and_unlike_sides_are_mixed_and_nothing_is_said(tmp_path):
    voice, other = voice_like(), voice_like()[::-1]
    for sides in (np.stack([voice, voice], 1), np.stack([voice, other], 1), np.stack([voice, 0 * voice], 1)):
        audio = AudioFile(write_raw_wav(tmp_path / "a.wav", sides))
        assert np.allclose(audio.read(0, audio.num_samples), sides.mean(1), atol=1e-3)
        assert audio.remarks == ()


@pytest.mark.parametrize("count", [3, 6, 9, 11, 13, 64])
def test_a_voice_on_any_of_many_channels_without_names_is_heard(tmp_path, count):
    voice = voice_like()
    for at in {0, min(3, count - 1), count - 1}:
        samples = np.zeros((len(voice), count), np.float32)
        samples[:, at] = voice
        audio = AudioFile(write_raw_wav(tmp_path / "a.wav", samples))
        assert agreement(audio.read(0, audio.num_samples), voice) > 0.99
        assert np.abs(audio.read(0, audio.num_samples)).max() > 0.3 * np.abs(voice).max()
        played = audio.track().take_until(None)
        assert played.shape == (len(voice), 1)
        assert agreement(played[:, 0], voice) > 0.99


def test_voices_on_several_of_many_channels_are_all_heard():
    one, other = voice_like(), np.roll(voice_like()[::-1], 500)
    samples = np.zeros((len(one), 6), np.float32)
    samples[:, 0], samples[:, 4] = one, 0.5 * other
    audio = AudioSamples(samples, SAMPLE_RATE)
    for heard in (audio.read(0, len(one)), audio.track().take_until(None)[:, 0]):
        assert agreement(heard, one + 0.5 * other) > 0.99
        assert np.abs(heard).max() == pytest.approx(np.abs(samples).max(), rel=0.01)
    assert audio.remarks == ()


def test_a_voice_that_cancels_under_music_is_heard(tmp_path):
    voice, music = voice_like(), 0.2 * voice_like()[::-1]
    audio = AudioFile(write_raw_wav(tmp_path / "a.wav", 0.5 * np.stack([music + voice, music - voice], 1)))
    assert agreement(audio.read(0, audio.num_samples), voice) > 0.9
    assert any("cancel" in remark for remark in audio.remarks)


PARTLY = {  # seconds, and whether one side is inverted there
    "later": ((6.08, 1), (6, -1)),
    "first": ((6.27, -1), (6, 1)),
    "shortly": ((4.08, 1), (0.5, -1), (4, 1)),
    "now and then": ((2.05, 1), (2.05, -1)) * 3,
    "in a short sound": ((0.58, 1), (0.5, -1)),
}


@pytest.mark.parametrize("music", [0.0, 0.04], ids=["alone", "under music"])
@pytest.mark.parametrize("parts", PARTLY.values(), ids=PARTLY.keys())
def test_sides_that_cancel_for_a_part_of_the_time_are_heard_all_the_time(parts, music, tmp_path):
    side = np.concatenate([np.full(round(seconds * SAMPLE_RATE), sign, np.float32) for seconds, sign in parts])
    voice = voice_like(len(side) / SAMPLE_RATE)
    noise = music * np.random.default_rng(1).standard_normal((len(voice), 2)).astype(np.float32)
    sides = (0.5 * np.stack([voice, 0.9 * side * voice], 1) + noise).clip(-1, 1)
    audio = AudioFile(write_raw_wav(tmp_path / "a.wav", sides))
    heard = audio.read(0, len(voice))
    loudness = [
        np.sqrt(np.square(samples[: len(voice) // 800 * 800].reshape(-1, 800)).mean(1))
        for samples in (heard, 0.5 * voice, sides.mean(1))
    ]
    loud = loudness[1] > 0.02
    assert (loudness[0] > 0.8 * loudness[1])[loud].all()
    assert (loudness[2] < 0.6 * loudness[1])[loud].any(), "the mix of both would do"
    assert np.abs(np.diff(heard)).max() <= 1.01 * np.abs(np.diff(sides, axis=0)).max(), "it clicks"
    for start in (0, len(voice) // 3, len(voice) // 2):
        assert np.array_equal(audio.read(start, start + 5000), np.resize(heard[start : start + 5000], 5000))
    assert [remark for remark in audio.remarks if "cancel each other: number 1 speaks where they do" in remark]
    assert np.allclose(audio.track().take_until(None), sides, atol=1e-3), "who listens hears both, as given"


def test_what_is_spoken_softly_under_music_where_sides_cancel_is_heard():
    """It does not outweigh the music for seconds, but all that is said around it does."""
    seconds = np.arange(46 * SAMPLE_RATE) / SAMPLE_RATE
    soft = (seconds >= 30) & ((seconds - 30) % 8 < 6)
    voice, music = voice_like(46) * np.where(soft, 1 / 6, 1), voice_like(46)[::-1] / 6
    sides = 0.5 * np.stack([music + voice, music + np.where(seconds < 30, voice, -0.9 * voice)], 1)
    heard = AudioSamples(sides.astype(np.float32), SAMPLE_RATE).read(0, len(voice))
    for start in (32, 40):
        middle = slice(start * SAMPLE_RATE, (start + 2) * SAMPLE_RATE)
        assert agreement(heard[middle], voice[middle]) > 0.6


def test_sides_of_live_sound_that_cancel_are_heard_by_one_of_them_whichever_is_louder_now():
    """The other is upside down: to change over would be a click at each change."""
    left = np.random.default_rng(0).normal(0, 0.1, 4 * 16_000).astype(np.float32)
    right = -left * np.repeat([0.8, 1.25, 0.8, 1.25], 16_000).astype(np.float32)
    channels = PassingChannels()
    pieces = np.split(np.stack([left, right], 1), range(320, len(left), 320))
    heard = np.concatenate([channels.mono(piece, 16_000) for piece in pieces])
    assert np.abs(heard - left)[320:].max() < 1e-6


def test_what_was_heard_of_live_sound_counts_half_after_a_fifth_of_a_second():
    """Sides that were alike cancel once what is left of that is little against what is upside down."""
    voice = np.random.default_rng(0).normal(0, 0.1, 2 * 16_000).astype(np.float32)
    sides = np.stack([voice, voice], 1)
    sides[16_000:, 1] *= -1
    channels = PassingChannels()
    pieces = np.split(sides, range(160, len(voice), 160))
    heard = [channels.mono(piece, 16_000) for piece in pieces]
    silent = [not piece.any() for piece in heard]
    assert 0.01 * sum(silent) == pytest.approx(0.2 * np.log2(2 / CANCELLED), abs=0.02)
    first = 100 + sum(silent)
    assert heard[first] == pytest.approx(np.linspace(0, 1, 160) * pieces[first][:, 0], abs=1e-6), "it fades in"


def test_who_speaks_on_one_side_alone_is_heard_beside_sides_that_cancel():
    voice = voice_like(20)
    sides = 0.5 * np.stack([voice, -0.9 * voice], 1)
    sides[8 * SAMPLE_RATE : 9 * SAMPLE_RATE, 0] = 0
    heard = AudioSamples(sides, SAMPLE_RATE).read(0, len(voice))
    alone = slice(round(8.1 * SAMPLE_RATE), round(8.9 * SAMPLE_RATE))
    assert np.allclose(heard[alone], 0.5 * sides[alone, 1], atol=1e-4)
    assert np.allclose(heard[: 7 * SAMPLE_RATE], sides[: 7 * SAMPLE_RATE, 0], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_ordinary_stereo_is_the_mean_of_its_sides(seed):
    voice, other = voice_like(12), np.roll(voice_like(12)[::-1], 5000)
    noise = np.random.default_rng(seed).standard_normal((len(voice), 2)).astype(np.float32)
    still = 0.01 * noise
    spoken = np.arange(len(voice)) < len(voice) // 2
    for sides in (
        np.where(spoken[:, None], voice[:, None], 1e-3 * noise[:, :1] * [1, -1]),  # hiss in a pause
        np.stack([voice, 0.6 * voice], 1) + still,
        np.stack([voice + 0.2 * other, 0.2 * voice + other], 1),
        np.stack([voice, 0 * voice], 1) + still,
        np.stack([voice, np.roll(voice, 40)], 1),
        still,
    ):
        audio = AudioSamples(0.5 * sides, SAMPLE_RATE)
        assert np.allclose(audio.read(0, len(voice)), 0.5 * sides.mean(1), atol=1e-6)
        assert audio.remarks == ()


@pytest.mark.parametrize(
    ("count", "mask", "at"), [(6, 0x3F, 3), (18, 0x3FFFF, 17), (2, 0x18000, 1), (2, 0x1008, 0), (1, 0x8, 0)]
)
def test_names_that_players_leave_out_or_cannot_mix_hide_no_voice(tmp_path, count, mask, at):
    """A recorder's tracks may be named after loudspeakers, such as the fourth of six after a subwoofer."""
    voice = voice_like()
    samples = np.zeros((len(voice), count), np.float32)
    samples[:, at] = voice
    audio = AudioFile(write_raw_wav(tmp_path / "a.wav", samples, mask=mask))
    assert agreement(audio.read(0, audio.num_samples), voice) > 0.99
    assert agreement(audio.track().take_until(None).sum(1), voice) > 0.99
    assert not any("Nothing is heard" in remark for remark in audio.remarks)


def test_channels_with_names_are_mixed_as_players_do(tmp_path):
    voice = voice_like()
    samples = np.zeros((len(voice), 6), np.float32)
    samples[:, 2] = voice  # the centre of 5.1
    audio = AudioFile(write_raw_wav(tmp_path / "a.wav", samples, mask=0x3F))
    assert audio.track().channels == 2
    assert agreement(audio.read(0, audio.num_samples), voice) > 0.99


def write_tracks(path: Path, tracks: list[np.ndarray], default: int | None) -> Path:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") for _ in tracks]
        for index, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition(int(index == default))
        for stream, samples in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
            for part in (frame, None):
                container.mux(stream.encode(part))
    return path


def test_of_several_tracks_the_default_is_heard_said_and_another_can_be_asked_for(tmp_path):
    voice, still = voice_like(), np.zeros(SAMPLE_RATE, np.float32)
    path = write_tracks(tmp_path / "a.mkv", [still, voice], default=1)
    audio = AudioFile(path)
    assert agreement(audio.read(0, SAMPLE_RATE), voice) > 0.9
    assert agreement(audio.track().take_until(1.0)[:, 0], voice) > 0.9, "another track plays than is spoken"
    assert not AudioFile(path, track=1).track().take_until(1.0).any()
    assert [remark for remark in audio.remarks if "number 2" in remark and "--track" in remark]
    first = AudioFile(path, track=1)
    assert not first.read(0, SAMPLE_RATE).any()
    assert not any("There are" in remark for remark in first.remarks)
    assert any("Nothing is heard" in remark for remark in first.remarks)
    for track in (0, 3):
        with pytest.raises(UserError, match="there are 2 sound tracks"):
            AudioFile(path, track=track)


def test_a_gap_in_the_clock_is_silence(tmp_path):
    """As recorders leave where nobody speaks."""
    voice, path = voice_like(2.0, 48_000), tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(voice[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        packets = [packet for part in (frame, None) for packet in stream.encode(part)]
        container.mux([packet for index, packet in enumerate(packets) if not 30 <= index < 60])  # 20 ms each
    audio = AudioFile(path)
    heard = audio.read(0, audio.num_samples)
    assert abs(len(heard) - 2 * SAMPLE_RATE) < 500
    assert np.abs(heard[round(0.62 * SAMPLE_RATE) : round(1.17 * SAMPLE_RATE)]).max() < 1e-4
    expected = voice[::3]
    late = slice(round(1.3 * SAMPLE_RATE), round(1.9 * SAMPLE_RATE))
    loudness = [np.abs(x[late]).reshape(-1, 160).mean(1) for x in (heard[: len(expected)], expected)]
    assert agreement(*loudness) > 0.9, "what follows is where it was"


def test_samples_beyond_full_scale_are_scaled_and_said(tmp_path):
    voice = voice_like()
    loud = (voice / np.abs(voice).max() * 32768)[:, None]
    audio = AudioFile(write_raw_wav(tmp_path / "a.wav", loud, "<f4"))
    memory = AudioSamples(loud, SAMPLE_RATE)
    for source in (audio, memory):
        assert np.abs(source.read(0, SAMPLE_RATE)).max() == pytest.approx(1, abs=0.01)
        assert agreement(source.read(0, SAMPLE_RATE), voice) > 0.99
        assert np.abs(source.track().take_until(None)).max() == pytest.approx(1, abs=0.01)
        assert any("scaled down" in remark for remark in source.remarks)
    over = AudioSamples(1.5 * loud / 32768, SAMPLE_RATE)  # an export that clips a little
    assert over.remarks == ()


def test_silence_is_said(tmp_path):
    audio = AudioFile(write_wav(tmp_path / "a.wav", np.zeros(4000)))
    assert len(audio.remarks) == 1
    assert "Nothing is heard" in audio.remarks[0]
    assert AudioFile(write_wav(tmp_path / "b.wav", 0.01 * voice_like())).remarks == ()


@pytest.mark.parametrize(
    "given",
    [
        lambda voice: voice[None],
        lambda voice: np.stack([voice, voice]),
        lambda voice: torch.from_numpy(voice),
        lambda voice: torch.from_numpy(voice)[None].requires_grad_(),
        lambda voice: torch.from_numpy(voice).bfloat16(),
        lambda voice: voice.astype(np.float64),
        lambda voice: voice.astype(np.float16),
        lambda voice: (voice * 32767).astype(np.int16),
        lambda voice: (voice * 2.0**31).astype(np.int32),
        lambda voice: (voice * 127 + 128.5).astype(np.uint8),
        lambda voice: voice.tolist(),
    ],
)
def test_what_holds_samples_is_read_as_they_are(given):
    voice = 0.9 * voice_like()
    samples = AudioSamples(given(voice), SAMPLE_RATE)
    assert samples.num_samples == len(voice)
    assert np.allclose(samples.read(0, len(voice)), voice, atol=0.01)


@pytest.mark.parametrize(
    "samples",
    [[1, 2, 3], np.ones(9, np.int64), np.ones(9, bool), "voice", None, object(), np.ones((2, 3, 4)), [], [[1.0], "a"]],
)
def test_what_holds_no_samples_is_one_sentence(samples):
    with pytest.raises(UserError) as error:
        AudioSamples(samples, SAMPLE_RATE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [0, -1, 1, 999, 10**7, 1e30, float("nan"), float("inf"), "x", None, np.ones(99), 2j])
def test_a_rate_without_sense_is_one_sentence(rate):
    with pytest.raises(UserError) as error:
        AudioSamples(np.ones(99, np.float32), rate)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 120


def test_a_file_that_says_a_rate_without_sense_is_one_sentence(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.ones(99))
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 1)
    path.write_bytes(data)
    with pytest.raises(UserError, match="1 samples a second"):
        AudioFile(path)


@needs_inputs
@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("stereo_antiphase.wav", 2.0),
        ("ch6_nomask_track4.wav", 1.354),
        ("two_second_default.mkv", 2.0),
        ("audio_only_gap.webm", 2.0),
    ],
)
def test_odd_sounds_are_heard(name, seconds):
    audio = AudioFile(INPUTS / name)
    assert np.sqrt(np.mean(audio.read(0, audio.num_samples) ** 2)) > 0.01
    assert audio.num_samples / SAMPLE_RATE == pytest.approx(seconds, abs=0.03)


@needs_inputs
def test_the_track_that_is_taken_of_two_is_said():
    assert any("number 1" in remark for remark in AudioFile(INPUTS / "two_first_silent.mp4").remarks)
    heard = AudioFile(INPUTS / "two_first_silent.mp4", track=2).read(0, SAMPLE_RATE)
    assert np.abs(heard).max() > 0.05
