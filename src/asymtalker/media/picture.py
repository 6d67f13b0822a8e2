"""Read pictures (Pillow): ``H W 3`` uint8 RGB."""

import contextlib
import functools
import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from asymtalker.errors import UserError
from asymtalker.media.read import check_file

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of files taken for pictures where a folder is read."""
MIN_PICTURE_SIDE = 64
MAX_PICTURE_SIDE = 4096
DRAWINGS = ("EPS", "WMF")
"""Formats that Pillow recognizes and other programs draw."""
DEPTHS = (1, 255, 1023, 4095, 16383, 65535)
"""Brightest values of grey pictures: sensors of 10, 12 and 14 bits are stored in 16."""


@functools.cache
def _read_heic() -> None:
    """Teach Pillow HEIC, the format of iPhones."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def read_picture(source: str | Path | BytesIO, *, any_size: bool = False) -> np.ndarray:
    """A picture, of a path or of a file's bytes, as ``H W 3`` uint8 RGB (sRGB), turned upright by its EXIF tag, and at
    most 4096 pixels on a side.

    Transparent parts are laid over white, as viewers show them; of an animation the first picture is taken. With
    ``any_size`` it is neither scaled nor refused for being small, as points in its pixels may belong to it.

    Raises:
        UserError: if the file is missing, a folder, empty, no picture in a known format, damaged, smaller than 64
            pixels on a side, or larger than Pillow's limit against decompression bombs (179 megapixels).
    """
    name = "given" if isinstance(source, BytesIO) else str(source)
    file = source if isinstance(source, BytesIO) else check_file(source, "picture")
    _read_heic()
    with _said_of(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            if image.format in DRAWINGS:
                raise UserError(f"The picture {name} is a drawing ({image.format}): export it as PNG.")
            if any_size:
                return _rgb(_upright(image))
            image.draft(None, (MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))  # a JPEG decodes smaller straight away
            return picture_array(image, name)


@contextlib.contextmanager
def _said_of(name: str) -> Iterator[None]:
    """What Pillow raises for a picture that can't be read, in a sentence."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UserError(f"The picture {name} is of no known format: give a JPEG, PNG, WebP or HEIC file.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"The picture {name} is too large (over 179 megapixels): scale it down first.") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The picture {name} is damaged ({reason}): save it again or give another file.") from error


def is_animation(path: str | Path) -> bool:
    """Whether a file that :func:`read_picture` can read shows one picture after another."""
    with contextlib.suppress(Exception), warnings.catch_warnings():  # damaged further on, which is no matter here
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return image.format in ("GIF", "PNG", "WEBP", "AVIF") and getattr(image, "n_frames", 1) > 1
    return False


def picture_array(image: Image.Image, name: str = "given") -> np.ndarray:
    """``H W 3`` uint8 RGB of a Pillow image in any mode; see :func:`read_picture`, which also says what it raises."""
    if min(image.size) < MIN_PICTURE_SIDE:
        width, height = image.size
        raise UserError(f"The picture {name} is only {width}x{height} pixels: give one of at least 64x64.")
    with _said_of(name):  # one that is lazily loaded may be damaged
        image = _upright(image)
        return _rgb(_scaled(image, name))


def _scaled(image: Image.Image, name: str) -> Image.Image:
    """At most ``MAX_PICTURE_SIDE`` pixels on a side."""
    if max(image.size) > MAX_PICTURE_SIDE:
        image.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE), Image.Resampling.LANCZOS)
        if min(image.size) < MIN_PICTURE_SIDE:
            raise UserError(f"The picture {name} is too long and narrow: crop it around the face.")
    return image


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
        least = 255 if image.mode.startswith("I") else 1
        top = next((top for top in DEPTHS if max(least, values.max()) <= top), DEPTHS[-1])
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
