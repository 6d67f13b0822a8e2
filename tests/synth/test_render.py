"""Rendered heads: determinism, lips, lids and mask."""

import numpy as np
import pytest

from asymtalker.synth.identity import random_identity
from asymtalker.synth.mesh import BLENDSHAPES
from asymtalker.synth.pose import Pose
from asymtalker.synth.render import Renderer
from face_weights import weights

pytest.importorskip("vtk")
SIZE = 96


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(SIZE)


def test_face_units_are_the_52_of_arkit():
    assert len(BLENDSHAPES) == len(set(BLENDSHAPES)) == 52


@pytest.mark.parametrize("texture", ["natural", "procedural"])
def test_same_seed_gives_the_same_picture_bit_for_bit(renderer, texture):
    pictures = []
    for _ in range(2):
        renderer.load(random_identity(11, texture=texture))
        pictures.append(renderer.frame(weights(jawOpen=0.4), Pose(yaw=5)).picture)
        renderer.load(random_identity(12))
    assert pictures[0].shape == (SIZE, SIZE, 3)
    assert pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_different_seeds_give_different_heads(renderer):
    renderer.load(random_identity(1))
    first = renderer.frame(weights(), Pose()).picture.astype(int)
    renderer.load(random_identity(2))
    assert np.abs(first - renderer.frame(weights(), Pose()).picture).mean() > 5


def test_jaw_raises_aperture_and_closure_lowers_it(renderer):
    renderer.load(random_identity(3))
    apertures = [renderer.frame(weights(jawOpen=amount), Pose()).lip_aperture for amount in np.linspace(0, 1, 6)]
    assert apertures[0] < 0.01
    assert (np.diff(apertures) > 0).all()
    assert apertures[-1] > 0.2
    assert renderer.frame(weights(jawOpen=0.6, mouthClose=0.6), Pose()).lip_aperture < 0.02


def test_mask_covers_the_face_and_follows_it(renderer):
    renderer.load(random_identity(4))
    rest, moved = (renderer.frame(weights(), pose).mask for pose in (Pose(), Pose(x=0.1)))
    assert set(np.unique(rest)) == {0, 255}
    rows, columns = np.nonzero(rest)
    assert 0.15 < (rest > 0).mean() < 0.45
    assert abs(columns.mean() / SIZE - 0.5) < 0.08
    assert abs(rows.mean() / SIZE - 0.5) < 0.12
    assert np.nonzero(moved)[1].mean() > columns.mean() + 2


def test_a_blink_changes_only_the_eyes(renderer):
    renderer.load(random_identity(5))
    rest = renderer.frame(weights(), Pose()).picture.astype(int)
    blink = renderer.frame(weights(eyeBlinkLeft=1, eyeBlinkRight=1), Pose()).picture.astype(int)
    rows = np.nonzero(np.abs(rest - blink).max(2) > 12)[0]
    assert len(rows) > 20
    assert rows.min() > 0.2 * SIZE
    assert rows.max() < 0.6 * SIZE


def test_frame_before_load_is_a_programming_error():
    with pytest.raises(RuntimeError):
        Renderer(16).frame(weights(), Pose())
