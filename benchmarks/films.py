"""Films with known faults, composed of clips of people who speak: what ``benchmarks/curate.py`` measures curation on.

Every fault is put into a clip that is sound otherwise, so that only the stage that looks for it has a reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from asymtalker.media.face_mesh import find_face
from asymtalker.media.video import write_video
from asymtalker.synth import mesh

SOUND = 16_000
SLIDES = 6
"""Frames in which what hides a face comes and goes."""
HAND = 2.3
"""Decimetres from the fingertips up to which the base mesh's arm is hand and a bit of the arm."""


@dataclass(frozen=True)
class Clip:
    """Frames ``(F, H, W, 3)`` uint8, sound ``(640 F,)``, who speaks, and which frames a fault spoils, if not all."""

    frames: np.ndarray
    sound: np.ndarray
    speaker: str
    spoilt: range | None = None


@dataclass
class Part:
    """Frames ``[start, stop)`` of a film, and what is wrong with them, ``None`` if nothing is, or with ``spoilt`` of
    them, ``[first, stop)``."""

    start: int
    stop: int
    fault: str | None = None
    spoilt: tuple[int, int] | None = None


@dataclass
class Film:
    """A file, its parts, and what is wrong with all of it."""

    name: str
    parts: list[Part] = field(default_factory=list)
    fault: str | None = None


def frozen(clip: Clip, rng: np.random.Generator) -> Clip:
    """The picture stands still for 0.6 to 1.2 s."""
    frames, length = clip.frames.copy(), int(rng.integers(15, 31))
    start = int(rng.integers(5, len(frames) - length - 5))
    frames[start : start + length] = frames[start]
    return Clip(frames, clip.sound, clip.speaker, range(start, start + length))


def jump(clip: Clip, rng: np.random.Generator) -> Clip:
    """Half of the clip is zoomed in by 12 to 20% and moved, as editors do where they cut words out."""
    frames, half = clip.frames.copy(), len(clip.frames) // 2
    height, width = frames.shape[1:3]
    share = 1 / float(rng.uniform(1.12, 1.2))
    top, left = (int(rng.uniform(0.2, 0.8) * (1 - share) * side) for side in (height, width))
    inner = frames[half:, top : top + round(share * height), left : left + round(share * width)]
    frames[half:] = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in inner]
    return Clip(frames, clip.sound, clip.speaker)


def clipped(clip: Clip, rng: np.random.Generator) -> Clip:
    """12 to 20 dB too loud."""
    gain = 10 ** (rng.uniform(12, 20) / 20) / max(1e-3, float(np.percentile(np.abs(clip.sound), 99.9)))
    return Clip(clip.frames, np.clip(gain * clip.sound, -0.98, 0.98).astype(np.float32), clip.speaker)


def noisy(clip: Clip, rng: np.random.Generator) -> Clip:
    """Noise, white or of a hum, that is as loud as the speech, or half as loud."""
    time = np.arange(len(clip.sound)) / SOUND
    noise = rng.standard_normal(len(time))
    if rng.random() < 0.5:
        noise = np.cumsum(noise - noise.mean())
        noise = noise - np.convolve(noise, np.ones(800) / 800, mode="same")
    level = float(np.sqrt(np.mean(clip.sound**2))) * 10 ** (-rng.uniform(0, 4) / 20)
    noise *= level / max(1e-9, float(noise.std()))
    return Clip(clip.frames, np.clip(clip.sound + noise, -1, 1).astype(np.float32), clip.speaker)


def dropouts(clip: Clip, rng: np.random.Generator) -> Clip:
    """Three to five pieces of 60 to 150 ms of what is loudest are cut out, as by lost packets."""
    sound = clip.sound.copy()
    blocks = np.sqrt((sound[: len(sound) // 1600 * 1600].reshape(-1, 1600) ** 2).mean(1))
    for block in np.argsort(-blocks)[: int(rng.integers(3, 6))]:
        sound[block * 1600 : block * 1600 + int(rng.uniform(0.06, 0.15) * SOUND)] = 0
    return Clip(clip.frames, sound, clip.speaker)


def silent(clip: Clip, rng: np.random.Generator) -> Clip:
    """Nothing is heard for five sixths of it."""
    sound = clip.sound.copy()
    sound[len(sound) // 6 :] = 0
    return Clip(clip.frames, sound, clip.speaker)


def blurred(clip: Clip, rng: np.random.Generator) -> Clip:
    """Out of focus: a Gaussian of a fourteenth to a tenth of the face's width."""
    width = _face(clip)[2]
    sigma = width / float(rng.uniform(10, 14)) / 2
    return Clip(np.stack([cv2.GaussianBlur(one, (0, 0), sigma) for one in clip.frames]), clip.sound, clip.speaker)


def tiny(clip: Clip, rng: np.random.Generator) -> Clip:
    """The face is 20 to 30 pixels wide."""
    height, width = clip.frames.shape[1:3]
    scale = float(rng.uniform(20, 30)) / _face(clip)[2]
    size = max(2, round(width * scale)), max(2, round(height * scale))
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    frames = np.empty_like(clip.frames)
    for index, frame in enumerate(clip.frames):
        frames[index] = cv2.GaussianBlur(frame, (0, 0), height / 12)
        frames[index, top : top + size[1], left : left + size[0]] = cv2.resize(
            frame, size, interpolation=cv2.INTER_AREA
        )
    return Clip(frames, clip.sound, clip.speaker)


def hidden(clip: Clip, rng: np.random.Generator) -> Clip:
    """A plain thing as large as half of the face comes from the side before mouth or eyes for 1 to 1.6 s."""
    x, y, width = _face(clip)
    colour = rng.integers(20, 235, 3)
    colour = colour if np.ptp(colour) > 60 else np.array([40, 90, 180])
    length = int(rng.integers(25, 41))
    start = int(rng.integers(5, len(clip.frames) - length - 5))
    low = y + float(rng.choice([-0.25, 0.22])) * width
    frames = clip.frames.copy()
    for number, frame in enumerate(frames[start : start + length]):
        away = 1.2 * width * _away(number, length)
        corner = round(x - 0.42 * width - away), round(low - 0.2 * width)
        cv2.rectangle(
            frame, corner, (corner[0] + round(0.84 * width), corner[1] + round(0.4 * width)), colour.tolist(), -1
        )
    return Clip(frames, clip.sound, clip.speaker, range(start + SLIDES, start + length - SLIDES))


def hand(clip: Clip, rng: np.random.Generator) -> Clip:
    """A hand comes from below and lies over the face for 1 to 1.8 s."""
    x, y, width = _face(clip)
    length = int(rng.integers(25, 46)) + 2 * SLIDES
    start = int(rng.integers(5, len(clip.frames) - length - 5))
    turn, size = float(rng.uniform(-35, 35)), float(rng.uniform(1.0, 1.3)) * width
    frames = clip.frames.copy()
    for number, index in enumerate(range(start, start + length)):
        sway, away = 0.03 * width * np.sin(index / 6), 1.5 * width * _away(number, length)
        frames[index] = draw_hand(frames[index], (x + sway, y + 0.2 * width + away), size, turn)
    return Clip(frames, clip.sound, clip.speaker, range(start + SLIDES, start + length - SLIDES))


CAPTIONS = ("BREAKING NEWS", "and then we went home", "Dr. Anna Schmidt", "@channel.live")


def captioned(clip: Clip, rng: np.random.Generator) -> Clip:
    """Letters of a fifteenth to a tenth of the face's width stand below the mouth, or above the eyes."""
    x, y, width = _face(clip)
    font = ImageFont.load_default(width * float(rng.uniform(1 / 15, 1 / 10)))
    colour, edge = ("white", "black") if rng.random() < 0.5 else ("yellow", "navy")
    place, said = (x, y + width * float(rng.choice([-0.6, 0.6]))), str(rng.choice(CAPTIONS))
    frames = []
    for frame in clip.frames:
        picture = Image.fromarray(frame)
        ImageDraw.Draw(picture).text(place, said, colour, font, "mm", stroke_width=1, stroke_fill=edge)
        frames.append(np.array(picture))
    return Clip(np.stack(frames), clip.sound, clip.speaker)


FAULTS: dict[str, Callable[[Clip, np.random.Generator], Clip]] = {
    "frozen": frozen,
    "jump cut": jump,
    "clipped": clipped,
    "noisy": noisy,
    "dropouts": dropouts,
    "silent": silent,
    "blurred": blurred,
    "tiny face": tiny,
    "hidden face": hidden,
    "hand over face": hand,
    "caption": captioned,
}


def _away(number: int, length: int) -> float:
    """How far what hides a face for ``length`` frames is still away, or again, in its frame ``number``: 1 to 0."""
    return max(0.0, 1 - min(number, length - 1 - number) / SLIDES)


def _face(clip: Clip) -> tuple[float, float, float]:
    """Middle and width of the face where a clip first shows it."""
    face = next(found for frame in clip.frames if (found := find_face(frame)) is not None)
    points = face.points[:, :2]
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return float(left + right) / 2, float(top + bottom) / 2, float(right - left)


@cache
def _hand_mesh() -> tuple[np.ndarray, np.ndarray]:
    """The base mesh's left hand with a bit of its arm, fingers up, as quads ``(n, 4, 3)`` sorted from behind, and how
    light each is."""
    base = mesh.base_mesh()
    quads = base.vertices[base.quads["body"]].astype(np.float64)
    middle = quads.mean(1)
    tip = middle[middle[:, 0].argmax()]
    quads = quads[np.linalg.norm(middle - tip, axis=1) < HAND]
    # the hand is longest along its fingers, and flattest from palm to back
    along, across, away = np.linalg.svd(quads.mean(1) - quads.mean((0, 1)), full_matrices=False)[2]
    along = along * np.sign((tip - quads.mean((0, 1))) @ along)
    seen = quads @ np.stack([across, along, away], 1)
    seen -= seen.mean((0, 1))
    normal = np.cross(seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    light = 0.62 + 0.38 * np.abs(normal @ np.array([0.35, 0.35, 0.87]))
    order = np.argsort(seen[:, :, 2].mean(1))
    return seen[order], light[order]


def draw_hand(frame: np.ndarray, middle: tuple[float, float], size: float, turn: float) -> np.ndarray:
    """A frame with a hand ``size`` pixels long over it, of the skin's colour there, turned by ``turn`` degrees."""
    quads, light = _hand_mesh()
    size = float(size)
    scale = size / float(np.ptp(quads[..., 1]))
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flat = quads[..., :2] @ rotation.T * (scale, -scale) + middle
    x, y = (int(np.clip(value, 4, side - 5)) for value, side in zip(middle, frame.shape[1::-1], strict=True))
    skin = np.clip(np.median(frame[y - 4 : y + 5, x - 4 : x + 5].reshape(-1, 3), 0) * 1.06 + (8, 0, -4), 40, 235)
    layer, mask = Image.fromarray(frame), Image.new("L", frame.shape[1::-1], 0)
    draw, hole = ImageDraw.Draw(layer), ImageDraw.Draw(mask)
    for quad, shade in zip(flat, light, strict=True):
        corners = [tuple(corner) for corner in quad]
        draw.polygon(corners, fill=tuple(int(value * shade) for value in skin))
        hole.polygon(corners, fill=255)
    soft = layer.filter(ImageFilter.GaussianBlur(size / 150))
    return np.array(Image.composite(soft, Image.fromarray(frame), mask.filter(ImageFilter.GaussianBlur(size / 200))))


def compose(folder: Path, name: str, clips: Sequence[tuple[Clip, str | None]], late: float = 0.0) -> Film:
    """Write a film of clips, each with what is wrong with it, whose sound is ``late`` seconds."""
    film, start = Film(name), 0
    for clip, fault in clips:
        spoilt = None if clip.spoilt is None else (start + clip.spoilt.start, start + clip.spoilt.stop)
        film.parts.append(Part(start, start + len(clip.frames), fault, spoilt))
        start += len(clip.frames)
    frames = np.concatenate([clip.frames for clip, _ in clips])
    sound = np.concatenate([clip.sound for clip, _ in clips])
    shift = round(late * SOUND)
    sound = np.pad(sound, (shift, 0))[: len(sound)]
    write_video(folder / name, frames, sound)
    return film


def beside(left: Clip, right: Clip) -> Clip:
    """Two people beside each other, of whom the left one is heard."""
    count = min(len(left.frames), len(right.frames))
    height = left.frames.shape[1]
    width = round(right.frames.shape[2] * height / right.frames.shape[1]) // 2 * 2
    other = np.stack([cv2.resize(frame, (width, height)) for frame in right.frames[:count]])
    return Clip(np.concatenate([left.frames[:count], other], 2), left.sound[: 640 * count], left.speaker)
