import io

import av
import numpy as np
import pytest
from PIL import Image

from asymtalker.provenance import watermark as marks
from asymtalker.provenance.watermark import (
    CODED_BITS,
    NUMBER_BITS,
    Watermark,
    cell_side,
    find_watermark,
    luma,
    sync_strengths,
    tile_of,
)
from signing import textured

NUMBER = 0x123456789ABC


def marked(frames: np.ndarray, number: int = NUMBER) -> np.ndarray:
    watermark = Watermark(number, frames[0])
    return np.stack([watermark.mark(frame) for frame in frames])


def encoded(frames: np.ndarray, codec: str, container: str = "mp4", **options: str) -> np.ndarray:
    """Frames through a codec and back."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as writer:
        stream = writer.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        writer.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as reader:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)])


def resized(frames: np.ndarray, scale: float) -> np.ndarray:
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


@pytest.fixture(scope="module")
def video():
    """A marked video of 512x512."""
    return marked(textured((512, 512), 6))


@pytest.mark.parametrize("number", [0, 1, NUMBER, (1 << NUMBER_BITS) - 1])
@pytest.mark.parametrize("size", [(256, 256), (320, 448), (512, 512), (400, 720)])
def test_a_number_is_found_in_a_single_frame(number, size):
    found = find_watermark(marked(textured(size), number))
    assert found is not None
    assert found.number == number
    assert found.cell == cell_side(*size)


@pytest.mark.parametrize("number", [-1, 1 << NUMBER_BITS])
def test_numbers_that_do_not_fit_are_refused(number):
    with pytest.raises(ValueError, match="48 bits"):
        tile_of(number)


@pytest.mark.parametrize(
    "codec", [("libx264", {"crf": "28"}), ("libx265", {"crf": "28", "x265-params": "log-level=none"}), ("mpeg4", {})]
)
def test_it_survives_codecs(video, codec):
    found = find_watermark(encoded(video, codec[0], **codec[1]), thorough=False)
    assert found is not None
    assert found.number == NUMBER


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: resized(frames, 0.5),
        lambda frames: resized(frames, 0.75),
        lambda frames: resized(frames[:, :384, :384], 0.873),
        lambda frames: frames[:, 23:-25, 31:-21],
        lambda frames: resized(frames[:, 23:-25, 31:-21], 1.31),
        lambda frames: np.clip(frames.astype(int) + 30, 0, 255).astype(np.uint8),
        lambda frames: np.clip((frames.astype(int) - 128) * 0.7 + 128, 0, 255).astype(np.uint8),
        lambda frames: frames.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8),
    ],
    ids=["half", "three quarters", "an odd scale", "cropped", "cropped and scaled", "brighter", "flatter", "grey"],
)
def test_it_survives_what_people_do_to_videos(video, change):
    found = find_watermark(change(video))
    assert found is not None
    assert found.number == NUMBER


def test_it_survives_a_jpeg_of_one_frame_and_a_palette(video):
    file = io.BytesIO()
    Image.fromarray(video[2]).save(file, "jpeg", quality=70)
    for picture in (Image.open(file), Image.fromarray(video[2]).quantize(128)):
        found = find_watermark([np.asarray(picture.convert("RGB"))], thorough=False)
        assert found is not None
        assert found.number == NUMBER


def test_nothing_is_found_where_nothing_is():
    for seed in range(4):
        assert find_watermark(textured((256, 320), 2, seed), thorough=False) is None
    frames = textured((128, 192), 2)
    assert find_watermark(frames) is None
    assert max(sync_strengths(frames)) < marks.CERTAIN
    assert find_watermark([]) is None
    assert find_watermark(np.zeros((2, 40, 40, 3), np.uint8)) is None
    assert find_watermark(np.zeros((2, 128, 128, 3), np.uint8)) is None
    noise = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    assert find_watermark(noise, thorough=False) is None


def test_a_mark_is_slight_and_the_frame_is_left_alone():
    frames = textured((256, 256), 2)
    before = frames.copy()
    change = marked(frames).astype(int) - frames
    assert np.array_equal(frames, before)
    assert np.abs(change).max() <= 4
    assert 0.3 < np.abs(change).mean() < 2
    assert abs(change.mean()) < 0.2  # as much brighter as darker
    blocks = luma(frames[0]).reshape(32, 8, 32, 8)
    smooth = (np.ptp(blocks, (1, 3)) < 10).repeat(8, 0).repeat(8, 1)
    assert 0.2 < smooth.mean() < 0.9
    assert np.abs(change[0][smooth]).max() <= 2
    assert np.abs(change[0][~smooth]).max() > 2
    assert 10 * np.log10(255**2 / np.mean(change**2)) > 42


@pytest.mark.parametrize("level", [0, 255])
def test_black_stays_black_and_white_white(level):
    frame = np.full((128, 128, 3), level, np.uint8)
    assert np.abs(Watermark(NUMBER, frame).mark(frame).astype(int) - level).max() <= 2


def test_frames_of_odd_sizes_are_marked():
    frame = textured((259, 387))[0]
    found = find_watermark([Watermark(NUMBER, frame).mark(frame)])
    assert found is not None
    assert found.number == NUMBER


def test_the_code_corrects_errors():
    bits = marks._with_checksum(NUMBER)
    soft = 1.0 - 2 * marks._encode(bits)
    assert len(soft) == CODED_BITS
    assert marks._decode(soft) == bits
    noisy = soft.copy()
    noisy[::10] *= -1  # every tenth bit is wrong
    assert marks._decode(noisy) == bits


def test_a_wrong_checksum_is_no_watermark(monkeypatch):
    monkeypatch.setattr(marks, "_with_checksum", lambda number: [*bits_of(number), *[1] * 16])
    frames = marked(textured((256, 256)))
    monkeypatch.undo()
    assert sync_strengths(frames)[0] > 8  # the chips are there
    assert find_watermark(frames, thorough=False) is None


def bits_of(number: int) -> list[int]:
    return [number >> shift & 1 for shift in range(NUMBER_BITS - 1, -1, -1)]
