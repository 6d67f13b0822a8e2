"""An invisible watermark: a number of 48 bits in the brightness of all frames, which survives re-encoding.

Spread spectrum. The picture is divided into cells of some pixels; each is made a bit brighter or darker by the chips
of a tile of 32 x 32 cells, which is repeated over the picture. A third of the chips is always the same and says where
the tile lies and at what scale; the rest is the number with a checksum, in a convolutional code. How far a cell is
changed depends on the first frame: as far as is needed beside its neighbours, and further where the picture is busy.
All frames are changed alike, as what does not move is what codecs keep.
"""

import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from asymtalker.provenance.origin import name_of

TILE = 32
"""Cells of a tile's side."""
SYNC_CHIPS = 340
NUMBER_BITS = 48
"""Of the number; a checksum of 16 bits follows it."""
MEMORY = 6
"""Of the convolutional code of rate 1/2: bits that a coded one depends on, besides its own."""
GENERATORS = (0o171, 0o133)
CODED_BITS = 2 * (NUMBER_BITS + 16 + MEMORY)
CELLS = {320: 4, 448: 6}
"""Pixels of a cell up to a shorter side; above, 8."""
LARGEST_CELL = 8
EDGES = {4: 0, 6: 1, 8: 2}
"""How many times the edges of cells so large are smoothed."""
LEAST, MOST, CEILING = 0.75, 1.25, 3.0
"""By how many of 255 levels a cell is changed: at least, at most where the picture is smooth, and where it is busy."""
MASKING = 0.1
"""Levels more for each level of a cell's standard deviation."""
ABOVE_NEIGHBOURS = 2.0
"""Levels that a cell is to stand out from those around it."""
SAMPLES = 4
"""Of a cell's side, where a tile is looked for."""
USUAL_SCALES = (1, 1 / 2, 3 / 4, 2 / 3, 1 / 3, 5 / 6, 4 / 3, 3 / 2, 5 / 3, 2)
SCALE_STEP = 1.004
SMALLEST, LARGEST = 2.2, 18.0
"""Pixels of a cell, where any scale is looked for."""
SMALLEST_SIDE = 2 * TILE
"""Pixels of a picture's side, below which there is nothing to be found."""
CERTAIN, LIKELY = 5.5, 5.0
"""Standard deviations by which the sync chips must stand out, at any scale and at a usual one. Whether a watermark is
found the checksum decides; see docs/provenance.md for how often both err."""
NOISE, CLIP = 0.15, 1.2
"""Least contrast of a picture's detail, in levels, and how far beyond the usual one cell may go."""
Grey = np.ndarray


@dataclass(frozen=True)
class Found:
    """A watermark that was read.

    Attributes:
        number: of 48 bits.
        strength: standard deviations by which its sync chips stand out.
        cell: pixels of a cell's side, as it is seen.
    """

    number: int
    strength: float
    cell: float

    @property
    def name(self) -> str:
        """The number as people read it."""
        return name_of(self.number)


class Watermark:
    """Marks frames with a number.

    Args:
        number: from 0 to 2**48 - 1.
        first: ``(H, W, 3)`` uint8, the first frame, which says how much the picture hides.
    """

    def __init__(self, number: int, first: np.ndarray):
        change = _change(luma(first), tile_of(number))[..., None].repeat(3, axis=-1)
        self._darker = np.clip(-change, 0, None).astype(np.uint8)
        self._brighter = np.clip(change, 0, None).astype(np.uint8)
        self._room = 255 - self._brighter

    def mark(self, frame: np.ndarray) -> np.ndarray:
        """A copy of a frame ``(H, W, 3)`` uint8 with the mark in it."""
        marked = np.maximum(frame, self._darker)  # in bytes throughout, which takes a tenth of the time
        marked -= self._darker
        np.minimum(marked, self._room, out=marked)
        marked += self._brighter
        return marked


def cell_side(height: int, width: int) -> int:
    """Pixels of a cell's side in pictures of a size."""
    return next((cell for side, cell in CELLS.items() if min(height, width) <= side), LARGEST_CELL)


def luma(picture: np.ndarray) -> Grey:
    """Brightness ``(H, W)`` float32, 0 to 255, of a picture ``(H, W, 3)``."""
    return picture.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)


def tile_of(number: int) -> np.ndarray:
    """The chips ``(32, 32)``, each 1 or -1, of a number.

    Raises:
        ValueError: if the number has more than 48 bits.
    """
    if not 0 <= number < 1 << NUMBER_BITS:
        raise ValueError(f"a watermark holds {NUMBER_BITS} bits, not {number}")
    signs, _, carriers = _chips()
    chips = signs.copy()
    coded = 1 - 2 * _encode(_with_checksum(number))
    chips[carriers] *= coded[np.arange(len(carriers)) % CODED_BITS]
    return chips.reshape(TILE, TILE)


@cache
def _chips() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signs of a tile's chips, which of them are sync, and which carry the number."""
    draw = np.random.Generator(np.random.PCG64(20261129))
    order = draw.permutation(TILE * TILE)
    return draw.choice(np.array([-1.0, 1.0]), TILE * TILE), order[:SYNC_CHIPS], order[SYNC_CHIPS:]


def _with_checksum(number: int) -> list[int]:
    data = number.to_bytes(NUMBER_BITS // 8, "big")
    data += binascii.crc_hqx(data, 0x4154).to_bytes(2, "big")
    return [byte >> shift & 1 for byte in data for shift in range(7, -1, -1)]


def _encode(bits: list[int]) -> np.ndarray:
    register, coded = 0, []
    for bit in [*bits, *[0] * MEMORY]:
        register = (register << 1 | bit) & (1 << MEMORY + 1) - 1
        coded += [(register & generator).bit_count() & 1 for generator in GENERATORS]
    return np.array(coded)


def _decode(soft: np.ndarray) -> list[int]:
    """The likeliest bits (Viterbi's algorithm) of coded ones, positive where a 0 is likelier."""
    states = 1 << MEMORY
    after = np.arange(states)
    before = np.stack([after >> 1, after >> 1 | states >> 1])  # (2, states): whence each state can be reached
    registers = before << 1 | after & 1
    odd = np.array([[[(int(r) & g).bit_count() & 1 for r in row] for row in registers] for g in GENERATORS])
    signs = 1 - 2 * odd
    score = np.where(after == 0, 0.0, -np.inf)
    ways = []
    for pair in soft.reshape(-1, 2):
        reached = score[before] + signs[0] * pair[0] + signs[1] * pair[1]
        way = reached.argmax(0)
        ways.append(before[way, after])
        score = reached[way, after]
    state, bits = 0, []
    for way in reversed(ways):
        bits.append(state & 1)
        state = int(way[state])
    return bits[::-1][: NUMBER_BITS + 16]


def _box(values: Grey, side: int) -> Grey:
    """Means of squares of an odd ``side`` around each value; the edge goes on."""
    half = side // 2
    for axis in (0, 1):
        pad = [(half + 1, half) if axis == of else (0, 0) for of in (0, 1)]
        sums = np.pad(values, pad, mode="edge").cumsum(axis, dtype=np.float64)
        length = sums.shape[axis]
        upper, lower = (slice(2 * half + 1, length), slice(0, length - 2 * half - 1))
        sums = sums.T if axis else sums
        values = (sums[upper] - sums[lower]) / (2 * half + 1)
        values = values.T if axis else values
    return values


def _change(grey: Grey, chips: np.ndarray) -> np.ndarray:
    """By how many levels each pixel of ``grey`` is changed, ``(H, W)`` int16."""
    height, width = grey.shape
    cell = cell_side(height, width)
    rows, columns = np.arange(height) // cell, np.arange(width) // cell
    counts = np.outer(np.bincount(rows), np.bincount(columns))

    def means(values: Grey) -> Grey:
        summed = np.add.reduceat(values, np.arange(0, height, cell), axis=0, dtype=np.float64)
        return np.add.reduceat(summed, np.arange(0, width, cell), axis=1) / counts

    repeats = (-(-counts.shape[0] // TILE), -(-counts.shape[1] // TILE))
    signs = np.tile(chips, repeats)[: counts.shape[0], : counts.shape[1]]
    level = means(grey)
    busy = np.sqrt(np.maximum(means(grey.astype(np.float64) ** 2) - level**2, 0))
    most = np.clip(MOST + MASKING * busy, MOST, CEILING)
    change = np.full_like(level, LEAST)
    for _ in range(3):  # neighbours change too
        marked = level + signs * change
        change = np.clip(change + ABOVE_NEIGHBOURS - signs * (marked - _box(marked, 3)), LEAST, most)
    pixels = (signs * change)[np.ix_(rows, columns)]
    for _ in range(EDGES[cell]):
        pixels = _box(pixels, 3)
    y, x = np.mgrid[:height, :width]
    dither = (52.9829189 * ((0.06711056 * x + 0.00583715 * y) % 1)) % 1  # interleaved gradient noise
    return np.floor(pixels + dither).astype(np.int16)


def find_watermark(frames: Iterable[np.ndarray], thorough: bool = True) -> Found | None:
    """The watermark in frames of one video, or in a single picture.

    Args:
        frames: ``(H, W, 3)`` uint8, all of one size; some from all over the video are enough.
        thorough: look for any scale, and not only for those by which videos are usually made larger or smaller.
    """
    whitened = _whitened(frames)
    if whitened is None:
        return None
    found = _read_at(_usual_sides(), whitened, LIKELY)
    return _read_at(_all_sides(), whitened, CERTAIN) if found is None and thorough else found


def sync_strengths(frames: Iterable[np.ndarray]) -> tuple[float, float]:
    """How far the sync chips stand out at best, at usual scales and at any, in standard deviations: of videos without
    a watermark, to know how often one would be found in them. Frames as in :func:`find_watermark`, large enough."""
    whitened = _whitened(frames)
    assert whitened is not None
    usual, thorough = (
        max(_sync(_fold(whitened.for_cells(side), side))[0] for side in sides)
        for sides in (_usual_sides(), _all_sides())
    )
    return usual, thorough


def _usual_sides() -> list[float]:
    sides = {cell * scale for cell in (*CELLS.values(), LARGEST_CELL) for scale in USUAL_SCALES}
    return [side for side in sorted(sides) if SMALLEST <= side <= LARGEST]


def _all_sides() -> list[float]:
    steps = int(np.log(LARGEST / SMALLEST) / np.log(SCALE_STEP))
    return [SMALLEST * SCALE_STEP**step for step in range(steps + 1)]


def _whitened(frames: Iterable[np.ndarray]) -> "_Whitened | None":
    """The mean of frames, made ready; ``None`` of none and of ones too small."""
    total, count = None, 0
    for frame in frames:
        grey = luma(frame)
        total = grey if total is None else total + grey
        count += 1
    if total is None or min(total.shape) < SMALLEST_SIDE:
        return None
    return _Whitened(total / count)


class _Whitened:
    """A picture without what is larger than some cells, everywhere of about the same contrast."""

    def __init__(self, grey: Grey):
        self._grey = grey
        self._kept: dict[int, Grey] = {}

    def for_cells(self, side: float) -> Grey:
        """As cells of about so many pixels are looked for best."""
        rough = max(1, round(side / SAMPLES * 2))  # halves of a sample
        if rough not in self._kept:
            unit = rough / 2
            cell, around, far = (2 * round(samples * unit / 2) + 1 for samples in (3, 2 * SAMPLES, 3 * SAMPLES))
            detail = _box(self._grey, cell) - _box(self._grey, around)
            contrast = np.sqrt(_box(detail**2, far)) + NOISE
            # what is busy hides the mark and weighs little, as in a matched filter
            self._kept[rough] = (np.clip(detail / contrast, -CLIP, CLIP) / contrast).astype(np.float32)
        return self._kept[rough]


def _fold(whitened: Grey, side: float) -> np.ndarray:
    """All tiles of a picture on top of each other, ``SAMPLES`` values a cell: ``(128, 128)``."""
    shape = [max(SAMPLES, round(length * SAMPLES / side)) for length in whitened.shape]
    small = Image.fromarray(whitened).resize((shape[1], shape[0]), Image.Resampling.BOX)
    period = TILE * SAMPLES
    tiles = np.pad(np.asarray(small), [(0, -length % period) for length in shape])
    return tiles.reshape(tiles.shape[0] // period, period, -1, period).sum((0, 2))


@cache
def _sync_spectrum() -> np.ndarray:
    signs, sync, _ = _chips()
    chips = np.zeros(TILE * TILE)
    chips[sync] = signs[sync]
    return np.conj(np.fft.rfft2(np.kron(chips.reshape(TILE, TILE), np.ones((SAMPLES, SAMPLES)))))


def _sync(folded: np.ndarray) -> tuple[float, tuple[int, int]]:
    """By how many standard deviations the sync chips stand out where they do most, and where that is."""
    matches = np.fft.irfft2(np.fft.rfft2(folded) * _sync_spectrum(), s=folded.shape)
    row, column = np.unravel_index(matches.argmax(), matches.shape)
    strength = (matches[row, column] - matches.mean()) / (matches.std() + 1e-9)
    return float(strength), (int(row), int(column))


def _read_at(sides: list[float], whitened: _Whitened, least: float) -> Found | None:
    """The watermark at one of some sides of a cell, if the sync chips stand out enough and the checksum is right."""
    strengths = [(_sync(_fold(whitened.for_cells(side), side))[0], side) for side in sides]
    for strength, rough in sorted(strengths, reverse=True)[:4]:
        if strength < least - 1:
            return None
        near = [rough * (1 + offset) for offset in (0, -0.002, -0.001, 0.001, 0.002)]
        for side in near:
            folded = _fold(whitened.for_cells(side), side)
            strength, (row, column) = _sync(folded)
            if strength >= least and (number := _number(folded, row, column)) is not None:
                return Found(number, strength, side)
    return None


def _number(folded: np.ndarray, row: int, column: int) -> int | None:
    """The number of a tile that begins at a place, if its checksum is right."""
    signs, _, carriers = _chips()
    cells = np.roll(folded, (-row, -column), (0, 1)).reshape(TILE, SAMPLES, TILE, SAMPLES).sum((1, 3)).ravel()
    soft = np.bincount(np.arange(len(carriers)) % CODED_BITS, cells[carriers] * signs[carriers], CODED_BITS)
    bits = _decode(soft)
    number = int("".join(map(str, bits[:NUMBER_BITS])), 2)
    return number if bits == _with_checksum(number) else None
