"""A head shuts its eyes now and then, and nothing else changes by it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import asymtalker
from asymtalker.codec import to_frames, to_pixels
from asymtalker.media.face_mesh import find_face
from asymtalker.media.face_readings import lid_openings, lip_aperture
from asymtalker.models.codecs import codec_of, load_codec_network
from asymtalker.models.motion.blinks import APART, LEAST_GAP, OWN, SHAPE, Blinks, unless_own

ASSETS = Path(asymtalker.__file__).parent / "assets"


def test_eyes_are_shut_and_lips_stay():
    picture = np.asarray(Image.open(ASSETS / "demo" / "portrait.png").convert("RGB").resize((256, 256)))
    codec = codec_of(load_codec_network(ASSETS / "tiny" / "vae"))
    pixels = to_pixels(picture[None])
    with torch.no_grad():
        latents = codec.encode(pixels.expand(-1, -1, 9, -1, -1))
        plain = torch.cat(list(codec.decode_frames(latents, 5, 9, pixels, None)), 2)
        closing = torch.zeros(4)
        closing[2] = 1
        parts = list(codec.decode_frames(latents, 5, 9, pixels, None, closing))
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
    one, other = Blinks(1), Blinks(2)
    whole = Blinks(1).closing(range(frames))
    pieces = torch.cat([one.closing(range(at, min(at + 6, frames))) for at in range(0, frames, 6)])
    assert torch.equal(pieces, whole)
    assert torch.equal(one.closing(range(frames - 40, frames - 20)), whole[-40:-20]), "some frames are made twice"
    assert not torch.equal(other.closing(range(frames)), whole)
    begins = np.flatnonzero((whole[1:] > 0) & (whole[:-1] == 0))
    assert 9 < len(begins) / 10 < 18, "a minute"
    assert np.diff(begins).min() >= 25 * LEAST_GAP - len(SHAPE)
    assert whole.max() == 1
    assert len(one._begins) < 20


def test_no_blink_is_given_beside_one_of_the_models_own():
    closing = torch.zeros(120)
    closing[10:17], closing[80:87] = torch.tensor(SHAPE), torch.tensor(SHAPE)
    closed = torch.zeros(128)  # eight frames more, of the chunk before
    closed[8 + 80 - APART] = OWN + 0.1
    left = unless_own(closing, closed, 8)
    assert torch.equal(left[:80], closing[:80])
    assert not left[80:].any()
    closed[8 + 80 - APART] = 0
    closed[8 + 80 - APART - 1] = OWN + 0.1
    assert torch.equal(unless_own(closing, closed, 8), closing), "far enough away"
    closed[:] = OWN - 0.1
    assert torch.equal(unless_own(closing, closed, 8), closing), "no blink"
    closing[118:] = torch.tensor(SHAPE[:2])
    closed[127] = 1
    assert not unless_own(closing, closed, 8)[118:].any(), "one that goes on in the next chunk"


def test_the_codec_leaves_out_blinks_beside_its_own():
    """Lids are as the latents have them where these shut them."""
    codec = codec_of(load_codec_network(ASSETS / "tiny" / "vae"))
    picture = np.asarray(Image.open(ASSETS / "demo" / "portrait.png").convert("RGB").resize((256, 256)))
    pixels = to_pixels(picture[None])
    portrait = codec.vae.portrait(picture, codec._points(picture))
    shutting = portrait.lids[:, 0] / portrait.lids[:, 0].square().sum()
    motion = portrait.motion.repeat(1, 9, 1)
    motion[0, 5:7, : len(shutting)] += shutting
    latents = codec.vae.motion.of_motion(motion)
    with torch.no_grad():
        plain = torch.cat(list(codec.decode_frames(latents, 1, 9, pixels, None)), 2)
        given = torch.cat(list(codec.decode_frames(latents, 1, 9, pixels, None, torch.tensor([*SHAPE, 0]))), 2)
    assert torch.equal(given, plain)
