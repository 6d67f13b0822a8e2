import numpy as np
import pytest
from PIL import ImageFont

from asymtalker.errors import UserError
from asymtalker.provenance.disclosure import Disclosure
from asymtalker.provenance.label import SYSTEM_FONTS, Label
from asymtalker.provenance.marks import Marks, holds_watermark
from asymtalker.provenance.watermark import find_watermark
from signing import textured


def cover(text: str, size: tuple[int, int], level: int = 128) -> np.ndarray:
    """Where a label changes a grey frame, and how bright it is there."""
    frame = np.full((*size, 3), level, np.uint8)
    return Label(text, size).draw(frame)[..., 1].astype(int)


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (720, 1280), (1280, 720)])
def test_a_label_is_legible_and_small(size):
    seen = cover("AI-generated", size)
    rows, columns = np.nonzero(seen != 128)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert 20 <= height <= 0.11 * size[0]
    assert width <= 0.5 * size[1]
    assert rows.min() < height
    assert columns.min() < height  # in the corner
    badge = seen[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert badge.max() == 255  # white letters
    assert np.median(badge) < 75  # on dark ground
    assert 0.06 < np.mean(badge > 180) < 0.4


def test_it_is_legible_on_white_and_says_what_it_is_given():
    assert np.median(cover("AI", (256, 256), 255)[8:30, 10:30]) < 150
    assert not np.array_equal(cover("AI", (256, 256)), cover("KI", (256, 256)))


def test_a_frame_is_copied_and_every_frame_is_labelled():
    frames = textured((256, 256), 3)
    before = frames.copy()
    marks = Marks(Disclosure(label="AI-generated", watermark=False), 5, (256, 256))
    seen = [marks.draw(frame) for frame in frames]
    assert np.array_equal(frames, before)
    for plain, labelled in zip(frames, seen, strict=True):
        assert (labelled[:40, :90] != plain[:40, :90]).mean() > 0.4
        assert np.array_equal(labelled[60:], plain[60:])


def test_marks_are_those_that_are_wanted():
    frames = textured((256, 256), 2)
    first = frames[0]
    assert Marks(Disclosure(watermark=False), 5, (256, 256)).draw(first) is first
    both = Marks(Disclosure(label="AI-generated"), 5, (256, 256))
    found = find_watermark([both.draw(frame) for frame in frames])
    assert found is not None
    assert found.number == 5
    assert holds_watermark(Disclosure(), (64, 64))
    assert not holds_watermark(Disclosure(), (63, 640))
    small = textured((32, 32))[0]
    assert Marks(Disclosure(), 5, (32, 32)).draw(small) is small


@pytest.mark.parametrize(
    ("text", "font", "says"),
    [
        (" ", None, "is empty"),
        ("x" * 80, None, "does not fit"),
        ("AI", "no.ttf", "can't be read"),
        ("\U00012000", None, "No font with the letter \U00012000"),
    ],
)
def test_labels_that_can_not_be_written_are_refused(tmp_path, text, font, says):
    with pytest.raises(UserError, match=says):
        Label(text, (256, 256), font and tmp_path / font)


def test_letters_that_the_small_font_lacks_are_taken_of_another():
    try:
        ImageFont.truetype(SYSTEM_FONTS[0], 10)
    except OSError:
        pytest.skip(f"{SYSTEM_FONTS[0]} is not installed")
    assert (cover("AI générée", (256, 256)) != 128).any()
