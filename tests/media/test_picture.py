"""Pictures of every kind of file, and in memory."""

import os
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.picture import is_animation, picture_array, read_picture


def colours(height: int = 90, width: int = 120) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2] = (200, 40, 60)
    picture[height // 2 :, : width // 2] = (30, 160, 90)
    return picture


def save(folder: Path, name: str, image: Image.Image, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "RGBA", "L", "LA", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    ending = "tif" if mode == "CMYK" else "png"
    picture = read_picture(save(tmp_path, f"a.{ending}", Image.fromarray(colours()).convert(mode)))
    assert picture.shape == (90, 120, 3)
    assert picture.dtype == np.uint8
    if mode in ("RGB", "RGBA", "CMYK"):
        assert np.abs(picture.astype(int) - colours()).max() <= 2


def test_sixteen_bit_grey_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 100 * 80).reshape(80, 100).astype(np.uint16)
    picture = read_picture(save(tmp_path, "a.png", Image.fromarray(values)))
    assert picture.min() == 0
    assert picture.max() == 255
    assert abs(float(picture.mean()) - 127.5) < 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_of_fewer_bits_in_sixteen_is_as_bright(tmp_path, bits):
    values = np.linspace(0, 2**bits - 1, 100 * 80).reshape(80, 100).astype(np.uint16)
    picture = read_picture(save(tmp_path, "a.png", Image.fromarray(values)))
    assert (picture.min(), picture.max()) == (0, 255)


def test_transparency_lies_over_white(tmp_path):
    image = Image.fromarray(colours()).convert("RGBA")
    image.putalpha(0)
    assert (read_picture(save(tmp_path, "a.png", image)) == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: show it turned a quarter to the right
    path = save(tmp_path, "a.jpg", Image.fromarray(colours()), exif=exif, quality=95)
    picture = read_picture(path)
    assert picture.shape == (120, 90, 3)
    assert np.abs(picture.astype(int) - np.rot90(colours(), -1)).mean() < 4


def test_heic_is_read_and_turned(tmp_path):
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path, "a.heic", Image.fromarray(colours()), exif=exif.tobytes(), quality=95)
    picture = read_picture(path)
    assert picture.shape == (120, 90, 3)
    assert np.abs(picture.astype(int) - np.rot90(colours(), -1)).mean() < 4


@pytest.mark.parametrize("error", [struct.error, TypeError, KeyError, IndexError])
def test_exif_that_cannot_be_understood_turns_nothing(tmp_path, monkeypatch, error):
    def broken(image):
        raise error("broken")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
    path = save(tmp_path, "a.png", Image.fromarray(colours()))
    assert np.array_equal(read_picture(path), colours())


def test_a_picture_of_the_callers_stays_as_it_was():
    image = Image.new("RGB", (9000, 6000))
    assert max(picture_array(image).shape) == 4096
    assert image.size == (9000, 6000)


def test_any_size_is_kept_where_points_belong_to_it(tmp_path):
    for size in ((40, 30), (5000, 100)):
        path = save(tmp_path, "a.png", Image.new("RGB", size))
        assert read_picture(path, any_size=True).shape == (size[1], size[0], 3)


def test_large_pictures_are_scaled_down(tmp_path):
    path = save(tmp_path, "a.jpg", Image.new("RGB", (9000, 6000), (10, 120, 200)))
    picture = read_picture(path)
    assert max(picture.shape) <= 4096
    assert np.abs(picture.astype(int) - (10, 120, 200)).max() < 4


def test_animation_gives_its_first_picture(tmp_path):
    first, second = Image.new("RGB", (80, 80), "red"), Image.new("RGB", (80, 80), "blue")
    picture = read_picture(save(tmp_path, "a.gif", first, save_all=True, append_images=[second]))
    assert tuple(picture[40, 40]) == (255, 0, 0)
    assert is_animation(tmp_path / "a.gif")
    assert not is_animation(save(tmp_path, "b.gif", first))


def test_bytes_of_a_file_are_the_file(tmp_path):
    path = save(tmp_path, "a.png", Image.fromarray(colours()))
    assert np.array_equal(read_picture(BytesIO(path.read_bytes())), read_picture(path))
    with pytest.raises(UserError, match="known format"):
        read_picture(BytesIO(b"nothing"))


def test_a_picture_that_is_not_whole_yet_is_one_sentence(tmp_path):
    data = save(tmp_path, "a.png", Image.fromarray(colours())).read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        picture_array(Image.open(tmp_path / "b.png"))


def bad_picture(folder: Path, name: str) -> Path:
    path = folder / name
    match name:
        case "folder.png":
            path.mkdir()
        case "empty.png":
            path.touch()
        case "text.jpg":
            path.write_text("not a picture " * 20)
        case "tiny.png":
            Image.new("RGB", (63, 200)).save(path)
        case "cut.jpg" | "cut.png" | "cut.heic":
            pillow_heif.register_heif_opener()
            noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
            data = save(folder, f"whole{path.suffix}", Image.fromarray(noise)).read_bytes()
            path.write_bytes(data[: len(data) // 2])
        case "phone.heic":
            path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
        case "bomb.png":
            Image.new("1", (20_000, 20_000)).save(path)
        case "strip.png":
            Image.new("L", (20_000, 100)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no.png", "does not exist"),
        ("folder.png", "folder"),
        ("empty.png", "empty"),
        ("text.jpg", "known format"),
        ("tiny.png", "63x200"),
        ("cut.jpg", "damaged"),
        ("cut.png", "damaged"),
        ("phone.heic", "known format"),
        ("cut.heic", "damaged"),
        ("bomb.png", "too large"),
        ("strip.png", "narrow"),
    ],
)
def test_bad_picture_is_one_sentence(tmp_path, name, says):
    path = bad_picture(tmp_path, name)
    with pytest.raises(UserError, match=says) as error:
        read_picture(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_unreadable_file_is_said(tmp_path):
    path = save(tmp_path, "a.png", Image.fromarray(colours()))
    path.chmod(0)
    with pytest.raises(UserError, match="permission"):
        read_picture(path)
