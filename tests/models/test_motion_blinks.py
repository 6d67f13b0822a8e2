"""A head shuts its eyes now and then, and nothing else changes by it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import asymtalker
from asymtalker.codec import to_frames, to_pixels
from asymtalker.media.face_mesh import find_face
from asymtalker.media.face_readings import lid_openings, lip_aperture
from asymtalker.models.codecs import codec_of, load_codec_network
from asymtalker.models.motion.blinks import APART, LEAST_GAP, OWN, SHAPE, Blinks
from asymtalker.timeline import chunk_spans, live_span

ASSETS = Path(asymtalker.__file__).parent / "assets"


@pytest.fixture(scope="module")
def picture():
    return np.asarray(Image.open(ASSETS / "demo" / "portrait.png").convert("RGB").resize((256, 256)))


@pytest.fixture
def codec():
    return codec_of(load_codec_network(ASSETS / "tiny" / "vae"))


def closing_at(begin: int) -> Blinks:
    """One blink that begins there."""
    blinks = Blinks(0)
    blinks._begins = [begin, 10_000]
    return blinks


def lids(codec, picture, frames: int, *, shut: range):
    """Latents of the portrait at rest that shuts its eyes itself in some frames."""
    portrait = codec.vae.portrait(picture, codec._points(picture))
    shutting = portrait.lids[:, 0] / portrait.lids[:, 0].square().sum()
    motion = portrait.motion.repeat(1, frames, 1)
    motion[0, shut.start : shut.stop, : len(shutting)] += shutting
    return codec.vae.motion.of_motion(motion)


def test_eyes_are_shut_and_lips_stay(codec, picture):
    pixels = to_pixels(picture[None])
    with torch.no_grad():
        latents = codec.encode(pixels.expand(-1, -1, 9, -1, -1))
        plain = torch.cat(list(codec.decode_frames(latents, 5, 9, pixels, None)), 2)
        parts = list(codec.decode_frames(latents, 5, 9, pixels, None, lambda _: torch.tensor([0.0, 0.0, 1.0, 0.0])))
    made = to_frames(torch.cat(parts, 2))
    others = np.abs(made.astype(int) - to_frames(plain))[[0, 1, 3]]
    assert others.max() <= 1, "other frames are as they were"
    before, shut = (find_face(frame) for frame in (made[1], made[2]))
    assert before is not None
    assert shut is not None
    assert (lid_openings(shut.points) < 0.55 * lid_openings(before.points)).all()
    assert abs(lip_aperture(shut.points) - lip_aperture(before.points)) < 0.02
    changed = np.abs(made[2].astype(int) - to_frames(plain)[2]).max(-1).max(1) > 8  # by row
    eyes = before.points[[33, 263, 159, 386], 1]
    assert np.flatnonzero(changed).max() < eyes.max() + 25


def test_blinks_come_now_and_then_and_are_the_seeds_own():
    frames = 25 * 600

    def closing(blinks, of):
        return blinks.closing(of, 0, torch.zeros(len(of)))

    one, other = Blinks(1), Blinks(2)
    whole = closing(Blinks(1), range(frames))
    pieces = torch.cat([closing(one, range(at, min(at + 6, frames))) for at in range(0, frames, 6)])
    assert torch.equal(pieces, whole)
    assert torch.equal(closing(one, range(frames - 40, frames - 20)), whole[-40:-20]), "some frames are made twice"
    assert not torch.equal(closing(other, range(frames)), whole)
    begins = np.flatnonzero((whole[1:] > 0) & (whole[:-1] == 0))
    assert 9 < len(begins) / 10 < 18, "a minute"
    assert np.diff(begins).min() >= 25 * LEAST_GAP - len(SHAPE)
    assert whole.max() == 1
    assert len(one._begins) < 20
    assert len(one._given) < 20


@pytest.mark.parametrize(("away", "given"), [(APART, False), (APART + 1, True)])
@pytest.mark.parametrize("before", [True, False])
def test_no_blink_is_given_beside_one_of_the_models_own(before, away, given):
    frames = range(1000, 1120)
    closed = torch.full((128,), OWN - 0.1)  # eight frames more, of the chunk before
    blink = 1060
    own = blink - away if before else blink + len(SHAPE) - 1 + away
    closed[8 + own - frames.start] = OWN + 0.1
    left = closing_at(blink).closing(frames, 8, closed)
    shown = torch.zeros(120)
    shown[60:67] = torch.tensor(SHAPE)
    assert torch.equal(left, shown if given else torch.zeros(120))


@pytest.mark.parametrize("spans", [chunk_spans(3000, 73, 5), (live_span(i, 6 * i, 6, 13, 5) for i in range(500))])
def test_a_blink_is_given_whole_or_not_at_all_whatever_a_chunk_knows(spans):
    closed, blinks = torch.zeros(3100), Blinks(3)
    for own in range(50, 3000, 90):
        closed[own : own + 4] = 0.7
    shown = torch.cat(
        [blinks.closing(span.new, span.new.start - span.start, closed[span.start : span.stop]) for span in spans]
    )
    wanted = Blinks(3).closing(range(3000), 0, torch.zeros(3000))
    edges = torch.nn.functional.pad((wanted > 0).int(), (1, 1)).diff()
    starts, stops = ((edges == sign).nonzero().flatten().tolist() for sign in (1, -1))
    given = [bool(shown[first:stop].any()) for first, stop in zip(starts, stops, strict=True)]
    assert len(set(given)) == 2, "some are given and some are left out"
    for first, stop, whole in zip(starts, stops, given, strict=True):
        assert torch.equal(shown[first:stop], wanted[first:stop] * whole), "a blink is cut"


def test_the_codec_leaves_out_blinks_beside_its_own(codec, picture):
    """Lids are as the latents have them where these shut them."""
    pixels, latents = to_pixels(picture[None]), lids(codec, picture, 9, shut=range(5, 7))
    known = []

    def closing(closed):
        known.append(closed)
        return closing_at(101).closing(range(101, 109), 1, closed)

    with torch.no_grad():
        plain = torch.cat(list(codec.decode_frames(latents, 1, 9, pixels, None)), 2)
        given = torch.cat(list(codec.decode_frames(latents, 1, 9, pixels, None, closing)), 2)
    assert (known[0] > OWN).tolist() == [frame in (5, 6) for frame in range(9)], "not all frames, or others"
    assert torch.equal(given, plain)
