"""Stage 2: videos that are there twice, also in other encodings, sizes, with borders or without, or in parts.

A video has two perceptual prints: of its sound, 32 bits every 40 ms (Haitsma and Kalker, "A highly robust audio
fingerprinting system", 2002), and of its pictures, a 64-bit hash a second (ImageHash's pHash) without their borders.
Many videos show one person before one wall; what tells them apart is the sound, so it proposes, and both decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from asymtalker.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

WINDOW = 4096
"""Samples, 0.256 s: so long a piece of sound has hardly changed when it begins a few milliseconds later."""
BANDS = 33
LOWEST, HIGHEST = 300.0, 3000.0  # Hz
SILENT = 1e-4
"""Power below which a piece has no print worth comparing."""
INDEXED = 512
"""Prints of a video that are looked up: so many bits as they are, some of which every copy keeps."""
ANCHORS = 16
"""Of the videos that have a print, the first so many are those that others may be copies of."""
VOTES = 2
"""Prints in common, by one shift, from which on two videos are compared."""
BORDER = 8.0
"""Grey levels within which a row or column is of one colour."""


@dataclass(frozen=True)
class Print:
    """Prints of a video: ``sound`` (N,) uint32, one a frame of 25 FPS, 0 where it is silent; ``pictures`` (S,)
    uint64, one a second."""

    sound: np.ndarray
    pictures: np.ndarray


@dataclass(frozen=True)
class Match:
    """What two videos have in common: share of differing bits of sound and pictures, and how much of the shorter
    one."""

    sound: float
    picture: float
    overlap: float


@dataclass
class PicturePrints:
    """Hashes of a video's frames, which are shown to it in order."""

    found: list[int] = field(default_factory=list)

    def add(self, number: int, frame: np.ndarray) -> None:
        """Take frame ``number`` ``(H, W, 3)`` uint8, counted at 25 FPS."""
        if number % FPS == FPS // 2:
            self.found.append(picture_hash(frame))

    def finish(self) -> np.ndarray:
        """``(S,)`` uint64."""
        return np.array(self.found, np.uint64)


def picture_hash(frame: np.ndarray) -> int:
    """A picture's 64-bit pHash without its borders."""
    import imagehash

    bits = imagehash.phash(Image.fromarray(without_borders(frame))).hash.ravel()
    return int(np.packbits(bits).view(">u8")[0])


def without_borders(frame: np.ndarray) -> np.ndarray:
    """What a picture ``(H, W, 3)`` uint8 holds inside rows and columns of one colour along its edges."""
    grey = frame.astype(np.float32).mean(-1)
    rows, columns = (np.flatnonzero(grey.std(axis) > BORDER) for axis in (1, 0))
    if len(rows) < len(grey) / 4 or len(columns) < grey.shape[1] / 4:
        return frame
    return np.ascontiguousarray(frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def sound_prints(samples: np.ndarray) -> np.ndarray:
    """Prints ``(N,)`` uint32 of sound ``(640 N,)`` at 16 kHz: signs of how energies of neighbouring bands change."""
    count = len(samples) // SAMPLES_PER_FRAME
    padded = np.pad(samples[: count * SAMPLES_PER_FRAME].astype(np.float32), (WINDOW // 2, WINDOW // 2))
    energies = np.zeros((count, BANDS))
    edges = np.geomspace(LOWEST, HIGHEST, BANDS + 1) * WINDOW / SAMPLE_RATE
    starts = np.round(edges).astype(int)
    window = np.hanning(WINDOW).astype(np.float32)
    for first in range(0, count, 256):  # so that memory does not grow with length
        places = SAMPLES_PER_FRAME * np.arange(first, min(count, first + 256))[:, None] + np.arange(WINDOW)
        power = np.abs(np.fft.rfft(padded[places] * window, axis=1)) ** 2
        sums = np.add.reduceat(power, starts, axis=1)[:, :-1]
        energies[first : first + len(places)] = sums
    across = energies[:, 1:] - energies[:, :-1]  # (N, 32)
    bits = np.zeros(across.shape, bool)
    bits[1:] = across[1:] > across[:-1]
    prints = (bits.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32)
    loud = energies.sum(1) / WINDOW**2 > SILENT * 1e-3
    return np.where(loud, prints, 0).astype(np.uint32)


def compare(one: Print, other: Print, shift: int) -> Match:
    """What two videos have in common if frame ``k`` of the first is frame ``k + shift`` of the other."""
    start, stop = max(0, -shift), min(len(one.sound), len(other.sound) - shift)
    if stop <= start:
        return Match(0.5, 0.5, 0.0)
    a, b = one.sound[start:stop], other.sound[start + shift : stop + shift]
    heard = (a != 0) & (b != 0)
    sound = float(np.bitwise_count(a[heard] ^ b[heard]).mean() / 32) if heard.any() else 0.5
    seconds = np.arange(len(one.pictures))
    there = np.round(seconds + shift / FPS).astype(int)
    both = (there >= 0) & (there < len(other.pictures))
    bits = np.bitwise_count(one.pictures[seconds[both]] ^ other.pictures[there[both]])
    picture = float(np.median(bits) / 64) if both.any() else 0.5
    shorter = min(np.count_nonzero(one.sound), np.count_nonzero(other.sound))
    return Match(sound, picture, float(heard.sum() / max(1, shorter)))


def find_duplicates(
    prints: Sequence[Print], source_ids: Sequence[str], sound: float, picture: float, overlap: float
) -> dict[int, tuple[int, dict[str, float]]]:
    """Which videos are there before: ``{index: (index of the first, how alike)}``.

    Args:
        prints: of the videos, in the order of which the first is kept.
        source_ids: what each is called where it comes from.
        sound: share of differing bits up to which sounds are the same.
        picture: likewise of pictures.
        overlap: share of the shorter video that is to be common.
    """
    found: dict[int, tuple[int, dict[str, float]]] = {}
    known: dict[str, int] = {}
    for index, name in enumerate(source_ids):
        if name in known:
            found[index] = known[name], {"duplicate_source": 1.0}
        known.setdefault(name, index)
    for later, candidates in sorted(_candidates(prints).items()):
        for earlier, shift in candidates:
            if later in found or earlier in found:
                continue
            match = compare(prints[earlier], prints[later], shift)
            if match.sound <= sound and match.picture <= picture and match.overlap >= overlap:
                scores = {"duplicate_sound": match.sound, "duplicate_picture": match.picture}
                found[later] = earlier, scores | {"duplicate_overlap": match.overlap}
    return found


def _candidates(prints: Sequence[Print]) -> dict[int, list[tuple[int, int]]]:
    """For each video the earlier ones that share prints with it, and how many frames later those are there."""
    values, videos, places = [], [], []
    for index, one in enumerate(prints):
        kept, where = _looked_up(one.sound)
        values.append(kept)
        places.append(where)
        videos.append(np.full(len(kept), index, np.uint32))
    value, video, place = (np.concatenate([np.zeros(0, np.uint32), *parts]) for parts in (values, videos, places))
    order = np.argsort(value, kind="stable")  # within a value in order of the videos
    value, video, place = value[order], video[order], place[order].astype(np.int64)
    if not len(value):
        return {}
    starts = np.flatnonzero(np.r_[True, value[1:] != value[:-1]])
    lengths = np.diff(np.r_[starts, len(value)])
    first = np.repeat(starts, lengths)  # entry at which the print's own begin
    found = []
    for turn in range(ANCHORS):  # what is there a thousand times is compared with the first alone
        entry = np.flatnonzero(first + turn < np.arange(len(value)))
        anchor = first[entry] + turn
        other = video[anchor] != video[entry]
        entry, anchor = entry[other], anchor[other]
        found.append(np.stack([video[entry], video[anchor], place[entry] - place[anchor]]).astype(np.int32))
    hits = np.concatenate(found, axis=1)
    hits = hits[:, np.lexsort(hits[::-1])]
    edges = np.flatnonzero(np.r_[True, (np.diff(hits) != 0).any(0), True])
    counts = np.diff(edges)
    voted = counts >= VOTES
    together: dict[int, dict[int, tuple[int, int]]] = {}
    for (later, earlier, shift), count in zip(
        hits[:, edges[:-1][voted]].T.tolist(), counts[voted].tolist(), strict=True
    ):
        best = together.setdefault(later, {}).get(earlier, (0, 0))
        together[later][earlier] = max(best, (count, shift))
    return {later: [(one, shift) for one, (_, shift) in sorted(those.items())] for later, those in together.items()}


def _looked_up(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prints to look up and where they are: of a long video those that a copy of it would choose too."""
    where = np.flatnonzero(sound)
    if len(where) > INDEXED:
        mixed = (sound[where].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        where = np.sort(where[np.argsort(mixed, kind="stable")[:INDEXED]])
    return sound[where], where.astype(np.uint32)


def save_prints(path: Any, prints: Print) -> None:
    """Write prints as an npz."""
    np.savez(path, sound=prints.sound, pictures=prints.pictures)


def load_prints(path: Any) -> Print:
    """Prints as :func:`save_prints` wrote them."""
    with np.load(path) as file:
        return Print(file["sound"], file["pictures"])
