"""Pictures of the report: frames of chosen clips and short samples to play, as data URIs."""

import io
import tempfile
from base64 import b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.evaluate.clips import Clip
from asymtalker.media.video import write_video
from asymtalker.timeline import FPS, SAMPLES_PER_FRAME

CLIPS = 3
"""Clips of a method that are shown."""
SAMPLES = 2
"""Of these, clips that can be played."""
FRAMES = 8
FRAME_HEIGHT = 160
JPEG_QUALITY = 80
SAMPLE_SECONDS = 8
SAMPLE_SIZE = (256, 456)
"""Height and width that a sample fits into, in pixels."""
SAMPLES_BYTES = 9_000_000
"""Of all samples of a report before base64 makes them a third longer: with all else it stays under 15 MB."""


@dataclass(frozen=True)
class Shown:
    """What the report shows of one clip.

    Attributes:
        frames: second, and the picture as a data URI.
        size: height and width of these pictures in pixels.
        sample: the clip's beginning as a data URI of an MP4; ``None`` if there is none.
        sample_seconds: how long it is.
        silent: whether it has no sound.
    """

    frames: list[tuple[float, str]]
    size: tuple[int, int]
    sample: str | None = None
    sample_seconds: float = 0.0
    silent: bool = False


def choose_clips(names: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Up to ``CLIPS`` names for each method, evenly over the sorted names that all have, or else over its own."""
    lists = list(names.values())
    common = set(lists[0]).intersection(*lists[1:]) if lists else set()
    return {method: _evenly(sorted(common or own)) for method, own in names.items()}


def _evenly(names: list[str]) -> list[str]:
    places = np.unique(np.linspace(0, len(names) - 1, CLIPS).round().astype(int)) if names else []
    return [names[place] for place in places]


def show_clip(clip: Clip, seconds: float, sample_bytes: int | None) -> Shown:
    """Frames spread from a clip's first to its last, and its beginning to play.

    The clip is read once, and of all its frames only these pictures and the beginning, scaled down, are held.

    Args:
        clip: the video.
        seconds: its length.
        sample_bytes: what the sample may take; it is cut shorter until it does. ``None`` makes none.

    Raises:
        UserError: if the clip can't be read.
    """
    count = max(1, round(seconds * FPS))
    wanted = set(np.linspace(0, count - 1, FRAMES).round().astype(int).tolist())
    pictures: list[tuple[float, str]] = []
    beginning: list[np.ndarray] = []
    height, width = clip.size
    size = _fitting((height, width), (FRAME_HEIGHT, 4 * FRAME_HEIGHT))
    sample_size = _fitting((height, width), SAMPLE_SIZE)
    for index, frame in enumerate(clip.frames()):
        if index in wanted:
            pictures.append((index / FPS, _jpeg(_scaled(frame, size))))
        if sample_bytes is not None and index < SAMPLE_SECONDS * FPS:
            beginning.append(_scaled(frame, sample_size))
        if index >= count - 1:
            break
    if not pictures:
        raise UserError(f"{clip.name} has no frames: nothing can be shown of it.")
    if sample_bytes is None:
        return Shown(pictures, size)
    sound = clip.sound()[: len(beginning) * SAMPLES_PER_FRAME]
    sample, length = _sample(np.stack(beginning), sound if len(sound) else None, sample_bytes)
    return Shown(pictures, size, _uri("video/mp4", sample), length, not len(sound))


def _sample(frames: np.ndarray, sound: np.ndarray | None, most: int) -> tuple[bytes, float]:
    """An MP4 of at most ``most`` bytes, unless a second takes more, and how many seconds of ``frames`` it has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.mp4"
        while True:
            samples = None if sound is None else sound[: len(frames) * SAMPLES_PER_FRAME]
            write_video(path, frames, samples)
            data = path.read_bytes()
            if len(data) <= most or len(frames) <= FPS:
                return data, len(frames) / FPS
            frames = frames[: max(FPS, int(0.95 * len(frames) * most / len(data)))]


def _fitting(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Even height and width, of the same shape as ``size``, that fit into ``box``; nothing is enlarged."""
    scale = min(1.0, *(most / side for most, side in zip(box, size, strict=True)))
    height, width = (max(2, int(side * scale) // 2 * 2) for side in size)
    return height, width


def _scaled(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frame.shape[:2] == size:
        return frame
    height, width = size
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def _jpeg(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return _uri("image/jpeg", out.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
