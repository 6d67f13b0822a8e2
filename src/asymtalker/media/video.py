"""Write and read video files (PyAV): H.264 + AAC in MP4, 25 FPS, written as it is made.

A video is ``F H W 3`` uint8 RGB, its sound float32 in [-1, 1]. Memory does not grow with length.
"""

import contextlib
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from asymtalker.errors import UserError
from asymtalker.media.atomic import beside, check_writable, reason_of, write_error, written_through
from asymtalker.media.output import OutputFile, clear_unfinished_videos
from asymtalker.media.read import check_file, open_media
from asymtalker.media.sound import read_audio
from asymtalker.timeline import FPS, SAMPLE_RATE

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv")
"""Of files taken for videos where a folder is read."""
MIN_DECODED = 0.98
"""Share of the frames a header promises that must be there."""
QUALITY = "17"  # x264's constant rate factor, 0 (lossless) to 51
FOLLOWED = {"bf": "0", "rc-lookahead": "4", "x264-params": "sync-lookahead=0:sliced-threads=1"}
"""So that the encoder holds back few frames."""
TIE = 1e-6
"""Seconds by which rounding may part moments that are one: a file and a part of it have the same frames."""
FRAGMENT = 0.16
"""Seconds of a video that whoever follows it while it is made gets at a time, at least."""


@contextlib.contextmanager
def signals_deferred():
    """Ctrl-C, SIGTERM and SIGHUP wait until the block is done, so that no half-written frame is left in the file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(stop, lambda number, _: caught.append(number)) for stop in stops]
    try:
        yield
    finally:
        for stop, handler in zip(stops, before, strict=True):
            signal.signal(stop, handler)
        if caught:
            signal.raise_signal(caught[0])


class Follower(Protocol):
    """Who gets a video while it is made: an open file, a pipe, a socket's file."""

    def write(self, data: bytes, /) -> Any:
        """Take the next bytes."""
        ...


class VideoWriter:
    """An H.264 (+ AAC) MP4 at 25 FPS that is written as it is made and appears under its name when closed.

    A context manager: leaving it closes the file; leaving it by an exception keeps what was made so far as a playable
    file (:attr:`kept_seconds` says how much), or leaves nothing behind if there was no frame yet.

    Args:
        path: ends in .mp4, .m4v or .mov; folders above it are made, an existing file is replaced.
        size: height and width of the frames, both even.
        audio_rate: of the sound in Hz, one that AAC has; ``None`` for a video without sound.
        audio_channels: 1 or 2.
        metadata: MP4 tags, such as ``title``, ``comment``, ``description``.
        finish: given the finished file and where a copy is to be, writes the copy that takes its place, such as a
            signed one; also of a video that was stopped early.
        live: gets the same picture and sound as fragmented MP4, a fraction of a second at a time, while they are made.

    Raises:
        UserError: if the file cannot be written there, or, while writing, the disk is full.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        *,
        audio_rate: int | None = None,
        audio_channels: int = 1,
        metadata: Mapping[str, str] | None = None,
        finish: Callable[[Path, Path], None] | None = None,
        live: "Follower | None" = None,
    ):
        height, width = size
        if height % 2 or width % 2:
            raise ValueError(f"H.264 in 4:2:0 needs even sizes, got {height}x{width}")
        self.path = written_through(check_output(path))
        clear_unfinished_videos(self.path.parent)
        self.kept_seconds: float | None = None
        self._size, self._frames, self._samples, self._finisher = size, 0, 0, finish
        try:
            self._output = OutputFile(beside(self.path, "mp4.part"))
        except OSError as error:
            raise write_error(self.path, error) from error
        self._container: Any = av.open(self._output, "w", format="mp4", options={"movflags": "+faststart"})
        self._container.metadata.update(metadata or {})
        options = {"preset": "veryfast", "crf": QUALITY} | ({} if live is None else FOLLOWED)
        self._video = self._container.add_stream("libx264", rate=FPS, options=options)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.codec_context.color_range = 1  # limited
        self._video.codec_context.colorspace = 1  # these three are BT.709, which players assume least wrongly
        self._video.codec_context.color_primaries = 1
        self._video.codec_context.color_trc = 1
        self._reformatter = VideoReformatter()  # a frame's own is set up anew
        self._audio: Any = None
        if audio_rate is not None:
            self._layout = "stereo" if audio_channels == 2 else "mono"
            self._audio = self._container.add_stream("aac", rate=audio_rate, layout=self._layout)
            self._audio.bit_rate = 96_000 * audio_channels
        self._live = None if live is None else self._follow(live, metadata or {})

    def _follow(self, live: "Follower", metadata: Mapping[str, str]) -> Any:
        """The second container, which the same packets go into."""
        self._container.start_encoding()  # the encoders' own headers are then known
        options = {"movflags": "+empty_moov+default_base_moof", "frag_duration": str(round(1e6 * FRAGMENT))}
        container: Any = av.open(live, "w", format="mp4", options=options | {"flush_packets": "1"})
        container.metadata.update(metadata)
        for stream in (self._video, self._audio):
            if stream is not None:
                container.add_stream_from_template(stream)
        return container

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            stream = packet.stream
            self._container.mux(packet)
            if self._live is not None:
                packet.stream = self._live.streams[stream.index]
                self._live.mux(packet)

    @property
    def seconds(self) -> float:
        """Length of the picture written so far."""
        return self._frames / FPS

    def write(self, frames: np.ndarray) -> None:
        """Append ``F H W 3`` uint8 RGB frames."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*self._size, 3):
            raise ValueError(f"expected uint8 frames of F {self._size[0]} {self._size[1]} 3, got {frames.shape}")
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = self._reformatter.reformat(
                frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = self._frames, Fraction(1, FPS)
            with self._writing():
                self._mux(self._video.encode(frame))
                self._frames += 1

    def write_audio(self, samples: np.ndarray) -> None:
        """Append ``(n,)`` or ``(n, channels)`` float samples; keep in step with the picture, chunk by chunk."""
        if not len(samples):
            return
        samples = samples.reshape(len(samples), -1).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts = self._audio.rate, self._samples
        frame.time_base = Fraction(1, self._audio.rate)
        with self._writing():
            self._mux(self._audio.encode(frame))
            self._samples += len(samples)

    @contextlib.contextmanager
    def _writing(self):
        try:
            with signals_deferred():
                yield
        except (OSError, av.error.FFmpegError) as error:
            self.abort(keep=False)
            if self._output.error is None:
                raise
            raise write_error(self.path, self._output.error) from error
        if self._output.full and self.kept_seconds is None:  # filled up by the last bytes, the video is whole
            self.abort(keep=True)
            raise write_error(self.path, self._output.full) from self._output.full

    def close(self) -> None:
        """Finish the file and give it its name. Does nothing when the file was closed or aborted before."""
        if self.kept_seconds is None:
            with self._writing():
                self._finish()

    def _finish(self) -> None:
        for stream in (self._video, self._audio):
            if stream is not None:
                self._mux(stream.encode(None))
        try:
            if self._live is not None:
                self._live.close()
            self._container.close()
            self._output.close()
            self._appear()
        except (OSError, av.error.FFmpegError) as error:
            if self._output.error is not None:
                raise
            self._output.close()
            self.kept_seconds = 0.0
            kept = self._output.path.with_suffix("")  # which no later run takes for left over
            with contextlib.suppress(OSError):
                os.replace(self._output.path, kept)
            left = f"what was written lies in {kept}" if kept.exists() else "its folder was removed meanwhile"
            raise UserError(f"Cannot finish {self.path} ({reason_of(error)}): {left}.") from error
        self.kept_seconds = self.seconds

    def _appear(self) -> None:
        if self._finisher is None:
            os.replace(self._output.path, self.path)
            return
        copy = beside(self.path, "mp4.part")
        try:
            self._finisher(self._output.path, copy)
            os.replace(copy, self.path)
        finally:
            copy.unlink(missing_ok=True)
        self._output.path.unlink()

    def abort(self, keep: bool) -> float:
        """Stop early; ``keep`` what was made under the file's name. Returns the seconds kept, 0 for none."""
        if self.kept_seconds is not None:
            return self.kept_seconds
        if keep and self._frames:
            with contextlib.suppress(OSError, av.error.FFmpegError), signals_deferred():
                self._finish()
                return self.seconds
        self.kept_seconds = 0.0
        with contextlib.suppress(OSError, av.error.FFmpegError):  # the muxer tries to write its index once more
            self._container.close()
            if self._live is not None:
                self._live.close()
        self._output.remove()
        return 0.0

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort(keep=True)


def check_output(path: str | Path) -> Path:
    """The path of a video to be written, its folder made.

    Raises:
        UserError: if it is a folder, does not end in .mp4, .m4v or .mov, or its folder cannot be made or written to.
    """
    path = Path(path)
    if str(path) == "-":
        raise UserError("The video can't go to standard output, as - asks for: give the name of a file.")
    known = path.suffix.lower() in (".mp4", ".m4v", ".mov")
    if not known and not os.path.isdir(path):  # which is False of a name that is too long
        raise UserError(f"The output {path} must end in .mp4: the video is an MP4 file.")
    check_writable(path)
    return path


def write_video(
    path: str | Path,
    frames: np.ndarray,
    samples: np.ndarray | None = None,
    audio_rate: int = SAMPLE_RATE,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a short video at once: ``F H W 3`` uint8 frames and, if any, ``(n,)`` or ``(n, channels)`` sound."""
    rate = None if samples is None else audio_rate
    channels = 1 if samples is None or samples.ndim == 1 else samples.shape[1]
    size = frames.shape[1:3]
    with VideoWriter(path, size, audio_rate=rate, audio_channels=channels, metadata=metadata) as writer:
        writer.write(frames)
        if samples is not None:
            writer.write_audio(samples)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file's header says."""

    width: int
    height: int
    fps: float
    seconds: float
    """Of the picture."""
    audio_delay: float
    """Seconds by which the sound begins later than the file does; 0 without sound."""
    audio_rate: int | None
    audio_channels: int
    metadata: dict[str, str]


def probe_video(path: str | Path) -> VideoInfo:
    """Header of a video file. Raises UserError if it is not a video."""
    with _open_video(path) as container:
        video, audio = container.streams.video[0], next(iter(container.streams.audio), None)
        begin = None if audio is None or audio.start_time is None else float(audio.start_time * audio.time_base)
        return VideoInfo(
            width=video.width,
            height=video.height,
            fps=float(video.average_rate or video.base_rate or 0),
            seconds=float(video.duration * video.time_base) if video.duration else (container.duration or 0) / 1e6,
            audio_delay=0.0 if begin is None else begin - _start(container),
            audio_rate=audio and audio.rate,
            audio_channels=audio.channels if audio else 0,
            metadata=dict(container.metadata),
        )


def _open_video(path: str | Path) -> Any:
    path = check_file(path, "video")
    container = open_media(path, "video")
    if not container.streams.video:
        container.close()
        raise UserError(f"{path} has no picture: give a video file.")
    return container


def decode_frames(path: str | Path, resample: bool = False) -> Iterator[np.ndarray]:
    """The frames of a video in order, each ``H W 3`` uint8 RGB.

    Args:
        path: the video.
        resample: give 25 frames a second from where the file begins, be it with picture or sound, each the nearest in
            time, and not every frame once.

    Raises:
        UserError: if it is damaged, ends before its header says, or is no video.
    """
    with _open_video(path) as container:
        timed = _decode(container, path)
        frames = resample_frames(timed, _start(container)) if resample else (frame for _, frame in timed)
        for frame in frames:
            yield picture_of(frame)


def picture_of(frame: Any) -> np.ndarray:
    """A decoded frame as ``H W 3`` uint8 RGB, upright: a phone held on its side writes pixels as its sensor lies and
    says by how much players are to turn them."""
    picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))


def timed_frames(video: Path, start: float, seek: bool = True) -> Iterator[tuple[float, Any]]:
    """Frames of a video with their times in seconds, from the last one up to ``start`` or earlier.

    Raises:
        UserError: if it is damaged.
    """
    with _open_video(video) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        zero = _start(container)
        if seek and start > 0:
            container.seek(round((start + zero) * 1e6), backward=True)
        time, step = -math.inf, 1 / float(stream.average_rate or FPS)
        try:
            for frame in container.decode(stream):
                first = time == -math.inf
                time = frame.time - zero if frame.time is not None else max(0.0, time + step)
                if first and seek and time > start > 0:  # some formats seek too far
                    break
                yield time, frame
            else:
                return
        except av.error.FFmpegError as error:
            raise UserError(f"The video {video} is damaged.") from error
    yield from timed_frames(video, start, seek=False)


def resample_frames(frames: Iterable[tuple[float, Any]], start: float, count: int | None = None) -> Iterator[Any]:
    """Frames at 25 a second, of frames in order with their times in seconds.

    Args:
        frames: times and frames.
        start: the moment of the first one to give.
        count: how many to give; by default as many as the frames last.

    Yields:
        For each moment ``start + k / 25`` the frame nearest in time.
    """
    done, last, time, step = 0, None, 0.0, 1 / FPS
    for later, frame in frames:
        while last is not None and start + done / FPS <= (time + later) / 2 + TIE:
            if done == count:
                return
            yield last
            done += 1
        step = later - time if last is not None else step
        time, last = later, frame
    while last is not None and done != count:
        if start + done / FPS >= time + step - 0.5 / FPS - TIE:  # no more than half a frame is left
            return
        yield last
        done += 1


def _start(container: Any) -> float:
    """The moment at which the first of a file's streams begins, in seconds."""
    return (container.start_time or 0) / 1e6


def _decode(container: Any, path: str | Path) -> Iterator[tuple[float, Any]]:
    """Decoded frames and their times in seconds."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate, count, time = stream.average_rate or stream.base_rate or FPS, 0, 0.0
    try:
        for frame in container.decode(video=0):
            time = float(count / rate) if frame.time is None else frame.time
            yield time, frame
            count += 1
    except av.error.FFmpegError as error:
        raise UserError(f"The video {path} is damaged: give another file.") from error
    if count < MIN_DECODED * stream.frames:
        raise UserError(f"The video {path} ends after {count} of {stream.frames} frames: it is truncated.")
    if (end := _noted_end(stream)) and time + 1 / rate < MIN_DECODED * end:
        raise UserError(f"The video {path} ends after {time:.1f} of {end:.1f} seconds: it is truncated.")


def _noted_end(stream: Any) -> float | None:
    """Seconds, as a Matroska or WebM file, which counts no frames, notes them beside a stream."""
    noted = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return 3600 * int(noted[1]) + 60 * int(noted[2]) + float(noted[3]) if noted else None


def read_video(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """``(frames, audio)``: ``F H W 3`` uint8 and ``(n,)`` float32 at 16 kHz mono (``(0,)`` if there is no sound)."""
    frames = np.stack(list(decode_frames(path)))
    silent = probe_video(path).audio_rate is None
    return frames, np.zeros(0, np.float32) if silent else read_audio(path)
