"""What a person gives to generation: a picture and a sound, as files or in memory."""

from pathlib import Path

import numpy as np
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.read import picture_array, read_picture

Picture = str | Path | Image.Image | np.ndarray
Sound = str | Path | tuple[np.ndarray, int]


def read_image(image: Picture) -> tuple[np.ndarray, str]:
    """The picture as an array ``H W 3`` uint8 and what to call it in a sentence.

    Raises:
        UserError: if it can't be read or is no picture.
    """
    if isinstance(image, str | Path):
        return read_picture(image), str(image)
    if isinstance(image, np.ndarray):
        try:
            image = Image.fromarray(image)
        except (TypeError, ValueError) as error:
            raise UserError(f"A picture array must be H W 3 uint8, not {image.shape} {image.dtype}.") from error
    return picture_array(image), "the picture"


def check_not_input(output: Path, *inputs: object) -> None:
    """Check that no input that is a file would be overwritten.

    Raises:
        UserError: if one would.
    """
    for path in inputs:
        if isinstance(path, str | Path) and output.exists() and Path(path).exists() and output.samefile(path):
            raise UserError(f"The output {output} would overwrite an input: give it another name.")
