"""A drawn face that the detector takes for one, so that tests need no photograph; and clips of one that talks."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from asymtalker.dataset.corpus import NewClip

SIDE = 160
FRAMES = 60


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


def drawn_clip(seed: int, frames: int = FRAMES) -> NewClip:
    """A face that nods and opens its mouth with a tone."""
    rng = np.random.default_rng(seed)
    tint = rng.integers(-25, 25, 3)
    seconds = np.arange(frames) / 25
    opening = 0.5 - 0.5 * np.cos(2 * np.pi * (2 + 0.3 * seed) * seconds)
    nod = 3 * np.sin(2 * np.pi * 0.8 * seconds + seed)
    pictures = []
    for index in range(frames):
        picture = draw_face(background(SIDE, SIDE), (80, 82 + round(nod[index])), 80).astype(int) + tint
        lips = round(104 + nod[index])
        picture[lips : lips + 2 + round(8 * opening[index]), 70:90] = (40, 10, 20)
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    time = np.arange(frames * 640) / 16_000
    tone = 0.5 * np.interp(time, seconds, opening) * np.sin(2 * np.pi * (150 + 20 * seed) * time)
    return NewClip(
        key=f"drawn{seed}",
        split="test",
        source_id=f"drawn{seed}",
        identity_id=f"drawn{seed}",
        voice_id=f"tone{seed}",
        kind="rendered",
        frames=np.stack(pictures),
        mask=np.zeros((frames, SIDE, SIDE), np.uint8),
        audio=tone.astype(np.float32),
        ground_truth={
            "lip_aperture": opening.tolist(),
            "head_pose": [[0, pitch, 0, 0, 0, 0] for pitch in nod.tolist()],
            "blendshapes": {
                "names": ["jawOpen", "eyeBlinkLeft", "eyeBlinkRight"],
                "weights": [[weight, 0, 0] for weight in opening.tolist()],
            },
        },
    )
