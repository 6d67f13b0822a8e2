"""DOVER: which frames and pieces it is shown, and what becomes of its two scores. Its weights are not at hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asymtalker.curate.framed import FramedClip
from asymtalker.curate.networks import check_networks
from asymtalker.curate.quality import clip_quality, in_pieces, load_dover, spread_frames
from asymtalker.curate.recipe import RECIPES, read_recipe
from asymtalker.curate.watch import PUBLISHED
from asymtalker.dataset.corpus import video_writer
from asymtalker.errors import UserError

MEANS = Path(__file__).with_name("quality") / "means.onnx"


@pytest.fixture
def clip(tmp_path) -> FramedClip:
    """200 frames, each of its own grey: its number, and so as bright as it is late."""
    with (tmp_path / "clip.mp4").open("wb") as file, video_writer(file) as write:
        for number in range(200):
            write(np.full((256, 256, 3), number, np.uint8))
    np.save(tmp_path / "points.npy", np.zeros((200, 478, 3), np.float32))
    return FramedClip(tmp_path)


def test_frames_are_spread_over_the_clip():
    assert spread_frames(320, 32, 1)[:3] == [4, 14, 24]
    runs = np.reshape(spread_frames(600, 3, 32), (3, 32))
    assert (np.diff(runs) == 2).all()
    assert (runs[:, 0] == [68, 268, 468]).all()  # 64 of 200 frames, in the middle
    assert set(spread_frames(20, 3, 32)) == set(range(0, 20, 2)), "a short clip begins again"


def test_pieces_keep_their_pixels_and_their_cells():
    rng = np.random.default_rng(1)
    row, column = np.mgrid[:280, :350]
    frames = np.stack([np.stack([row % 256, column % 256, np.full_like(row, number)], -1) for number in (3, 9)])
    made = in_pieces(frames.astype(np.uint8), rng).astype(int)
    assert made.shape == (2, 224, 224, 3)
    assert (made[0, ..., :2] == made[1, ..., :2]).all()
    assert (made[..., 2] == np.array([3, 9])[:, None, None]).all()
    for i, j in np.ndindex(7, 7):
        piece = made[0, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32]
        top, left = piece[0, 0, 0], piece[0, 0, 1]
        assert (piece[..., 0] == (top + np.arange(32)[:, None]) % 256).all()
        assert (piece[..., 1] == (left + np.arange(32)) % 256).all()
        assert (top - 40 * i) % 256 <= 40 - 32
        assert (left - 50 * j) % 256 <= 50 - 32
    assert len(np.unique(made[0, ::32, ::32, 1] - 50 * np.arange(7))) > 1, "places are drawn"
    assert in_pieces(np.full((2, 100, 100, 3), 7, np.uint8), rng).shape == (2, 224, 224, 3)


def test_what_the_network_sees_and_how_its_scores_are_fused(clip):
    seen = {}

    def judge(looks, made):
        seen.update(looks=looks, made=made)
        return -0.08285, 0.1107 + 0.07355

    quality = clip_quality(judge, 3, clip)
    assert quality == pytest.approx(1 / (1 + np.exp(-0.6104)))
    assert clip_quality(lambda looks, made: (-0.08285 + 0.03774, 0.1107), 3, clip) == pytest.approx(
        1 / (1 + np.exp(-0.3896))
    )
    assert (seen["looks"].shape, seen["made"].shape) == ((1, 3, 32, 224, 224), (3, 3, 32, 224, 224))
    red, _, blue = seen["looks"][0].mean((2, 3))
    assert red * 58.395 + 123.675 == pytest.approx(spread_frames(200, 32, 1), abs=2)
    assert blue * 57.375 + 103.53 == pytest.approx(spread_frames(200, 32, 1), abs=2)
    made = seen["made"][:, 1].mean((2, 3)) * 57.12 + 116.28
    assert made.ravel() == pytest.approx(spread_frames(200, 3, 32), abs=2)


def test_a_clip_has_one_score(monkeypatch, clip):
    noise = np.random.default_rng(0).integers(0, 256, (200, 260, 260, 3)).astype(np.uint8)
    monkeypatch.setattr(FramedClip, "frames", lambda clip: iter(noise))
    seen = []
    for _ in range(2):
        clip_quality(lambda looks, made: seen.append(made) or (0.0, 0.0), 3, clip)
    assert np.array_equal(*seen), "places that are drawn are the same"


def test_a_stage_of_the_file_that_a_recipe_names(clip, tmp_path):
    (tmp_path / "own.toml").write_text(f'networks = ["dover"]\ndover = "{MEANS}"\nleast_quality = 0.3\n')
    recipe = read_recipe(str(tmp_path / "own.toml"))
    assert check_networks(recipe) == {}
    PUBLISHED["dover"](clip, recipe, 0.0)
    record = PUBLISHED["dover"].record(clip.folder, recipe, 0.0)
    assert record is not None
    judge, pieces = load_dover(str(MEANS))
    assert pieces == 3
    assert record["scores"] == {"quality": pytest.approx(clip_quality(judge, pieces, clip), abs=1e-6)}
    assert judge(np.full((1, 3, 32, 224, 224), 2, np.float32), np.full((3, 3, 32, 224, 224), 5, np.float32)) == (2, 5)
    assert PUBLISHED["dover"].record(clip.folder, replace(recipe, dover="other.onnx"), 0.0) is None


def test_a_file_that_is_not_dover_is_one_sentence(tmp_path):
    recipe = replace(RECIPES["tiny"], networks=("dover",), missing="stop")
    with pytest.raises(UserError, match="needs dover: its authors publish no ONNX file: name"):
        check_networks(recipe)
    with pytest.raises(UserError, match=r"There is no file .*none\.onnx"):
        check_networks(replace(recipe, dover=str(tmp_path / "none.onnx")))
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match="is not DOVER"):
        check_networks(replace(recipe, dover=str(tmp_path / "text.onnx")))
