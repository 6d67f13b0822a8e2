"""Stage 5, DOVER (Wu and others, ICCV 2023): how well a clip is made and how well it looks, as people would judge it.

It is run from the ONNX file that its authors' ``convert_to_onnx.py`` writes. They publish no such file, so there is no
checksum of it and a recipe names its path; the views are theirs, but where they draw places at random ours are of one
seed, so that a clip has one score.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from asymtalker.curate.framed import FramedClip
from asymtalker.curate.published import normalised, onnx_session
from asymtalker.curate.recipe import Recipe
from asymtalker.errors import UserError

LOOKS, MADE = "aes_view", "tech_view"
"""The file's inputs: the whole picture made small, and pieces of it as they are."""
SIDE, GRID, FRAMES, EVERY = 224, 7, 32, 2
PIECE = SIDE // GRID
LOOKS_SCALE, MADE_SCALE = (-0.08285, 0.03774, 0.3896), (0.1107, 0.07355, 0.6104)
"""Mean, spread and weight by which the two are fused: ``fuse_results`` of evaluate_one_video.py."""


def quality_scores(clip: FramedClip, recipe: Recipe) -> dict[str, float]:
    """DOVER's fused score ``quality`` of a clip, 0 to 1.

    Raises:
        UserError: if the recipe's file is not DOVER.
    """
    assert recipe.dover is not None
    return {"quality": clip_quality(*load_dover(recipe.dover), clip)}


@cache
def load_dover(path: str) -> tuple[Callable[[np.ndarray, np.ndarray], tuple[float, float]], int]:
    """The network: ``(1, 3, 32, 224, 224)`` and ``(N, 3, 32, 224, 224)`` to how the clip looks and how it is made; and
    its N.

    Raises:
        UserError: if the file is missing or not DOVER.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}, which the recipe's dover names.")
    try:
        session = onnx_session(path)
        shapes = {given.name: given.shape for given in session.get_inputs()}
        pieces = int(shapes[MADE][0])
    except Exception as error:  # those of ONNX Runtime have no class of their own
        raise UserError(
            f"{path} is not DOVER ({type(error).__name__}): give the file that its convert_to_onnx.py writes."
        ) from error

    def judge(looks: np.ndarray, made: np.ndarray) -> tuple[float, float]:
        first, second = (float(np.mean(np.asarray(score))) for score in session.run(None, {LOOKS: looks, MADE: made}))
        return first, second

    return judge, pieces


def clip_quality(
    judge: Callable[[np.ndarray, np.ndarray], tuple[float, float]], pieces: int, clip: FramedClip
) -> float:
    """See :func:`quality_scores`; ``judge`` and ``pieces`` are those of :func:`load_dover`."""
    count = len(clip.points)
    spread = spread_frames(count, FRAMES, 1)
    runs = spread_frames(count, pieces, FRAMES)
    wanted = set(spread) | set(runs)
    frames = {number: frame for number, frame in enumerate(clip.frames()) if number in wanted}
    looks = np.stack([cv2.resize(frames[number], (SIDE, SIDE)) for number in spread])[None]
    rng = np.random.default_rng(0)
    made = [in_pieces(np.stack([frames[n] for n in run]), rng) for run in np.reshape(runs, (pieces, FRAMES))]
    scores = judge(_as_input(looks), _as_input(np.stack(made)))
    fused = sum(
        weight * (score - mean) / deviation
        for score, (mean, deviation, weight) in zip(scores, (LOOKS_SCALE, MADE_SCALE), strict=True)
    )
    return float(1 / (1 + np.exp(-fused)))


def spread_frames(count: int, parts: int, length: int) -> list[int]:
    """Of each of ``parts`` equal parts of ``count`` frames ``length`` frames, every second one, from the part's
    middle; a short clip begins again."""
    part, span = count // parts, length * EVERY
    first = max(0, part - span) // 2
    return [(part * i + first + EVERY * k) % count for i in range(parts) for k in range(length)]


def in_pieces(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures ``(F, 224, 224, 3)`` of 7 x 7 pieces of pictures ``(F, H, W, 3)`` that keep their pixels, each from its
    own cell of a grid and of the same place in all frames; smaller ones are enlarged to 224 pixels."""
    if min(frames.shape[1:3]) < SIDE:
        scale = SIDE / min(frames.shape[1:3])
        size = (round(scale * frames.shape[2]), round(scale * frames.shape[1]))
        frames = np.stack([cv2.resize(frame, size) for frame in frames])
    cells = frames.shape[1] // GRID, frames.shape[2] // GRID
    made = np.empty((len(frames), SIDE, SIDE, 3), np.uint8)
    for row, column in np.ndindex(GRID, GRID):
        top, left = (
            cell * number + int(rng.integers(cell - PIECE + 1))
            for cell, number in zip(cells, (row, column), strict=True)
        )
        place = np.s_[:, PIECE * row : PIECE * (row + 1), PIECE * column : PIECE * (column + 1)]
        made[place] = frames[:, top : top + PIECE, left : left + PIECE]
    return made


def _as_input(pictures: np.ndarray) -> np.ndarray:
    """``(N, 3, F, H, W)`` float32 of pictures ``(N, F, H, W, 3)`` uint8."""
    return normalised(pictures).transpose(0, 4, 1, 2, 3)


def check_dover(recipe: Recipe) -> None:
    """Check the file that a recipe names.

    Raises:
        UserError: if it names none, or one that can't be used.
    """
    if recipe.dover is None:
        raise UserError("its authors publish no ONNX file: name the one that you made in the recipe (dover).")
    load_dover(recipe.dover)
