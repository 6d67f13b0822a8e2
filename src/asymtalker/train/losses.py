"""The losses of the teacher (eq. 5): pure functions of tensors."""

from torch import Tensor


def flow_matching_loss(
    velocity: Tensor, target: Tensor, weight: Tensor | None = None, focus: Tensor | None = None
) -> Tensor:
    """``L_FM = E || v - (noise - clean) ||^2`` (eq. 2); of the student's samples it is the critic's loss (eq. 15).

    Args:
        velocity: prediction ``(B, C, T, h, w)``, generated latent frames only.
        target: ``noise - clean`` of the same latent frames.
        weight: per sample ``(B,)``; ``None`` is 1.
        focus: per latent cell ``(B, 1, T, h, w)``; ``None`` is 1.
    """
    error = (velocity - target).square()
    error = (error if focus is None else error * focus).flatten(1).mean(1)
    return (error if weight is None else error * weight).mean()


def clean_prediction_weight(sigma: Tensor) -> Tensor:
    """``sigma^2`` of ``(B,)`` [ours]: turns the velocity error of a network that predicts clean latents into the error
    of the clean latents themselves. Without it the few chunks with little noise, where the same error counts
    ``1 / sigma^2`` times, drown those with much noise, where the sound decides what the lips do."""
    return sigma.square()


def temporal_consistency_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """``L_tgc = mean | (x_hat[f+1] - x_hat[f]) - (x[f+1] - x[f]) |`` over frames ``(B, 3, F, H, W)`` (eq. 16)."""
    return (decoded.diff(dim=2) - pixels.diff(dim=2)).abs().mean()


def face_focus_loss(decoded: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
    """``L_ff = mean | M (x_hat - x) |`` over frames ``(B, 3, F, H, W)`` (eq. 17); ``mask`` ``(B, 1, F, H, W)``."""
    return (mask * (decoded - pixels)).abs().mean()
