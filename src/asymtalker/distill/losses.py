"""The losses of asymmetric knowledge distillation (eq. 6-15): pure functions of tensors.

All take ``(B, C, T, h, w)`` tensors of generated latent frames only; the given head is cut off by the caller.
"""

import torch
from torch import Tensor


def distribution_gradient(generated: Tensor, clean_fake: Tensor, clean_real: Tensor) -> Tensor:
    """``grad = w(sigma) (s_fake - s_real)`` (eq. 13), the direction in which the student's samples are too likely.

    A score is ``s = -noise_hat / sigma`` (eq. 12), so at one noisy point
    ``s_fake - s_real = (1 - sigma) / sigma^2 (clean_fake - clean_real)``. The weight, DMD's, is
    ``w = sigma^2 / (1 - sigma) / mean | generated - clean_real |`` with the mean over each sample: it makes the
    gradient alike in size at all noise levels.

    Args:
        generated: the student's clean latents.
        clean_fake: clean prediction of the critic at the noisy point.
        clean_real: clean prediction of the teacher there.
    """
    scale = (generated - clean_real).abs().flatten(1).mean(1).view(-1, 1, 1, 1, 1)
    return (clean_fake - clean_real) / scale


def distribution_matching_loss(generated: Tensor, gradient: Tensor) -> Tensor:
    """``0.5 mean || z_hat - sg(z_hat - grad) ||^2`` (eq. 6): its gradient in ``z_hat`` is ``grad / N``."""
    target = (generated - gradient).detach()
    return 0.5 * (generated - target).square().mean()


def anchor_loss(generated: Tensor, clean: Tensor, scale: float) -> Tensor:
    """``L_reg = mean(sqrt((z_hat - z)^2 + c^2) - c)``, pseudo-Huber with ``c = scale`` (eq. 7) [form ours]."""
    return (torch.sqrt((generated - clean).square() + scale**2) - scale).mean()
