import torch

from asymtalker import flow
from asymtalker.distill.losses import anchor_loss, distribution_gradient, distribution_matching_loss


def latents(seed: int):
    return torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gradient_is_the_weighted_difference_of_scores():
    generated, noise, fake, real = (latents(seed) for seed in range(4))
    sigma = torch.tensor([0.3, 0.8], dtype=torch.float64)
    noisy = flow.interpolate(generated, noise, sigma)
    scores = [flow.score_from_velocity(noisy, velocity, sigma) for velocity in (fake, real)]
    clean_fake, clean_real = (flow.clean_from_velocity(noisy, velocity, sigma) for velocity in (fake, real))
    level = flow.expand(sigma, noisy)
    mean = (generated - clean_real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    expected = level.square() / (1 - level) / mean * (scores[0] - scores[1])
    torch.testing.assert_close(distribution_gradient(generated, clean_fake, clean_real), expected)


def test_agreeing_scores_move_nothing():
    generated, clean = latents(0), latents(1)
    assert not distribution_gradient(generated, clean, clean).any()


def test_the_loss_hands_the_gradient_to_the_student_unchanged():
    generated, gradient = latents(0).requires_grad_(), latents(1)
    distribution_matching_loss(generated, gradient).backward()
    torch.testing.assert_close(generated.grad, gradient / generated.numel())


def test_a_step_moves_samples_from_the_critic_to_the_teacher():
    generated, fake, real = latents(0), latents(0) - 0.1, latents(0) + 0.5
    moved = generated - distribution_gradient(generated, fake, real)
    assert (moved > generated).all()


def test_the_anchor_is_square_near_and_linear_far():
    zero = torch.zeros(1, 1, 1, 1, 1)
    assert anchor_loss(zero, zero, 0.1) == 0
    torch.testing.assert_close(anchor_loss(zero + 1e-3, zero, 0.1), torch.tensor(1e-6 / 0.2), rtol=1e-2, atol=0)
    torch.testing.assert_close(anchor_loss(zero + 50, zero, 0.1), torch.tensor(49.9), rtol=1e-4, atol=0)


def test_nothing_hides_a_value_that_is_not_finite():
    broken = latents(0)
    broken[0, 0, 0, 0, 0] = float("nan")
    assert distribution_gradient(latents(1), latents(2), broken).isnan().any()
