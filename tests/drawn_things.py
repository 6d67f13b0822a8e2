"""Things that have something of a face: wheels, plug sockets, lawns, drawn ``(H, W, 3)`` uint8, otherwise by seed."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

HEIGHT, WIDTH = 300, 400


def _grey(level: float) -> tuple[int, int, int]:
    return (int(level),) * 3


class _Disc:
    """A round thing somewhere in a picture, seen at an angle."""

    def __init__(self, seed: int, least: float):
        self.draw = np.random.default_rng(seed)
        low, high = np.sort(self.draw.integers(30, 230, 2))
        shade = np.linspace(low, high, HEIGHT)[:, None, None]
        self.picture = Image.fromarray(np.broadcast_to(shade, (HEIGHT, WIDTH, 3)).astype(np.uint8))
        self.brush = ImageDraw.Draw(self.picture)
        self.radius = self.draw.uniform(least, 0.46) * HEIGHT
        self.x = self.draw.uniform(self.radius, WIDTH - self.radius)
        self.y = self.draw.uniform(self.radius, HEIGHT - self.radius)
        self.narrow = self.draw.uniform(0.7, 1)

    def place(self, along: float, down: float) -> tuple[float, float]:
        return self.x + self.narrow * along * self.radius, self.y + down * self.radius

    def ring(self, radius: float, level: float, along: float = 0.0, down: float = 0.0) -> None:
        corners = self.place(along - radius, down - radius), self.place(along + radius, down + radius)
        self.brush.ellipse(corners, fill=_grey(level))

    def seen(self) -> np.ndarray:
        picture = np.asarray(self.picture.filter(ImageFilter.GaussianBlur(self.draw.uniform(0, 1.5))))
        return (picture + self.draw.normal(0, 5, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8)


def wheel(seed: int) -> np.ndarray:
    """A tyre, a rim, spokes, a hub, perhaps a brake's disc."""
    disc = _Disc(seed, 0.15)
    metal, behind = disc.draw.uniform(120, 230), disc.draw.uniform(20, 200)
    for radius, level in ((1, 30), (0.82, metal), (0.75, behind)):
        disc.ring(radius, level)
    spokes, first = int(disc.draw.integers(3, 20)), disc.draw.uniform(0, 2 * math.pi)
    wide = max(2, int(disc.radius * disc.draw.uniform(0.02, 0.15)))
    for angle in first + 2 * math.pi * np.arange(spokes) / spokes:
        end = disc.place(0.78 * math.cos(angle), 0.78 * math.sin(angle))
        disc.brush.line((disc.place(0, 0), end), fill=_grey(metal), width=wide)
    if seed % 2:
        disc.ring(0.4, 0.8 * metal)
        disc.ring(0.28, behind)
    disc.ring(0.18, metal)
    disc.ring(0.06, 30)
    return disc.seen()


def socket(seed: int) -> np.ndarray:
    """A plate with two round holes in a hollow, or with two slots over a hole."""
    disc = _Disc(seed, 0.2)
    plate = disc.draw.uniform(190, 250)
    disc.brush.rounded_rectangle((disc.place(-1, -1), disc.place(1, 1)), disc.radius * 0.15, fill=_grey(plate))
    if seed % 2:
        disc.ring(0.75, plate - 25)
        for side in (-1, 1):
            disc.ring(0.09, 25, 0.35 * side)
            disc.brush.rectangle(
                (disc.place(-0.06, 0.68 * side - 0.06), disc.place(0.06, 0.68 * side + 0.06)), _grey(120)
            )
    else:
        for side in (-0.3, 0.3):
            disc.brush.rectangle((disc.place(side - 0.05, -0.35), disc.place(side + 0.05, 0.05)), _grey(25))
        disc.ring(0.12, 25, 0, 0.37)
    return disc.seen()


def lawn(seed: int) -> np.ndarray:
    """Blades of grass."""
    draw = np.random.default_rng(seed)
    picture = Image.new("RGB", (WIDTH, HEIGHT), (40, 80, 25))
    brush, length = ImageDraw.Draw(picture), draw.uniform(12, 40)
    for _ in range(3000):
        x, y, lean, light = (
            draw.uniform(0, WIDTH),
            draw.uniform(0, HEIGHT),
            draw.normal(0, 0.5),
            draw.uniform(0.4, 1.3),
        )
        end = x + length * math.sin(lean), y - length * math.cos(lean)
        colour = tuple(int(light * part) for part in (80, 150, 50))
        brush.line(((x, y), end), fill=colour, width=int(draw.integers(1, 4)))
    return np.asarray(picture)
