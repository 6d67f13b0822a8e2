import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from asymtalker.dataset.corpus import encode_wav
from asymtalker.errors import UserError
from asymtalker.media.read import AudioFile, AudioSamples, picture_array, read_audio, read_picture
from asymtalker.timeline import SAMPLE_RATE

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


def colours(height: int = 90, width: int = 120) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2] = (200, 40, 60)
    picture[height // 2 :, : width // 2] = (30, 160, 90)
    return picture


def save(folder: Path, name: str, image: Image.Image, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "RGBA", "L", "LA", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    ending = "tif" if mode == "CMYK" else "png"
    picture = read_picture(save(tmp_path, f"a.{ending}", Image.fromarray(colours()).convert(mode)))
    assert picture.shape == (90, 120, 3)
    assert picture.dtype == np.uint8
    if mode in ("RGB", "RGBA", "CMYK"):
        assert np.abs(picture.astype(int) - colours()).max() <= 2


def test_sixteen_bit_grey_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 100 * 80).reshape(80, 100).astype(np.uint16)
    picture = read_picture(save(tmp_path, "a.png", Image.fromarray(values)))
    assert picture.min() == 0
    assert picture.max() == 255
    assert abs(float(picture.mean()) - 127.5) < 1


def test_transparency_lies_over_white(tmp_path):
    image = Image.fromarray(colours()).convert("RGBA")
    image.putalpha(0)
    assert (read_picture(save(tmp_path, "a.png", image)) == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: show it turned a quarter to the right
    path = save(tmp_path, "a.jpg", Image.fromarray(colours()), exif=exif, quality=95)
    picture = read_picture(path)
    assert picture.shape == (120, 90, 3)
    assert np.abs(picture.astype(int) - np.rot90(colours(), -1)).mean() < 4


def test_heic_is_read_and_turned(tmp_path):
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path, "a.heic", Image.fromarray(colours()), exif=exif.tobytes(), quality=95)
    picture = read_picture(path)
    assert picture.shape == (120, 90, 3)
    assert np.abs(picture.astype(int) - np.rot90(colours(), -1)).mean() < 4


@pytest.mark.parametrize("error", [struct.error, TypeError, KeyError, IndexError])
def test_exif_that_cannot_be_understood_turns_nothing(tmp_path, monkeypatch, error):
    def broken(image):
        raise error("broken")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
    path = save(tmp_path, "a.png", Image.fromarray(colours()))
    assert np.array_equal(read_picture(path), colours())


def test_a_picture_of_the_callers_stays_as_it_was():
    image = Image.new("RGB", (9000, 6000))
    assert max(picture_array(image).shape) == 4096
    assert image.size == (9000, 6000)


def test_any_size_is_kept_where_points_belong_to_it(tmp_path):
    for size in ((40, 30), (5000, 100)):
        path = save(tmp_path, "a.png", Image.new("RGB", size))
        assert read_picture(path, any_size=True).shape == (size[1], size[0], 3)


def test_large_pictures_are_scaled_down(tmp_path):
    path = save(tmp_path, "a.jpg", Image.new("RGB", (9000, 6000), (10, 120, 200)))
    picture = read_picture(path)
    assert max(picture.shape) <= 4096
    assert np.abs(picture.astype(int) - (10, 120, 200)).max() < 4


def test_animation_gives_its_first_picture(tmp_path):
    first, second = Image.new("RGB", (80, 80), "red"), Image.new("RGB", (80, 80), "blue")
    picture = read_picture(save(tmp_path, "a.gif", first, save_all=True, append_images=[second]))
    assert tuple(picture[40, 40]) == (255, 0, 0)


def bad_picture(folder: Path, name: str) -> Path:
    path = folder / name
    match name:
        case "folder.png":
            path.mkdir()
        case "empty.png":
            path.touch()
        case "text.jpg":
            path.write_text("not a picture " * 20)
        case "tiny.png":
            Image.new("RGB", (63, 200)).save(path)
        case "cut.jpg" | "cut.png" | "cut.heic":
            pillow_heif.register_heif_opener()
            noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
            data = save(folder, f"whole{path.suffix}", Image.fromarray(noise)).read_bytes()
            path.write_bytes(data[: len(data) // 2])
        case "phone.heic":
            path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
        case "bomb.png":
            Image.new("1", (20_000, 20_000)).save(path)
        case "strip.png":
            Image.new("L", (20_000, 100)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no.png", "does not exist"),
        ("folder.png", "folder"),
        ("empty.png", "empty"),
        ("text.jpg", "known format"),
        ("tiny.png", "63x200"),
        ("cut.jpg", "damaged"),
        ("cut.png", "damaged"),
        ("phone.heic", "known format"),
        ("cut.heic", "damaged"),
        ("bomb.png", "too large"),
        ("strip.png", "narrow"),
    ],
)
def test_bad_picture_is_one_sentence(tmp_path, name, says):
    path = bad_picture(tmp_path, name)
    with pytest.raises(UserError, match=says) as error:
        read_picture(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_unreadable_file_is_said(tmp_path):
    path = save(tmp_path, "a.png", Image.fromarray(colours()))
    path.chmod(0)
    with pytest.raises(UserError, match="permission"):
        read_picture(path)
