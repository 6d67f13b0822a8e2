"""More or less motion, eyes on the camera, no blinks: what changes, and what must not."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import asymtalker
from asymtalker.errors import UserError
from asymtalker.media.face_mesh import LOWER_LIP, UPPER_LIP
from asymtalker.models.codecs import load_codec_network
from asymtalker.models.motion.basis import (
    CHIN,
    INNER_LIPS,
    LEFT_LIDS,
    RIGHT_LIDS,
    Pose,
    rotation_matrix,
    rotation_vector,
)
from asymtalker.models.motion.control import (
    IRISES,
    LOWER_LIDS,
    MOVING_PARTED_AT,
    PARTED_AT,
    PARTED_FROM,
    SHUT,
    SHUT_AT,
    UPPER_LIDS,
    MotionControl,
    lids_closing,
    lips_parting,
    rest_lips,
    shut_lips,
)
from moving_face import SIDE, mesh_points, motion_network, opened, textured_face

BROW = 105
JAW = (136, 150, 172, 365, 379, 397)


@pytest.fixture(scope="module")
def picture():
    return textured_face()


@pytest.fixture(scope="module")
def points(picture):
    return mesh_points(picture)


@pytest.fixture(scope="module")
def network(points):
    return motion_network(points)


def frames(network, picture, points, control, motion):
    return network.frames(network.portrait(picture, points, control), motion[None])


def turned(points, angle: float, lips: float):
    """Points of the face turned to the picture's left, its mouth opened."""
    turn = rotation_matrix(torch.tensor([0.0, angle, 0.0])).numpy()
    middle = points.mean(0)
    return torch.from_numpy((opened(points, lips) - middle) @ turn.T + middle + [6, 0, 0]).float()


def test_without_motion_the_head_rests_and_the_lips_speak(network, picture, points):
    read = network.motion.motion
    rests, speaks = read(torch.from_numpy(points), (SIDE, SIDE)), read(turned(points, 0.2, 10), (SIDE, SIDE))
    only_lips = torch.cat([speaks[:-6], rests[-6:]])
    made = frames(network, picture, points, MotionControl(motion=0), speaks)
    wanted = frames(network, picture, points, MotionControl(), only_lips)
    torch.testing.assert_close(made, wanted, atol=2e-3, rtol=0)
    assert (made - frames(network, picture, points, MotionControl(), rests)).abs().max() > 0.2, "the lips speak"


def test_twice_the_motion_is_twice_as_far_from_the_portrait():
    start = Pose(torch.tensor(90.0), rotation_matrix(torch.tensor([0.1, 0.0, 0.0])), torch.tensor([70.0, 80.0, 0.0]))
    turn = torch.tensor([0.0, 0.2, -0.1])
    made = Pose(torch.tensor(99.0), rotation_matrix(turn) @ start.rotation, torch.tensor([75.0, 78.0, 0.0]))
    far = MotionControl(motion=2.0).pose(start, made)
    torch.testing.assert_close(rotation_vector(far.rotation @ start.rotation.T), 2 * turn, atol=1e-5, rtol=0)
    torch.testing.assert_close(far.place, torch.tensor([80.0, 76.0, 0.0]))
    torch.testing.assert_close(far.scale, torch.tensor(90 * 1.1**2))
    assert MotionControl().pose(start, made) is made


def test_lips_lids_and_eyes_move_as_they_were_made(network):
    made = network.motion.modes
    for motion in (0.0, 2.0):
        modes = MotionControl(motion=motion).modes(network.motion, network.motion.face)[..., :-1]
        for points in (INNER_LIPS, IRISES, CHIN, JAW, LEFT_LIDS, RIGHT_LIDS):
            assert torch.equal(modes[list(points)], made[list(points)])
        torch.testing.assert_close(modes[BROW], motion * made[BROW])


def test_without_blinks_the_lids_rest(network):
    modes = MotionControl(blinks=False).modes(network.motion, network.motion.face)
    lids = [*LEFT_LIDS, *RIGHT_LIDS]
    assert not modes[lids].any()
    others = np.setdiff1d(np.arange(478), lids)
    assert torch.equal(modes[others][..., :-1], network.motion.modes[others])
    assert not modes[others][..., -1].any()


@pytest.mark.parametrize("opening", [0.6, 1.0, 1.5])
def test_lids_that_close_by_half_shut_and_those_that_hardly_close_do_not(network, opening):
    """Of eyes that are narrower or wider than the mean face's too."""
    basis, control = network.motion, MotionControl()
    head = basis.face.clone()
    middle = (head[UPPER_LIDS] + head[LOWER_LIDS]) / 2
    for lids in (UPPER_LIDS, LOWER_LIDS):
        head[lids] = middle + opening * (head[lids] - middle)
    lids = lids_closing(basis, head)
    torch.testing.assert_close(lids[:, 0], opening * lids[:, 1])
    still = Pose(torch.tensor(1.0), torch.eye(3), torch.zeros(3))

    def gap(closed: float) -> float:
        """Left of the head's own, as it is seen, where the mean face's lids would have closed by so much."""
        change = closed * lids[:, 0] / lids[:, 0].square().sum()
        moved = head + control.modes(basis, head) @ control.expression(change[None], lids, still, still)[0]
        way = basis.face[LOWER_LIDS] - basis.face[UPPER_LIDS]
        now, own = (
            ((points[LOWER_LIDS] - points[UPPER_LIDS]) * way).sum(-1) / way.norm(dim=-1) for points in (moved, head)
        )
        return float(now.sum() / own.sum())

    assert gap(0.1) == pytest.approx(1 - 0.1 / opening, abs=1e-3)
    assert gap(-0.3) == pytest.approx(1 + 0.3 / opening, abs=1e-3)
    assert gap(SHUT_AT) == pytest.approx(1 - SHUT, abs=0.02)
    gaps = [gap(step / 50) for step in range(30)]
    assert all(after <= before for before, after in pairwise(gaps[:25])), "lids open where they should close"


@pytest.mark.parametrize("given", [False, True])
def test_parted_lips_rest_shut_as_they_usually_shut_and_nearly_shut_ones_stay(given):
    basis = load_codec_network(Path(asymtalker.__file__).parent / "assets" / "tiny" / "vae").motion
    parting, usual = lips_parting(basis, basis.face)
    generator = torch.Generator().manual_seed(0)
    motion = torch.randn(7, basis.components + 6, generator=generator) * basis.noise
    says = usual + motion[:, : basis.components] @ parting
    gaps = torch.tensor([-0.05, 0.0, PARTED_FROM, (PARTED_FROM + PARTED_AT) / 2, PARTED_AT, 0.12, 0.3])
    motion[:, : basis.components] += (gaps - says)[:, None] * parting / parting.square().sum()
    own = gaps + 0.04 if given else gaps  # more than a motion says, as of a mouth that no expression has
    less = motion - rest_lips(basis, motion, own if given else None)
    shut = less[:, : basis.components] @ parting
    wide = own >= PARTED_AT
    torch.testing.assert_close(shut[wide], own[wide])
    assert (shut[own <= PARTED_FROM] == 0).all()
    assert (shut.diff() > -1e-6).all(), "the wider the lips are parted the further they close"
    assert (less[:, basis.components :] == 0).all(), "the head stays"
    moved = basis.modes @ less[-1, : basis.components]
    assert moved[[*CHIN]].norm(dim=-1).mean() > 0.1 * own[-1], "the jaw goes along"


@pytest.mark.parametrize("own", [0.0, 0.04, 0.2])
def test_lips_that_are_almost_shut_are_shown_shut(network, own):
    """But not those that the portrait has so, and no lips are opened, or turned inside out."""
    basis = network.motion
    head, way = basis.face.clone(), basis.face[LOWER_LIP] - basis.face[UPPER_LIP]
    way = way / way.norm()
    head[LOWER_LIP] = head[UPPER_LIP] + own * way
    lips = lips_parting(basis, head)
    torch.testing.assert_close(lips[1], torch.tensor(own))

    def seen(gap: float) -> float:
        change = (gap - own) * lips[0] / lips[0].square().sum()
        points = head + basis.modes @ shut_lips(change[None], lips)[0]
        return float((points[LOWER_LIP] - points[UPPER_LIP]) @ way)

    assert seen(own) == pytest.approx(own, abs=1e-5), "a video begins with its portrait"
    assert seen(MOVING_PARTED_AT + 0.01) == pytest.approx(MOVING_PARTED_AT + 0.01, abs=1e-5)
    if own != 0.04:
        assert seen(PARTED_FROM) == pytest.approx(0, abs=1e-5)
        half = (PARTED_FROM + MOVING_PARTED_AT) / 2
        assert seen(half) == pytest.approx(half / 2, abs=1e-5)
    gaps = [seen(step / 500) for step in range(60)]
    assert all(before <= after + 1e-6 for before, after in pairwise(gaps)), "lips close where they should open"
    assert min(gaps) > -1e-6


def test_shutting_lips_leaves_the_rest_of_the_face():
    basis = load_codec_network(Path(asymtalker.__file__).parent / "assets" / "tiny" / "vae").motion
    lips = lips_parting(basis, basis.face)[0], torch.tensor(0.0)
    change = PARTED_FROM * lips[0] / lips[0].square().sum()
    moved = (basis.modes @ (shut_lips(change[None], lips)[0] - change)).norm(dim=-1)
    assert moved[[LOWER_LIP, UPPER_LIP]].min() > 5 * moved[[BROW, *LEFT_LIDS, *RIGHT_LIDS]].max()


def test_eyes_on_the_camera_turn_against_the_head(network, picture, points):
    control = MotionControl(gaze="camera")
    portrait = network.portrait(picture, points, control)
    modes = control.modes(network.motion, network.motion.face)
    left = network.motion.motion(turned(points, 0.2, 0), (SIDE, SIDE))[None]
    motion, _ = network.change(portrait, left)
    irises = modes[list(IRISES)] @ motion.expression[0]
    assert irises[:, 0].min() > 0.02, "the head turns to the picture's left, the eyes in it to the right"
    assert irises[:, 1:].abs().max() < 0.01
    still, _ = network.change(portrait, portrait.motion[None])
    assert (modes[list(IRISES)] @ still.expression[0]).abs().max() < 1e-5


@pytest.mark.parametrize("motion", [-0.1, 2.5, float("nan")])
def test_a_motion_out_of_range_is_refused(motion):
    with pytest.raises(UserError, match="--motion must be between 0 and 2"):
        MotionControl(motion=motion)


def test_eyes_on_the_camera_are_seen_to_turn(network, picture, points):
    """What is between the lids goes with the irises, not with the lower lids."""
    left = network.motion.motion(turned(points, 0.2, 0), (SIDE, SIDE))
    free, fixed = (frames(network, picture, points, MotionControl(gaze=gaze), left)[0] for gaze in ("free", "camera"))
    eyes = (turned(points, 0.2, 0)[list(IRISES), :2].round().long()).T
    change = (free - fixed).abs().amax(0)
    assert change[eyes[1], eyes[0]].max() > 0.2
    assert change[eyes[1].max() + 40 :].max() < 0.02, "the rest of the face"
