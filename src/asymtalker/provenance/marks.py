"""What is put into the frames of a video themselves: a label that is seen, a watermark that is not."""

import numpy as np

from asymtalker.provenance.disclosure import Disclosure
from asymtalker.provenance.label import Label
from asymtalker.provenance.watermark import SMALLEST_SIDE, Watermark


def holds_watermark(disclosure: Disclosure, size: tuple[int, int]) -> bool:
    """Whether frames of a size, height and width, are to be marked, and are large enough for it."""
    return disclosure.watermark and min(size) >= SMALLEST_SIDE


class Marks:
    """Marks the frames of one video.

    Args:
        disclosure: what is wanted.
        number: of 48 bits, which the watermark is to hold.
        size: height and width of the frames.

    Raises:
        UserError: if the label can't be written.
    """

    def __init__(self, disclosure: Disclosure, number: int, size: tuple[int, int]):
        text = disclosure.label
        self._label = None if text is None else Label(text, size, disclosure.label_font)
        self._watermark: Watermark | None = None
        self._number = number if holds_watermark(disclosure, size) else None

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """A frame ``(H, W, 3)`` uint8 with its marks, the next one of the video; itself where there are none."""
        if self._label is not None:
            frame = self._label.draw(frame)
        if self._number is None:
            return frame
        if self._watermark is None:
            self._watermark = Watermark(self._number, frame)
        return self._watermark.mark(frame)
