"""Teeth: those that a portrait shows stay with its head, and where it shows none they are drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from asymtalker.codec import to_pixels
from asymtalker.models.motion.basis import Pose, fit_basis, rotation_matrix
from asymtalker.models.motion.codec import MotionCodecModel, Portrait
from asymtalker.models.motion.sheet import UNSEEN, render
from asymtalker.models.motion.teeth import Teeth
from moving_face import LOWER_LIPS, SIDE, mesh_points, motion_network, opened, textured_face


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return textured_face()


@pytest.fixture(scope="module")
def points(picture) -> np.ndarray:
    """Of a mouth that is shut, which a drawn one is read not to be."""
    found = mesh_points(picture)
    return opened(found, float(found[13, 1] - found[14, 1]))


@pytest.fixture(scope="module")
def network(points) -> MotionCodecModel:
    return motion_network(points)


@pytest.fixture(scope="module")
def portrait(network, picture, points) -> Portrait:
    return network.portrait(picture, points)


def at(network: MotionCodecModel, points: np.ndarray) -> torch.Tensor:
    return network.motion.motion(torch.from_numpy(points)[None], (SIDE, SIDE))


def test_a_shut_mouth_has_none(network, portrait):
    assert portrait.teeth is not None
    shut = portrait.motion[None]
    assert torch.equal(network.frames(portrait, shut), network.frames(replace(portrait, teeth=None), shut))


def test_they_are_drawn_inside_an_open_mouth_alone(network, portrait, points):
    wide = at(network, opened(points, 14))
    change, _ = network.change(portrait, wide)
    _, unseen = render(portrait.sheet, portrait.texture, change.of(portrait.sheet))
    added = network.frames(portrait, wide) - network.frames(replace(portrait, teeth=None), wide)
    sheet = portrait.sheet
    part = added[:, :, sheet.top : sheet.top + unseen.shape[2], sheet.left : sheet.left + unseen.shape[3]]
    inside = unseen[:, :, : part.shape[2], : part.shape[3]] > UNSEEN
    assert not (part.abs().amax(1, keepdim=True)[~inside] > 1e-6).any()
    assert added.abs().sum() == pytest.approx(float(part.abs().sum()), rel=1e-4)
    lighter = part.mean(1, keepdim=True) > 0.02
    assert lighter.sum() > 30
    rows, within = lighter.nonzero()[:, 2].float().mean(), inside.nonzero()[:, 2].float().mean()
    assert rows < within, "upper teeth hang from above"


def head_with_a_mouth(half: float) -> torch.Tensor:
    """Points of a head whose mouth is so wide on either side."""
    head = torch.zeros(478, 3)
    head[[13, 14, 78, 308]] = torch.tensor([0.02, 0.6, -0.25])
    head[78, 0] -= half
    head[308, 0] += half
    return head


def test_cheeks_shade_the_teeth_beside_the_corners_of_the_mouth():
    """Where a moustache hangs over a corner, teeth as light as those in the middle were a pale wedge on it."""
    narrow, wide = (Teeth.of(head_with_a_mouth(half), 100).drawing[0, 1] for half in (0.15, 0.3))
    middle = narrow.shape[1] // 2
    at = middle + int(0.14 / (0.72 / narrow.shape[1]))
    row = narrow.shape[0] // 2
    assert narrow[row, at] < 0.4 * wide[row, at]
    assert narrow[row, middle + 3] == wide[row, middle + 3]
    torch.testing.assert_close(narrow, narrow.flip(1), atol=1e-4, rtol=0)


def test_they_go_with_the_head():
    """Seen at the same place of the head, the drawing is the same wherever that is; and its midline is where a turned
    head has it."""
    drawn = Teeth.of(head_with_a_mouth(0.3), 100)

    def seen(scale: float, turn: list[float], around: torch.Tensor) -> torch.Tensor:
        pose = Pose(torch.tensor(scale), rotation_matrix(torch.tensor(turn)), torch.tensor([120.0, 90.0, 0.0]))
        flat = scale / 100 * around @ rotation_matrix(torch.tensor([0, 0, turn[2]]))[:2, :2].T
        return drawn.at(pose.apply(drawn.middle[None])[0, :2] + flat, pose)

    steps = torch.arange(-20, 20) + 0.5
    around = torch.stack([steps.expand(40, -1), steps[:, None].expand(-1, 40)], -1)
    first = seen(100.0, [0.0, 0.0, 0.0], around)
    torch.testing.assert_close(seen(200.0, [0.0, 0.0, 0.3], around), first, atol=1e-3, rtol=0)
    assert first[0, 12:18].mean() > 0.8 > 0.1 > first[0, 25:].mean(), "enamel above the edge, none below"
    light = seen(100.0, [0.0, 0.4, 0.0], around)[1, 14]
    assert int(light[15:25].argmin()) + 15 in (19, 20), "two middle teeth meet in the middle"
    torch.testing.assert_close(first, first.flip(2), atol=1e-3, rtol=0)
    assert (light - light.flip(0)).abs().max() > 0.1, "of an arch that is turned one side comes nearer"


def dropped(points: np.ndarray, by: float) -> np.ndarray:
    """Points whose jaw has fallen by so many pixels, with all of the lower lip."""
    moved = points.copy()
    falls = points[:, 1] > points[14, 1] + 0.5
    falls[list(LOWER_LIPS)] = True
    moved[falls, 1] += by
    return moved


def test_teeth_that_a_portrait_shows_stay_with_the_head(picture, points):
    """Its lips are apart; the jaw falls further, and what was between them stays where it was."""
    network = motion_network(points)
    clips = [
        torch.from_numpy(
            np.stack([dropped(points, 5.0 * (k % 5)) + np.array([k % 7, 0, 0], np.float32) for k in range(20)])
        )
    ]
    fit_basis(network.motion, clips, [(SIDE, SIDE)], [1.0])
    apart, wide = dropped(points, 10), dropped(points, 18)
    shown = network.portrait(picture, apart)
    assert shown.teeth is None
    for moved, gap in ((apart, 10), (wide, 18)):
        change, _ = network.change(shown, at(network, moved))
        frame, unseen = render(shown.sheet, shown.texture, change.of(shown.sheet))
        x, y = points[14, :2].round().astype(int)
        between = np.s_[y + 2 : y + 8, x - 6 : x + 7]
        left, top = shown.sheet.left, shown.sheet.top
        there = np.s_[y + 2 - top : y + 8 - top, x - 6 - left : x + 7 - left]
        own = to_pixels(picture[None])[0, :, 0, *between]
        assert (frame[0, :, *there] - own).abs().mean() < 0.1, f"at {gap}"
        assert unseen[0, 0][there].max() < UNSEEN, "nothing is painted over them"
        column = unseen[0, 0, y - top : y - top + 30, x - left]
        assert float(column.sum()) == pytest.approx(gap - 10, abs=1), "below is what the portrait does not show"


def test_lips_that_a_mesh_crosses_part_without_holes(network, picture, points):
    crossed = opened(points, -4)
    portrait = network.portrait(picture, crossed)
    change, pose = network.change(portrait, at(network, opened(crossed, 8)))
    _, inside = network.move_mouth(portrait, change.of(portrait.sheet), pose)
    mask = (inside[0, 0] > 0.5).int()
    assert mask.sum() > 100
    begins = (torch.diff(mask, dim=0, prepend=torch.zeros_like(mask[:1])) == 1).sum(0)
    assert begins.max() == 1, "a column of the mouth is one piece"
