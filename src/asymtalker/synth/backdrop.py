"""Backgrounds of rendered heads: gradients, walls, out-of-focus lights and scenery, or blurred photographs."""

import cv2
import numpy as np


def paint(kind: str, seed: int, size: int, photograph: np.ndarray | None = None) -> np.ndarray:
    """A background (size, size, 3) uint8 of `kind` "gradient", "wall", "bokeh" or "outdoor"; a `photograph`
    (H, W, 3) uint8, when given, is used instead, out of focus."""
    rng = np.random.default_rng([seed, 3])
    if photograph is not None:
        return _blurred(photograph, rng, size)
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * (columns - 0.5) + np.sin(angle) * (rows - 0.5) + 0.7) / 1.4
    first, second = _muted(rng), _muted(rng)
    if kind in ("gradient", "wall"):
        second = first * rng.uniform(0.45, 0.85)
    picture = first * (1 - ramp[..., None]) + second * ramp[..., None]
    if kind == "wall":
        for cell in (3, 8, 30):
            field = cv2.resize(
                rng.standard_normal((cell + 2, cell + 2)).astype(np.float32),
                (size, size),
                interpolation=cv2.INTER_CUBIC,
            )
            picture *= (1 + 0.04 * field)[..., None]
    elif kind == "bokeh":
        picture *= rng.uniform(0.15, 0.5)
        for _ in range(rng.integers(15, 45)):
            layer = np.zeros((size, size), np.float32)
            centre = (int(rng.uniform(0, size)), int(rng.uniform(0, size)))
            cv2.circle(layer, centre, int(rng.uniform(0.015, 0.07) * size), 1.0, -1, cv2.LINE_AA)
            layer = cv2.GaussianBlur(layer, (0, 0), 0.005 * size)
            picture += layer[..., None] * rng.uniform(0.15, 0.6) * rng.uniform([140, 100, 60], [255, 220, 190])
    elif kind == "outdoor":
        sky = np.array([rng.uniform(150, 215), rng.uniform(185, 225), rng.uniform(215, 245)])
        ground = rng.uniform([50, 60, 30], [130, 125, 85])
        horizon = rng.uniform(0.35, 0.7)
        rough = cv2.resize(rng.standard_normal((9, 9)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        share = np.clip((rows - horizon + 0.10 * rough) / 0.08 + 0.5, 0, 1)[..., None]
        picture = sky * (1 - share) + ground * share
        leaves = cv2.resize(
            rng.standard_normal((40, 40)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        picture *= 1 + share * 0.16 * leaves[..., None]
        picture = cv2.GaussianBlur(picture, (0, 0), 0.02 * size)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _muted(rng: np.random.Generator) -> np.ndarray:
    grey = rng.uniform(40, 215)
    return np.clip(grey + rng.normal(0, 22, 3), 10, 245)


def _blurred(photograph: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A random square of a photograph, upside down half of the time for variety, strongly out of focus."""
    side = int(min(photograph.shape[:2]) * rng.uniform(0.4, 0.9))
    top = rng.integers(0, photograph.shape[0] - side + 1)
    left = rng.integers(0, photograph.shape[1] - side + 1)
    piece = photograph[top : top + side, left : left + side]
    if rng.random() < 0.5:
        piece = piece[::-1]
    small = cv2.resize(piece, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), size * float(rng.uniform(0.03, 0.09)))
