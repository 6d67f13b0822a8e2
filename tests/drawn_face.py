"""A drawn face that the detector takes for one, so that tests need no photograph."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def draw_face(picture: np.ndarray, centre: tuple[int, int], width: int) -> np.ndarray:
    """The picture with a face of about ``width`` pixels drawn around ``centre`` (x, y)."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    x, y, unit = *centre, width / 100

    def oval(dx: float, dy: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        box = [x + (dx - rx) * unit, y + (dy - ry) * unit, x + (dx + rx) * unit, y + (dy + ry) * unit]
        draw.ellipse(box, fill=colour)

    oval(0, -8, 56, 74, (60, 40, 30))  # hair
    oval(0, 4, 48, 64, (215, 165, 135))
    for side in (-1, 1):
        oval(20 * side, -15, 12, 3, (70, 45, 35))
        oval(20 * side, -4, 10, 5.5, (160, 110, 90))
        oval(20 * side, -4, 8, 4, (245, 240, 235))
        oval(20 * side, -4, 3.6, 3.8, (50, 35, 25))
        oval(4 * side, 19, 3, 2, (120, 70, 55))
        oval(6 * side, 8, 2, 12, (190, 138, 110))
    oval(0, 17, 8, 4.5, (205, 150, 122))
    oval(0, 37, 16, 4.5, (165, 70, 70))
    oval(0, 36.6, 14, 1, (80, 30, 30))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(unit)))


def background(height: int, width: int) -> np.ndarray:
    """A soft gradient."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([90 + 60 * rows / height, 110 + 50 * columns / width, np.full((height, width), 130.0)], -1).astype(
        np.uint8
    )
