"""A clip that moves as another does and says what it says."""

from pathlib import Path

import pytest
import torch

import asymtalker
from asymtalker.models.codecs import codec_of, load_codec_network
from asymtalker.models.motion.basis import BROWS, CHIN, INNER_LIPS, LEFT_LIDS, LIPS

VAE = Path(asymtalker.__file__).parent / "assets" / "tiny" / "vae"


@pytest.fixture(scope="module")
def codec():
    return codec_of(load_codec_network(VAE).requires_grad_(False))


@pytest.fixture(scope="module")
def latents(codec):
    """Of the motion that the basis holds, of unit variance, of four clips."""
    return torch.randn(4, codec.channels, 7, 1, 1, generator=torch.Generator().manual_seed(0))


def test_lips_are_a_clips_own_and_head_and_brows_another_ones(codec, latents):
    basis = codec.vae.motion
    others = latents.roll(1, 0)
    made = basis.to_motion(codec.with_motion_of(latents, others, torch.zeros(4, dtype=torch.bool)))
    # what the latents can hold of it
    own, other = (basis.to_motion(basis.of_motion(basis.to_motion(each))) for each in (latents, others))
    n = basis.components

    def moved(motion: torch.Tensor, points: list[int]) -> torch.Tensor:
        change = motion[..., :n] - motion[:, :1, :n]
        return torch.einsum("pck,bfk->bfpc", basis.modes[points], change).flatten(2)

    def like(one: torch.Tensor, two: torch.Tensor) -> float:
        return float((one * two).sum() / (one.norm() * two.norm()))

    for points in ([*LIPS, *INNER_LIPS], list(CHIN)):
        assert like(moved(made, points), moved(own, points)) > 0.98
    assert like(moved(made, list(LEFT_LIDS)), moved(other, list(LEFT_LIDS))) > 0.7
    assert like(moved(made, list(BROWS)), moved(other, list(BROWS))) > 0.4
    turns = slice(n + 3, n + 6)
    assert like(made[..., turns] - made[:, :1, turns], other[..., turns] - other[:, :1, turns]) > 0.98
    torch.testing.assert_close(made[:, 0], own[:, 0], atol=0.05, rtol=0)


@pytest.mark.parametrize("backward", [False, True])
def test_heads_go_about_their_own_portrait_as_the_others_do_about_theirs(codec, latents, backward):
    basis = codec.vae.motion
    others = latents.roll(1, 0)
    portraits = torch.randn(4, codec.channels, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    made = basis.to_motion(
        codec.with_motion_of(latents, others, torch.full((4,), backward), (portraits, portraits.roll(1, 0)))
    )
    turns = slice(basis.components + 3, basis.components + 6)
    rest, start = (basis.to_motion(each)[..., turns] for each in (portraits, portraits.roll(1, 0)))
    wanted = basis.to_motion(others)[..., turns] - start
    wanted = wanted.flip(1) if backward else wanted
    lost = 0.4 if backward else 0.1  # latents hold four frames that go backward less well
    assert (made[..., turns] - rest - wanted).norm() < lost * wanted.norm()


def test_backward_is_the_others_last_frame_first(codec, latents):
    basis = codec.vae.motion
    backward = torch.tensor([True, False, True, False])
    others = latents.roll(1, 0)
    made = basis.to_motion(codec.with_motion_of(latents, others, backward))
    forward = basis.to_motion(codec.with_motion_of(latents, others, torch.zeros(4, dtype=torch.bool)))
    torch.testing.assert_close(made[1::2], forward[1::2])
    turns = slice(basis.components + 3, basis.components + 6)
    other = basis.to_motion(others)[::2, :, turns].flip(1)
    change, wanted = made[::2, :, turns] - made[::2, :1, turns], other - other[:, :1]
    assert float((change * wanted).sum() / (change.norm() * wanted.norm())) > 0.95
    begins = basis.to_motion(latents)[::2, 0, turns]
    torch.testing.assert_close(made[::2, 0, turns] / other.std(), begins / other.std(), atol=0.5, rtol=0)


def test_the_part_that_goes_with_speech_is_a_projection(codec):
    speech = codec.vae.motion.speech()
    torch.testing.assert_close(speech @ speech, speech, atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(speech) < len(speech)


def test_expressions_vary_together_as_those_of_the_latents_do(codec):
    basis = codec.vae.motion
    latents = torch.randn(1, codec.channels, 20_000, 1, 1, generator=torch.Generator().manual_seed(0))
    found = torch.cov(basis.to_motion(latents)[0, :, : basis.components].T)
    assert (basis.covariance() - found).norm() < 0.05 * found.norm()
