from itertools import pairwise

import pytest
import torch

from asymtalker import flow


def sample():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return clean, noise, torch.tensor([0.3, 0.9], dtype=torch.float64)


def test_ends_of_the_path():
    clean, noise, _ = sample()
    assert torch.equal(flow.interpolate(clean, noise, torch.zeros(2)), clean)
    assert torch.equal(flow.interpolate(clean, noise, torch.ones(2)), noise)


def test_velocity_gives_back_clean_and_noise():
    clean, noise, sigma = sample()
    noisy = flow.interpolate(clean, noise, sigma)
    velocity = flow.velocity(clean, noise)
    torch.testing.assert_close(flow.clean_from_velocity(noisy, velocity, sigma), clean)
    torch.testing.assert_close(flow.noise_from_velocity(noisy, velocity, sigma), noise)


def test_score_is_that_of_the_gaussian_around_the_clean_point():
    clean, noise, sigma = sample()
    noisy = flow.interpolate(clean, noise, sigma).requires_grad_()
    level = flow.expand(sigma, noisy)
    log_density = (-0.5 * (noisy - (1 - level) * clean).square() / level.square()).sum()
    (expected,) = torch.autograd.grad(log_density, noisy)
    score = flow.score_from_velocity(noisy.detach(), flow.velocity(clean, noise), sigma)
    torch.testing.assert_close(score, expected)


def test_noise_level_per_latent_frame():
    clean, noise, _ = sample()
    sigma = torch.tensor([[0.0, 0.2, 0.2, 1.0]] * 2)
    noisy = flow.interpolate(clean, noise, sigma)
    assert torch.equal(noisy[:, :, 0], clean[:, :, 0])
    assert torch.equal(noisy[:, :, 3], noise[:, :, 3])


def test_euler_on_the_true_velocity_arrives():
    clean, noise, _ = sample()
    sigmas = flow.sampling_sigmas(4, 3.0).double()
    latents = noise
    for sigma, following in pairwise(sigmas):
        latents = latents + (following - sigma) * flow.velocity(clean, noise)
    torch.testing.assert_close(latents, clean)


def test_shift_keeps_the_ends_and_one_changes_nothing():
    sigma = torch.linspace(0, 1, 11)
    torch.testing.assert_close(flow.shift_sigma(sigma, 1.0), sigma)
    shifted = flow.shift_sigma(sigma, 3.0)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    assert (shifted[1:-1] > sigma[1:-1]).all()


def test_training_sigmas_follow_the_generator():
    first, second = (flow.training_sigmas(64, 3.0, 1000, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert 0 < first.min() < first.max() <= 1


def drawn(seed: int, index: int = 0, purpose: str = "step") -> list[float]:
    return torch.rand(4, generator=flow.numbered_generator(seed, index, purpose)).tolist()


def test_numbers_of_a_step_depend_on_seed_index_and_purpose_alone():
    assert drawn(3, 5) == drawn(3, 5)
    assert drawn(3, 5, "chunk") == drawn(3, 5, "chunk")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 0), (0, 2**40)),  # PyTorch's CPU generator keeps 32 bits of a seed
        ((0, 0), (2**32, 0)),
        ((7, 0), (7 + 2**32, 0)),
        ((0, 1), (1, 0)),
        ((1, 12), (11, 2)),
        ((0, 1_000_003), (1, 0)),
        ((-1, 0), (1, 0)),
        ((0, 0, "step"), (0, 0, "chunk")),
        ((1, 0, "step"), (0, 0, "chunk")),
    ],
)
def test_other_seeds_steps_and_purposes_draw_other_numbers(one, other):
    assert drawn(*one) != drawn(*other)


def test_streams_of_neighbouring_seeds_share_no_step():
    purposes = ("step", "extent", "chunk", "held-out", "weights")
    first = [tuple(drawn(seed, index, name)) for seed in range(4) for index in range(20) for name in purposes]
    assert len(set(first)) == len(first)


def test_preconditioning_is_the_linear_estimate_of_latents_of_unit_variance():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 200_000, generator=generator)
    for level in (0.05, 0.4, 0.5, 0.9, 1.0):
        sigma = torch.tensor(level)
        scale, skip = flow.preconditioning(sigma)
        noisy = (1 - sigma) * clean + sigma * noise
        lacks = (noise - clean) - skip * noisy
        assert float((scale * noisy).std()) == pytest.approx(1, abs=0.01)
        assert float((lacks * noisy).mean()) == pytest.approx(0, abs=0.01)
        assert float(lacks.std()) == pytest.approx(float(scale), rel=0.01)
