import errno
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from asymtalker.errors import UserError
from asymtalker.media.sound import AudioFile, read_audio
from asymtalker.media.video import (
    VideoWriter,
    check_output,
    decode_frames,
    probe_video,
    read_video,
    resample_frames,
    timed_frames,
    write_video,
)
from asymtalker.timeline import FPS, SAMPLE_RATE, frames_of_samples
from real_data import DATA


def moving(frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A grey level that names the frame, and a coloured square."""
    pictures = np.empty((frames, height, width, 3), np.uint8)
    pictures[:] = (40 + np.arange(frames) * 2 % 180)[:, None, None, None]
    pictures[:, 10:40, 10:40] = (200, 30, 60)
    return pictures


def flashes(seconds: float, rate: int, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A white frame and a beep at the same instants, every half second."""
    samples = np.zeros((round(seconds * rate), channels), np.float32)
    frames = np.full((-(-round(seconds * SAMPLE_RATE) // 640), 64, 64, 3), 16, np.uint8)
    for index in range(5, len(frames) - 1, 12):
        frames[index] = 240
        at = index * rate // FPS
        samples[at : at + rate // 50] = 0.7 * np.sin(np.arange(rate // 50) * 0.4)[:, None]
    return frames, samples


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (22050, 1), (44100, 2), (48000, 2)])
def test_picture_and_sound_stay_together(tmp_path, rate, channels):
    frames, samples = flashes(2.345, rate, channels)
    write_video(tmp_path / "a.mp4", frames, samples, rate)
    seen, heard = read_video(tmp_path / "a.mp4")
    assert seen.shape == frames.shape
    assert len(heard) == round(len(samples) * SAMPLE_RATE / rate)
    assert frames_of_samples(len(heard)) == len(seen)
    bright = np.flatnonzero(seen.mean(axis=(1, 2, 3)) > 128)
    loud = np.abs(np.pad(heard, (0, -len(heard) % 640))).reshape(-1, 640).max(axis=1) > 0.4
    assert np.array_equal(bright, np.flatnonzero(loud))
    info = probe_video(tmp_path / "a.mp4")
    assert (info.fps, info.audio_rate, info.audio_channels) == (FPS, rate, channels)
    assert info.seconds == pytest.approx(len(frames) / FPS)


def test_colours_survive(tmp_path):
    frames = moving(30)
    write_video(tmp_path / "a.mp4", frames)
    seen, heard = read_video(tmp_path / "a.mp4")
    assert not len(heard)
    assert np.abs(seen.astype(int) - frames).mean() < 2
    assert np.abs(seen[:, 25, 25].astype(int) - (200, 30, 60)).max() < 8


def test_written_in_pieces_equals_written_at_once(tmp_path):
    frames, samples = flashes(4, 16000)
    write_video(tmp_path / "whole.mp4", frames, samples)
    with VideoWriter(tmp_path / "pieces.mp4", (64, 64), audio_rate=16000) as writer:
        for start in range(0, len(frames), 7):
            writer.write(frames[start : start + 7])
            writer.write_audio(samples[start * 640 : (start + 7) * 640])
    whole, pieces = read_video(tmp_path / "whole.mp4"), read_video(tmp_path / "pieces.mp4")
    assert np.array_equal(whole[0], pieces[0])
    assert np.array_equal(whole[1], pieces[1])


def test_index_comes_first_and_tags_are_kept(tmp_path):
    tags = {"title": "A title", "comment": "Made by a machine – äöü", "description": '{"seed": 3}'}
    write_video(tmp_path / "a.mp4", moving(10), metadata=tags)
    assert tags.items() <= probe_video(tmp_path / "a.mp4").metadata.items()
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_nothing_is_seen_under_the_name_before_the_end(tmp_path):
    target = tmp_path / "new" / "a.mp4"
    with VideoWriter(target, (64, 96)) as writer:
        writer.write(moving(5))
        assert not target.exists()
    assert len(list(decode_frames(target))) == 5


def write_then_fail(writer: VideoWriter, frames: np.ndarray, samples: np.ndarray) -> None:
    with writer:
        writer.write(frames)
        writer.write_audio(samples)
        raise RuntimeError("something broke")


def test_an_error_keeps_what_was_made(tmp_path):
    frames, samples = flashes(4, 16000)
    writer = VideoWriter(tmp_path / "a.mp4", (64, 64), audio_rate=16000)
    with pytest.raises(RuntimeError):
        write_then_fail(writer, frames, samples)
    assert writer.kept_seconds == 4
    seen, heard = read_video(tmp_path / "a.mp4")
    assert (len(seen), len(heard)) == (100, 64_000)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_an_error_before_the_first_frame_leaves_nothing(tmp_path):
    with pytest.raises(UserError), VideoWriter(tmp_path / "a.mp4", (64, 64), audio_rate=16000) as writer:
        raise UserError("No face.")
    assert writer.kept_seconds == 0
    assert os.listdir(tmp_path) == []


def test_a_colon_in_the_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("12:30.mp4", moving(5))
    assert os.listdir(tmp_path) == ["12:30.mp4"]
    assert len(list(decode_frames("12:30.mp4"))) == 5


def test_a_video_that_cannot_take_its_name_is_kept_and_said(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", (64, 96))
    writer.write(moving(5))
    (tmp_path / "a.mp4" / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match="what was written lies in") as error:
        writer.close()
    (kept,) = tmp_path.glob(".*.mp4")
    assert str(kept) in str(error.value)
    assert len(list(decode_frames(kept))) == 5


def test_writers_of_one_file_do_not_meet(tmp_path):
    """Two threads, or two containers, which may have the same process number."""
    lengths = (10, 20, 30)
    writers = [VideoWriter(tmp_path / "a.mp4", (64, 96)) for _ in lengths]
    for length, writer in zip(lengths, writers, strict=True):
        writer.write(moving(length))
    for length, writer in zip(lengths, writers, strict=True):
        writer.close()
        assert len(list(decode_frames(tmp_path / "a.mp4"))) == length
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("name", ["x" * 240 + ".mp4", "\u6f22" * 80 + ".mp4", "x" * 251 + ".mp4"])
def test_long_names_are_written(tmp_path, name):
    write_video(tmp_path / name, moving(3))
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"name of the output .* too long"):
        check_output(tmp_path / ("x" * 252 + ".mp4"))


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "there" / "b.mp4")
    for length in (3, 5):
        write_video(tmp_path / "a.mp4", moving(length))
        assert (tmp_path / "a.mp4").is_symlink()
        assert len(list(decode_frames(tmp_path / "there" / "b.mp4"))) == length
    assert os.listdir(tmp_path / "there") == ["b.mp4"]


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("/dev/null")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(UserError, match="pipe or a device"):
            check_output(tmp_path / name)


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path):
    script = f"""
import os, signal, numpy as np
from asymtalker.media.video import VideoWriter
writer = VideoWriter({str(tmp_path / "a.mp4")!r}, (64, 96))
writer.write(np.zeros((3, 64, 96, 3), np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    dead = set(tmp_path.iterdir())
    assert len(dead) == 2  # with the room kept back
    living = VideoWriter(tmp_path / "b.mp4", (64, 96))
    mine = set(tmp_path.iterdir()) - dead
    for left in (*dead, *mine):
        os.utime(left, (0, 0))
    write_video(tmp_path / "c.mp4", moving(3))
    assert set(tmp_path.iterdir()) == {*mine, tmp_path / "c.mp4"}
    living.write(moving(3))
    living.close()
    assert {path.name for path in tmp_path.iterdir()} == {"b.mp4", "c.mp4"}


class InterruptedContainer:
    """Sends this process a signal in the middle of writing frame 60."""

    def __init__(self, container, stop):
        self._container, self._stop, self._count = container, stop, 0
        self.close = container.close

    def mux(self, packets) -> None:
        if self._count == 60:
            os.kill(os.getpid(), self._stop)
        self._count += 1
        self._container.mux(packets)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_while_writing_waits_for_the_frame(tmp_path, stop):
    before = signal.signal(stop, signal.default_int_handler)
    writer = VideoWriter(tmp_path / "a.mp4", (64, 96))
    writer._container = InterruptedContainer(writer._container, stop)
    try:
        with pytest.raises(KeyboardInterrupt), writer:
            writer.write(moving(100))
    finally:
        signal.signal(stop, before)
    kept = len(list(decode_frames(tmp_path / "a.mp4")))
    assert 61 <= kept < 100
    assert writer.kept_seconds == kept / FPS


class SmallDisk:
    """A file on a disk with ``room`` bytes left; deleting the reserve, if there is one, makes room."""

    def __init__(self, file, reserve: Path | None, room: int):
        self._file, self._reserve, self._room = file, reserve, room
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def write(self, data: memoryview) -> int:
        freed = self._reserve is not None and not self._reserve.exists()
        if self._file.tell() + len(data) > self._room and not freed:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)


def write_noise_to_small_disk(target: Path, room: int, reserve: bool) -> VideoWriter:
    noise = np.random.default_rng(0).integers(0, 255, (120, 64, 64, 3), dtype=np.uint8)
    writer = VideoWriter(target, (64, 64))
    output = writer._output
    output._file = SmallDisk(output._file, output._reserve if reserve else None, room)
    with pytest.raises(UserError, match="disk is full"), writer:
        writer.write(noise)
    return writer


def test_full_disk_keeps_a_playable_part(tmp_path):
    writer = write_noise_to_small_disk(tmp_path / "a.mp4", room=40_000, reserve=True)
    count = len(list(decode_frames(tmp_path / "a.mp4")))
    assert 0 < count < 120
    assert writer.kept_seconds == pytest.approx(count / FPS)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_disk_that_fills_up_with_the_last_bytes_is_no_error(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", (64, 96))
    writer.write(moving(20))
    output = writer._output
    output._file = SmallDisk(output._file, output._reserve, room=0)
    writer.close()
    assert writer.kept_seconds == 20 / FPS
    assert len(list(decode_frames(tmp_path / "a.mp4"))) == 20
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_disk_too_full_for_anything_leaves_nothing(tmp_path):
    write_noise_to_small_disk(tmp_path / "a.mp4", room=10_000, reserve=False)
    assert os.listdir(tmp_path) == []


def test_a_folder_removed_meanwhile_is_said(tmp_path):
    writer = VideoWriter(tmp_path / "gone" / "a.mp4", (64, 96))
    writer.write(moving(5))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(UserError, match="its folder was removed meanwhile"):
        writer.close()


def test_outputs_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for path, says in [
        ("folder.mp4", "is a folder"),
        ("a.avi", "end in .mp4"),
        ("file/a.mp4", "Cannot make the folder"),
    ]:
        with pytest.raises(UserError, match=says):
            VideoWriter(tmp_path / path, (64, 64))


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file system that refuses files")
def test_refusing_file_system_is_said():
    with pytest.raises(UserError, match=r"Cannot write|may not be written"):
        VideoWriter("/proc/a.mp4", (64, 64))


def test_bad_videos_are_one_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("no video" * 30)
    write_video(tmp_path / "a.mp4", moving(5))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 3])
    for name in ("text.mp4", "cut.mp4", "none.mp4"):
        with pytest.raises(UserError, match=name):
            read_video(tmp_path / name)
    with pytest.raises(UserError, match="no sound track"):
        AudioFile(tmp_path / "a.mp4")


@pytest.mark.skipif(not DATA.exists(), reason="no real material")
def test_real_video_sound():
    clip = DATA / "clips" / "brbk7n.mpg"
    frames, samples = read_video(clip)
    assert frames.shape[1:] == (288, 360, 3)
    assert abs(len(samples) / SAMPLE_RATE - len(frames) / FPS) < 0.1
    assert np.array_equal(samples, read_audio(clip))


@pytest.mark.parametrize(("rate", "count"), [(25, 30), (50, 60), (30, 36), (12.5, 15), ("30000/1001", 36)])
def test_other_frame_rates_become_25_by_nearest_time(tmp_path, rate, count):
    """Each frame's brightness is its time, so what is shown at k/25 s can be read off."""
    path, rate = tmp_path / "a.mp4", Fraction(rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1"})
        stream.width = stream.height = 64
        for index in range(count):
            grey = np.full((64, 64, 3), 20 + round(150 * float(index / rate)), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    shown = [(float(frame.mean()) - 20) / 150 for frame in decode_frames(path, resample=True)]
    assert len(shown) == 30  # 1.2 s
    assert np.abs(np.array(shown) - np.arange(30) / 25).max() <= 0.5 / min(25, float(rate)) + 0.015


TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Clockwise degrees, and the four numbers of the matrix in a track's header."""


def turn(path: Path, degrees: int) -> None:
    """Have an MP4 file shown turned clockwise; its pixels stay as they are."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    a, b, c, d = (round(one * 65536) for one in TURNS[degrees])
    matrix = header + (52 if data[header] else 40)  # a version 1 header has longer times
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_video_is_upright_as_players_show_it(tmp_path, degrees):
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48], upright[:32, 48:] = 80, 220
    stored = np.rot90(upright, degrees // 90)  # a sensor that lies to the left, which players turn to the right
    write_video(tmp_path / "a.mp4", np.stack([stored] * 5))
    turn(tmp_path / "a.mp4", degrees)
    (shown, *_) = decode_frames(tmp_path / "a.mp4")
    assert shown.shape == upright.shape
    assert np.abs(shown.astype(int) - upright).mean() < 6
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert next(video.decode(video=0)).height == len(stored), "the pixels are not"


@pytest.mark.parametrize("rate", [24, 30, 50, 60])
@pytest.mark.parametrize("count", [75, 76, 77])
def test_a_part_of_a_video_has_as_many_frames_as_it_has_there(tmp_path, rate, count):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width = stream.height = 64
        for index in range(count):
            grey = np.full((64, 64, 3), index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    whole = list(decode_frames(path, resample=True))
    for start in range(1, len(whole)):
        part = list(resample_frames(timed_frames(path, start / FPS, seek=False), start / FPS))
        assert len(part) == len(whole) - start


def test_a_truncated_video_is_one_sentence(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames)
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"ends after \d+ of 40 frames|damaged"):
        list(decode_frames(tmp_path / "b.mp4"))


@pytest.mark.parametrize("ending", ["mkv", "webm"])
def test_a_truncated_video_that_counts_no_frames_is_one_sentence(tmp_path, ending):
    codec = {"mkv": "libx264", "webm": "libvpx"}[ending]
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / f"whole.{ending}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        for _ in range(100):
            picture = av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert len(list(decode_frames(tmp_path / f"whole.{ending}"))) == 100
    data = (tmp_path / f"whole.{ending}").read_bytes()
    (tmp_path / f"half.{ending}").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"ends after [\d.]+ of 4.0 seconds: it is truncated"):
        list(decode_frames(tmp_path / f"half.{ending}"))


def test_who_follows_a_video_gets_the_same_frames_before_it_is_done(tmp_path):
    frames = np.stack([np.full((64, 64, 3), 8 * index, np.uint8) for index in range(25)])
    tone = np.sin(np.arange(16_000) / 10).astype(np.float32) / 2
    live, held = io.BytesIO(), []
    with VideoWriter(
        tmp_path / "video.mp4", (64, 64), audio_rate=16_000, metadata={"title": "x"}, live=live
    ) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame[None])
            writer.write_audio(tone[640 * index : 640 * (index + 1)])
            held.append(live.tell())
    assert 0 < held[8] < held[16] < held[24], "it comes in pieces"
    (tmp_path / "live.mp4").write_bytes(live.getvalue())
    assert live.getvalue().count(b"moof") > 3
    (whole, sound), (followed, heard) = (read_video(tmp_path / f"{name}.mp4") for name in ("video", "live"))
    assert np.array_equal(whole, followed)
    assert len(heard) >= len(sound)
    assert probe_video(tmp_path / "live.mp4").metadata["title"] == "x"
    apart = [time_between(tmp_path / f"{name}.mp4", 12) for name in ("video", "live")]
    assert apart[0] == pytest.approx(apart[1], abs=0.005), "picture and sound keep their distance"


def time_between(path: Path, number: int) -> float:
    """Seconds from the first sound of a video to a frame."""
    with av.open(str(path)) as video:
        seen = [frame.time for frame in video.decode(video=0)][number]
    with av.open(str(path)) as video:
        for frame in video.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.05)
            if len(loud):
                return seen - frame.time - loud[0] / frame.sample_rate
    raise AssertionError("nothing is heard")
