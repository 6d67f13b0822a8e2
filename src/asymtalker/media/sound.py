"""Read sound (PyAV, soxr): float32 in [-1, 1], 16 kHz mono unless said otherwise.

Sound of any length is read as it is needed, so memory does not grow with length.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import numpy as np
import soxr
from av.stream import Disposition

from asymtalker.errors import UserError
from asymtalker.media.channels import HEARD, Channels
from asymtalker.media.read import array_of, check_file, open_media
from asymtalker.timeline import SAMPLE_RATE

BACKLOG_SAMPLES = 10 * SAMPLE_RATE
"""How far behind the newest request :meth:`AudioFile.read` can look without decoding from the start again."""
AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
MAX_BAD_PACKETS = 0.1
LEAST_GAP, LONGEST_GAP = 0.03, 600.0
"""Seconds that a file's clock jumps ahead by where silence is meant; a shorter jump is rounding, a longer a fault."""
RATES = 1_000, 1_000_000
"""Samples a second that a sound may have."""
SHOWN = 40
"""Characters of a wrong value in a sentence."""


class AudioSource(Protocol):
    """Sound of known length that is read window by window."""

    num_samples: int
    """Length at 16 kHz."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``[start, stop)`` of the 16 kHz mono sound, ``(stop - start,)`` float32; silence outside it."""
        ...

    def track(self) -> "SoundTrack":
        """The sound as it goes into a video file."""
        ...


def window(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples ``[start, stop)`` of ``(n,)``, with zeros before the first and after the last: ``(stop - start,)``."""
    cut = np.zeros(stop - start, np.float32)
    first, last = max(0, start), min(stop, len(samples))
    if first < last:
        cut[first - start : last - start] = samples[first:last]
    return cut


class SoundTrack:
    """The sound for a video file, taken from front to back: ``channels`` (1 or 2) at ``rate`` Hz."""

    def __init__(self, rate: int, blocks: Iterator[np.ndarray], channels: int):
        self.rate = rate
        self.channels = channels
        self._blocks = blocks
        self._rest = np.zeros((0, channels), np.float32)
        self._taken = 0

    def take_until(self, seconds: float | None) -> np.ndarray:
        """``(n, channels)`` float32: all that was not taken yet up to ``seconds`` (``None``: to the end)."""
        stop = None if seconds is None else round(seconds * self.rate)
        parts, count = [self._rest], len(self._rest)
        while stop is None or self._taken + count < stop:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            count += len(block)
        held = np.concatenate(parts) if len(parts) > 1 else self._rest
        taken = len(held) if stop is None else max(0, min(len(held), stop - self._taken))
        self._rest = held[taken:]
        self._taken += taken
        return held[:taken]


def _track_rate(rate: int) -> int:
    """The source's rate where AAC has it, else the next one above, within 16 to 48 kHz."""
    return next((aac for aac in AAC_RATES if aac >= rate), AAC_RATES[-1])


def _sound_track(container: Any, path: Path, track: int | None) -> Any:
    """The stream that is heard: ``track`` counts from 1; ``None`` is the one that the file says is its default."""
    streams = container.streams.audio
    if not streams:
        raise UserError(f"{path} has no sound track: give a recording of speech.")
    if track is None:
        return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    if not 1 <= track <= len(streams):
        there_are = f"there are {len(streams)} sound tracks" if len(streams) > 1 else "there is 1 sound track"
        raise UserError(f"Sound track {track} does not exist: {there_are} in {path}, counted from 1.")
    return streams[track - 1]


def _decode_packets(container: Any, path: Path, stream: Any) -> Iterator[tuple[Any, float]]:
    """Frames of a sound track, and how many seconds at the end of each do not count.

    That is 0 but for the last frame of an MP4: its packet's duration says where the sound ends, the decoder does not.
    Broken packets are skipped; too many of them are an error.
    """
    good, bad, last = 0, 0, None
    trims = container.format.name.startswith("mov")
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            continue
        good += bool(packet.size)
        for frame in frames:
            if last is not None:
                yield last[0], 0.0
            last = frame, float((packet.duration or 0) * packet.time_base)
    if bad > MAX_BAD_PACKETS * (good + bad):
        raise UserError(f"The sound of {path} is damaged: {bad} of its {good + bad} packets cannot be decoded.")
    if last is not None:
        frame, seconds = last
        yield frame, max(0.0, frame.samples / frame.sample_rate - seconds) if trims and seconds > 0 else 0.0


def _decode_frames(container: Any, path: Path, track: int | None, mixed: bool) -> Iterator[tuple[int, np.ndarray]]:
    """``(rate, samples)`` of each frame of a sound track, converted to the rate of the first and the channels that
    :func:`_layout_kept` says of it."""
    form, convert, samples, surplus, rate, channels, layout, ended = None, None, None, 0.0, 0, 0, None, None

    def converted(frame: Any) -> np.ndarray:
        """``None`` gives what the converter still holds."""
        pieces = [piece.to_ndarray().reshape(-1, channels) for piece in convert.resample(frame)] if convert else []
        return np.concatenate([np.zeros((0, channels), np.float32), *pieces])

    for frame, unheard in _decode_packets(container, path, _sound_track(container, path, track)):
        if samples is not None:
            yield rate, samples
        if form is None:
            rate, layout = _checked_rate(frame.sample_rate, path), _layout_kept(frame, mixed)
            channels = layout.nb_channels
        if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
            yield rate, converted(None)
            convert = av.AudioResampler("flt", layout, rate)
        begins = None if frame.pts is None else float(frame.pts * frame.time_base)
        if begins is not None and ended is not None and LEAST_GAP < begins - ended < LONGEST_GAP:
            yield rate, converted(None)
            yield rate, np.zeros((round((begins - ended) * rate), channels), np.float32)
            convert = av.AudioResampler("flt", layout, rate)
        ended = None if begins is None else begins + frame.samples / frame.sample_rate
        frame.pts = None  # what else the file's clock does does not concern us: samples follow samples
        samples, surplus = converted(frame), unheard
    if samples is not None:
        samples = np.concatenate([samples, converted(None)])
        yield rate, samples[: len(samples) - round(surplus * rate)]


def _layout_kept(frame: Any, mixed: bool) -> Any:
    """Channels that a sound is read in, by its first frame: where they have names and are to be ``mixed`` the two
    that FFmpeg makes of them, as players do; else, as of a mixer's, of which none may be lost, all."""
    layout = frame.layout
    if layout.name in ("mono", "stereo"):
        return layout
    if layout.nb_channels == 1:
        return av.AudioLayout("mono")
    if not mixed or layout.name.endswith("channels"):
        return layout
    try:
        av.AudioResampler("flt", "stereo", frame.sample_rate).resample(frame)
    except av.error.FFmpegError:  # it does not know how, say, of two that are both above the listener
        return layout
    return av.AudioLayout("stereo")


def _decode_sound(path: Path, track: int | None, mixed: bool = True) -> Iterator[tuple[int, np.ndarray]]:
    """``(rate, block)`` pairs of about a second: ``(n, channels)`` float32 at the file's own rate."""
    with open_media(path, "audio file") as container:
        rate, parts, count = 0, [], 0
        try:
            for rate, samples in _decode_frames(container, path, track, mixed):
                parts.append(samples)
                count += len(samples)
                if count >= rate:
                    yield rate, _checked(np.concatenate(parts), path)
                    parts, count = [], 0
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"The sound of {path} is damaged: convert it anew or give another file.") from error
        if count:
            yield rate, _checked(np.concatenate(parts), path)


def _checked(samples: np.ndarray, where: object) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise UserError(f"The sound of {where} has samples that are not numbers (NaN or infinite): export it anew.")
    return samples


def _resample(blocks: Iterator[np.ndarray], rate_in: int, rate_out: int, channels: int, total: int):
    """Blocks ``(n, channels)`` at the new rate, ``total`` in all (the resampler's tail is trimmed or padded)."""
    stream = None if rate_in == rate_out else soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32")
    done = 0
    for block in _ended_by_none(blocks):
        if stream is not None:
            empty = np.zeros((0, channels), np.float32)
            block = stream.resample_chunk(empty if block is None else block, last=block is None)
        if block is None:
            break
        block = np.clip(block[: total - done], -1, 1)
        done += len(block)
        if len(block):
            yield block
    if done < total:
        yield np.zeros((total - done, channels), np.float32)


def _ended_by_none(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray | None]:
    yield from blocks
    yield None


def _rescaled(num_samples: int, rate_in: int, rate_out: int) -> int:
    return max(1, round(Fraction(num_samples * rate_out, rate_in)))


class AudioFile:
    """The sound track of any file that FFmpeg reads (wav, mp3, m4a, flac, ogg, a video ...), of any length.

    Opening decodes it once to count its samples, since few containers know their length exactly, and to see which
    channels have the voice.

    Args:
        path: of the file.
        track: which sound track, counted from 1; by default the one that the file says is its default.

    Attributes:
        remarks: sentences for whoever gave the file.

    Raises:
        UserError: if the file is missing, a folder, empty, damaged, without sound or such a track, or has samples that
            are no numbers.
    """

    def __init__(self, path: str | Path, track: int | None = None):
        self.path, self._track = check_file(path, "audio file"), track
        self._hear(mixed=True)
        if self._heard.peak < HEARD:  # but perhaps in a channel that players leave out, such as a subwoofer's
            self._hear(mixed=False)
        if not self.source_samples:
            raise UserError(f"The sound track of {path} is empty (no samples): give a recording of speech.")
        self.num_samples = _rescaled(self.source_samples, self.rate, SAMPLE_RATE)
        self.remarks = (*_several_tracks(self.path, track), *self._heard.remarks(str(path)))
        self._restart()

    def _hear(self, mixed: bool) -> None:
        self._mixed, self._heard = mixed, Channels()
        self.rate, self.channels, self.source_samples = 0, 1, 0
        for rate, block in _decode_sound(self.path, self._track, mixed):
            self.rate, self.channels = rate, 1 if block.shape[1] > 2 else block.shape[1]
            self.source_samples += len(block)
            self._heard.hear(block, rate)

    def _blocks(self) -> Iterator[np.ndarray]:
        return (block for _, block in _decode_sound(self.path, self._track, self._mixed))

    def _restart(self) -> None:
        self._stream = self._mono()
        self._held = np.zeros(0, np.float32)
        self._offset = 0  # position of the first held sample

    def _mono(self) -> Iterator[np.ndarray]:
        for block in _resample(self._heard.mono(self._blocks()), self.rate, SAMPLE_RATE, 1, self.num_samples):
            yield block[:, 0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`AudioSource.read`. Windows should move forward; one far behind decodes from the start again."""
        first, last = max(0, start), min(stop, self.num_samples)
        if first >= last:
            return np.zeros(stop - start, np.float32)
        if first < self._offset:
            self._restart()
        while self._offset + len(self._held) < last:
            drop = max(0, first - BACKLOG_SAMPLES - self._offset)
            drop = min(drop, len(self._held))
            self._held = np.concatenate([self._held[drop:], next(self._stream)])
            self._offset += drop
        return window(self._held, start - self._offset, stop - self._offset)

    def track(self) -> SoundTrack:
        """The file's own sound, mono or stereo, at its own rate (within 16 to 48 kHz)."""
        rate = _track_rate(self.rate)
        source = self._heard.played(self._blocks())
        total = _rescaled(self.source_samples, self.rate, rate)
        return SoundTrack(rate, _resample(source, self.rate, rate, self.channels, total), self.channels)


def _several_tracks(path: Path, track: int | None) -> Iterator[str]:
    """Which of several sound tracks was taken, if nobody said."""
    with open_media(path, "audio file") as container:
        streams = list(container.streams.audio)
        if track is None and len(streams) > 1:
            taken = streams.index(_sound_track(container, path, None)) + 1
            yield f"There are {len(streams)} sound tracks in {path}: taking number {taken}; --track picks another."


class AudioSamples:
    """Sound that is already in memory: ``(n,)``, ``(n, channels)`` or ``(channels, n)``, arrays, tensors or lists, of
    floats in [-1, 1], integers of 16 or 32 bits, or the unsigned 8 bits of WAV files.

    Attributes:
        remarks: sentences for whoever gave it.

    Raises:
        UserError: if there are no samples, samples that are not numbers, or the shape, type or rate makes no sense.
    """

    def __init__(self, samples: Any, rate: int):
        samples, self._rate = _floats(array_of(samples, "Audio")), _whole(rate)
        if samples.ndim not in (1, 2) or not samples.size:
            raise UserError(f"Audio must be (n,) or (n, channels) samples and a rate, not {samples.shape}.")
        if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
            samples = samples.T
        heard = Channels()
        heard.hear(samples := _checked(samples.reshape(len(samples), -1), "the array"), self._rate)
        self.remarks = tuple(heard.remarks("the sound"))
        (self._source,) = heard.played(iter([samples]))
        self.num_samples = _rescaled(len(samples), self._rate, SAMPLE_RATE)
        mono = heard.mono(iter([samples]))
        self._mono = np.concatenate(list(_resample(mono, self._rate, SAMPLE_RATE, 1, self.num_samples)))[:, 0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`AudioSource.read`."""
        return window(self._mono, start, stop)

    def track(self) -> SoundTrack:
        """The samples as given, mono or stereo, at their own rate (within 16 to 48 kHz)."""
        rate, channels = _track_rate(self._rate), self._source.shape[1]
        total = _rescaled(len(self._source), self._rate, rate)
        return SoundTrack(rate, _resample(iter([self._source]), self._rate, rate, channels, total), channels)


def _whole(rate: Any) -> int:
    try:
        whole = int(rate)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        shown = " ".join(str(rate).split())[:SHOWN]
        raise UserError(f"The rate of audio must be a number of samples a second, not {shown}.") from error
    return _checked_rate(whole, "the array")


def _checked_rate(rate: int, where: object) -> int:
    if not RATES[0] <= rate <= RATES[1]:
        least, most = RATES
        raise UserError(f"The sound of {where} has {rate:.3g} samples a second: give one of {least} to {most}.")
    return rate


def _floats(samples: np.ndarray) -> np.ndarray:
    """Samples as float32 from -1 to 1."""
    kind = samples.dtype.name
    if kind == "uint8":
        return (samples.astype(np.float32) - 128) / 128
    if kind in ("int16", "int32"):
        return (samples / (float(np.iinfo(samples.dtype).max) + 1)).astype(np.float32)
    if not kind.startswith("float"):
        raise UserError(
            f"Audio samples must be floats in [-1, 1] or integers of 16 or 32 bits, not {kind}, of which nobody knows"
            " what is loud."
        )
    return samples.astype(np.float32)


def read_audio(path: str | Path) -> np.ndarray:
    """The whole sound track of a file, ``(n,)`` float32, 16 kHz mono. Raises what :class:`AudioFile` raises."""
    audio = AudioFile(path)
    return audio.read(0, audio.num_samples)
