"""Read sound (PyAV, soxr) and pictures (Pillow); :mod:`asymtalker.media.video` has the video files.

Sound is float32 in [-1, 1], 16 kHz mono unless said otherwise; a picture is ``H W 3`` uint8 RGB. Sound of any length
is read as it is needed, so memory does not grow with length.
"""

import contextlib
import functools
import struct
import warnings
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import numpy as np
import soxr
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from asymtalker.errors import UserError
from asymtalker.timeline import SAMPLE_RATE

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of files taken for pictures where a folder is read."""
MIN_PICTURE_SIDE = 64
MAX_PICTURE_SIDE = 4096
BACKLOG_SAMPLES = 10 * SAMPLE_RATE
"""How far behind the newest request :meth:`AudioFile.read` can look without decoding from the start again."""
AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
MAX_BAD_PACKETS = 0.1


def check_file(path: str | Path, what: str) -> Path:
    """The path, if it is a readable file with something in it.

    Raises:
        UserError: if it is missing, a folder, empty, or may not be read; ``what`` names it in the sentence.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"The {what} {path} is a folder: give the path of a file.")
        if not path.exists():
            raise UserError(f"The {what} {path} does not exist: check the path.")
        if path.stat().st_size == 0 and path.is_file():
            raise UserError(f"The {what} {path} is empty (0 bytes): give another file.")
        with path.open("rb"):
            return path
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read ({error.strerror}): check its permissions.") from error


def open_media(path: Path, what: str) -> Any:
    """An open input container. Only local files are opened, so that a playlist cannot make us fetch addresses."""
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(
            f"The {what} {path} is damaged or not {what}: give a file that a media player plays."
        ) from error


# Sound -----------------------------------------------------------------------------------------------------------


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


def _decode_packets(container: Any, path: Path) -> Iterator[tuple[Any, float]]:
    """Frames of the first sound track, and how many seconds at the end of each do not count.

    That is 0 but for the last frame of an MP4: its packet's duration says where the sound ends, the decoder does not.
    Broken packets are skipped; too many of them are an error.
    """
    good, bad, last = 0, 0, None
    trims = container.format.name.startswith("mov")
    for packet in container.demux(container.streams.audio[0]):
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


def _decode_frames(container: Any, path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """``(rate, samples)`` of each frame of the first sound track, converted to the rate and channels of the first."""
    form, convert, samples, surplus, rate, channels = None, None, None, 0.0, 0, 0

    def converted(frame: Any) -> np.ndarray:
        """``None`` gives what the converter still holds."""
        pieces = [piece.to_ndarray().reshape(-1, channels) for piece in convert.resample(frame)] if convert else []
        return np.concatenate([np.zeros((0, channels), np.float32), *pieces])

    for frame, unheard in _decode_packets(container, path):
        if samples is not None:
            yield rate, samples
        if form is None:
            rate, channels = frame.sample_rate, min(2, frame.layout.nb_channels)
        if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
            yield rate, converted(None)
            convert = av.AudioResampler("flt", "mono" if channels == 1 else "stereo", rate)
        frame.pts = None  # gaps and jumps in the file's clock do not concern us: samples follow samples
        samples, surplus = converted(frame), unheard
    if samples is not None:
        samples = np.concatenate([samples, converted(None)])
        yield rate, samples[: len(samples) - round(surplus * rate)]


def _decode_sound(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """``(rate, block)`` pairs of about a second: ``(n, 1 or 2)`` float32 at the file's own rate."""
    with open_media(path, "audio file") as container:
        if not container.streams.audio:
            raise UserError(f"{path} has no sound track: give a recording of speech.")
        rate, parts, count = 0, [], 0
        try:
            for rate, samples in _decode_frames(container, path):
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

    Opening decodes it once to count its samples, since few containers know their length exactly.

    Raises:
        UserError: if the file is missing, a folder, empty, damaged, without sound, or has samples that are no numbers.
    """

    def __init__(self, path: str | Path):
        self.path = check_file(path, "audio file")
        self.rate, self.channels, self.source_samples = 0, 1, 0
        for rate, block in _decode_sound(self.path):
            self.rate, self.channels = rate, block.shape[1]
            self.source_samples += len(block)
        if not self.source_samples:
            raise UserError(f"The sound track of {path} is empty (no samples): give a recording of speech.")
        self.num_samples = _rescaled(self.source_samples, self.rate, SAMPLE_RATE)
        self._restart()

    def _restart(self) -> None:
        self._stream = self._mono()
        self._held = np.zeros(0, np.float32)
        self._offset = 0  # position of the first held sample

    def _mono(self) -> Iterator[np.ndarray]:
        source = (block.mean(axis=1, keepdims=True) for _, block in _decode_sound(self.path))
        for block in _resample(source, self.rate, SAMPLE_RATE, 1, self.num_samples):
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
        source = (block for _, block in _decode_sound(self.path))
        total = _rescaled(self.source_samples, self.rate, rate)
        return SoundTrack(rate, _resample(source, self.rate, rate, self.channels, total), self.channels)


class AudioSamples:
    """Sound that is already in memory: ``(n,)`` or ``(n, channels)`` floats in [-1, 1] or signed integers.

    Raises:
        UserError: if there are no samples, samples that are not numbers, or the shape or rate makes no sense.
    """

    def __init__(self, samples: np.ndarray, rate: int):
        samples = np.asarray(samples)
        if samples.ndim not in (1, 2) or not samples.size or rate <= 0:
            raise UserError(
                f"Audio must be (n,) or (n, channels) samples and a rate, not {samples.shape} at {rate} Hz."
            )
        if np.issubdtype(samples.dtype, np.signedinteger):
            samples = samples / (float(np.iinfo(samples.dtype).max) + 1)
        elif not np.issubdtype(samples.dtype, np.floating):
            raise UserError(f"Audio samples must be floats in [-1, 1] or signed integers, not {samples.dtype}.")
        samples = _checked(samples.astype(np.float32), "the array")
        self._source = samples.reshape(len(samples), -1)
        if self._source.shape[1] > 2:
            self._source = self._source.mean(axis=1, keepdims=True)
        self._rate = int(rate)
        self.num_samples = _rescaled(len(samples), self._rate, SAMPLE_RATE)
        mono = iter([self._source.mean(axis=1, keepdims=True)])
        self._mono = np.concatenate(list(_resample(mono, self._rate, SAMPLE_RATE, 1, self.num_samples)))[:, 0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`AudioSource.read`."""
        return window(self._mono, start, stop)

    def track(self) -> SoundTrack:
        """The samples as given, mono or stereo, at their own rate (within 16 to 48 kHz)."""
        rate, channels = _track_rate(self._rate), self._source.shape[1]
        total = _rescaled(len(self._source), self._rate, rate)
        return SoundTrack(rate, _resample(iter([self._source]), self._rate, rate, channels, total), channels)


def read_audio(path: str | Path) -> np.ndarray:
    """The whole sound track of a file, ``(n,)`` float32, 16 kHz mono. Raises what :class:`AudioFile` raises."""
    audio = AudioFile(path)
    return audio.read(0, audio.num_samples)


# Pictures --------------------------------------------------------------------------------------------------------


@functools.cache
def _read_heic() -> None:
    """Teach Pillow HEIC, the format of iPhones."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def read_picture(path: str | Path, *, any_size: bool = False) -> np.ndarray:
    """A picture as ``H W 3`` uint8 RGB (sRGB), turned upright by its EXIF tag, at most 4096 pixels on a side.

    Transparent parts are laid over white, as viewers show them; of an animation the first picture is taken. With
    ``any_size`` it is neither scaled nor refused for being small, as points in its pixels may belong to it.

    Raises:
        UserError: if the file is missing, a folder, empty, no picture in a known format, damaged, smaller than 64
            pixels on a side, or larger than Pillow's limit against decompression bombs (179 megapixels).
    """
    path = check_file(path, "picture")
    _read_heic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if any_size:
                    return _rgb(_upright(image))
                image.draft(None, (MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))  # a JPEG decodes smaller straight away
                return picture_array(image, str(path))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture in a known format: give a JPEG, PNG, WebP or HEIC file.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"The picture {path} is too large (over 179 megapixels): scale it down first.") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The picture {path} is damaged ({reason}): save it again or give another file.") from error


def picture_array(image: Image.Image, name: str = "given") -> np.ndarray:
    """``H W 3`` uint8 RGB of a Pillow image in any mode; see :func:`read_picture`, which also says what it raises."""
    if min(image.size) < MIN_PICTURE_SIDE:
        width, height = image.size
        raise UserError(f"The picture {name} is only {width}x{height} pixels: give one of at least 64x64.")
    image = _upright(image)
    if max(image.size) > MAX_PICTURE_SIDE:
        image.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE), Image.Resampling.LANCZOS)
        if min(image.size) < MIN_PICTURE_SIDE:
            raise UserError(f"The picture {name} is too long and narrow: crop it around the face.")
    return _rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF tag says; one that can't be understood says nothing."""
    image.load()  # here an error is the picture's, below it is the tag's
    try:
        return ImageOps.exif_transpose(image)
    except (struct.error, TypeError, KeyError, IndexError, ValueError, SyntaxError, OSError):
        return image.copy()


def _rgb(image: Image.Image) -> np.ndarray:
    return np.array(_to_srgb(_eight_bit(image)))


def _eight_bit(image: Image.Image) -> Image.Image:
    """The same picture in a mode of 8 bits a channel; 16-bit grey is scaled (Pillow's own conversion clips it)."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float32))
        top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255 if values.max() > 1 else 1
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    return image


def _to_srgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image_rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image_rgba).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a broken profile is common and no reason to fail
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")
