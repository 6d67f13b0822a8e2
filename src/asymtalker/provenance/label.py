"""A label in a corner of every frame that says that the video is synthetic."""

import contextlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from asymtalker.errors import UserError

MORE, SHARE = 6.5, 0.03
"""Letters are so many pixels high, and this share of the frame's shorter side besides."""
SMALLEST = 11
"""Pixels: below this nobody can read it."""
ROOM = 0.9
"""Most of the frame's width that it may take."""
DARKNESS = 150
"""Of 255: how far the badge covers the picture; the letters cover it wholly."""
FINER = 4
"""Times as fine the badge is drawn as it is seen."""
SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc",
    "PingFang.ttc", "NotoSansDevanagari-Regular.ttf", "NotoSansArabic-Regular.ttf",
)  # fmt: skip
"""Looked for where Pillow's own font, which is small, lacks a letter."""


class Label:
    """A badge with a text in the upper left corner.

    Args:
        text: one line.
        size: height and width of the frames.
        font: a file of a font; by default one that has the Latin letters.

    Raises:
        UserError: if the font can't be read or lacks letters, or the text does not fit.
    """

    def __init__(self, text: str, size: tuple[int, int], font: Path | None = None):
        text = " ".join(text.split())
        if not text:
            raise UserError("The label is empty: give it words, such as --label 'AI-generated'.")
        height, width = size
        letters = max(SMALLEST, round(MORE + SHARE * min(size)))
        while (badge := _badge(text, letters, font)).width > ROOM * width or badge.height > height / 4:
            letters -= 1
            if letters < SMALLEST:
                raise UserError(f"The label '{text}' does not fit into frames of {height}x{width}: shorten it.")
        margin = max(2, letters // 2)
        values = np.asarray(badge, np.uint16)
        self._at = (slice(margin, margin + badge.height), slice(margin, margin + badge.width))
        self._kept = 255 - values[..., 3:]
        self._added = values[..., :3] * values[..., 3:]

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """A copy of a frame ``(H, W, 3)`` uint8 with the label on it."""
        frame = frame.copy()
        frame[self._at] = (frame[self._at] * self._kept + self._added + 127) // 255
        return frame


def _glyph(letter: str, font: ImageFont.FreeTypeFont) -> bytes:
    return bytes(font.getmask(letter))  # pyright: ignore[reportArgumentType]


def _lacks(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The first letter of a text that a font lacks, for all of which it draws the same box; or ""."""
    box = _glyph("\U0010fffd", font)
    return next((letter for letter in text if not letter.isspace() and _glyph(letter, font) == box), "")


def _font(text: str, letters: int, file: Path | None) -> ImageFont.FreeTypeFont:
    """A font with the letters of a text: of a file, or the first that there is.

    Raises:
        UserError: if the file can't be read, or no font has them all.
    """
    if file is not None:
        try:
            fonts = iter([ImageFont.truetype(str(file), letters)])
        except OSError as error:
            raise UserError(f"The font {file} can't be read: give a TrueType or OpenType file.") from error
    else:
        fonts = chain([ImageFont.load_default(letters)], _system_fonts(letters))
    lacking = ""
    for font in fonts:
        if not (missing := _lacks(text, font)):  # pyright: ignore[reportArgumentType]
            return font  # pyright: ignore[reportReturnType]
        lacking = lacking or missing
    raise UserError(f"No font with the letter {lacking} was found for the label: give one, as --label-font FILE.ttf.")


def _system_fonts(letters: int) -> Iterator[ImageFont.FreeTypeFont]:
    for name in SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            yield ImageFont.truetype(name, letters)


def _badge(text: str, letters: int, font: Path | None) -> Image.Image:
    """A badge as RGBA, its letters so many pixels high."""
    drawn = _font(text, letters * FINER, font)
    left, top, right, bottom = drawn.getbbox(text, anchor="ls")
    ascent, descent = max(-top, 0.75 * letters * FINER), max(bottom, 0.2 * letters * FINER)
    side, above = 0.6 * letters * FINER, 0.38 * letters * FINER
    size = (round(right - left + 2 * side), round(ascent + descent + 2 * above))
    badge = Image.new("RGBA", size, (255, 255, 255, 0))
    draw = ImageDraw.Draw(badge)
    radius = 0.45 * letters * FINER
    draw.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius, fill=(16, 16, 20, DARKNESS))
    draw.text((side - left, above + ascent), text, font=drawn, anchor="ls", fill=(255, 255, 255, 255))
    small = (-(-size[0] // FINER), -(-size[1] // FINER))
    return badge.resize(small, Image.Resampling.BOX)
