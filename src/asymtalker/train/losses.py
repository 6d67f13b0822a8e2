"""The losses of the teacher (eq. 5): pure functions of tensors."""

from torch import Tensor

WEIGHT_SIGMA = 0.25
"""For a network that predicts clean latents the velocity error is the clean error divided by sigma: below this level
the weight ``1 / sigma^2`` stops growing, so that the few chunks with hardly any noise do not drown the others."""


def flow_matching_loss(velocity: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """``L_FM = E || v - (noise - clean) ||^2`` (eq. 2); of the student's samples it is the critic's loss (eq. 15).

    Args:
        velocity: prediction ``(B, C, T, h, w)``, generated latent frames only.
        target: ``noise - clean`` of the same latent frames.
        weight: per sample ``(B,)``; ``None`` is 1.
    """
    error = (velocity - target).square().flatten(1).mean(1)
    return (error if weight is None else error * weight).mean()


def clean_prediction_weight(sigma: Tensor) -> Tensor:
    """``min(1, sigma / WEIGHT_SIGMA)^2`` of ``(B,)``: the cap on the velocity loss of a clean prediction [ours]."""
    return (sigma / WEIGHT_SIGMA).clamp_max(1).square()


def temporal_consistency_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """``L_tgc = mean | (x_hat[f+1] - x_hat[f]) - (x[f+1] - x[f]) |`` over frames ``(B, 3, F, H, W)`` (eq. 16)."""
    return (decoded.diff(dim=2) - pixels.diff(dim=2)).abs().mean()


def face_focus_loss(decoded: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
    """``L_ff = mean | M (x_hat - x) |`` over frames ``(B, 3, F, H, W)`` (eq. 17); ``mask`` ``(B, 1, F, H, W)``."""
    return (mask * (decoded - pixels)).abs().mean()
