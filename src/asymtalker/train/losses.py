"""The losses of the teacher (eq. 5): pure functions of tensors and, for those on decoded frames, of the codec."""

import torch
from torch import Tensor

from asymtalker import timeline
from asymtalker.codec import Codec

LEAD_LATENTS = 2  # ground-truth latent frames decoded before the window of the pixel losses


def flow_matching_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """``L_FM = E || v - (noise - clean) ||^2`` (eq. 2); of the student's samples it is the critic's loss (eq. 15).

    Args:
        velocity: prediction ``(B, C, T, h, w)``, generated latent frames only.
        target: ``noise - clean`` of the same latent frames.
    """
    return (velocity - target).square().mean()


def temporal_consistency_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """``L_tgc = mean | (x_hat[f+1] - x_hat[f]) - (x[f+1] - x[f]) |`` over frames ``(B, 3, F, H, W)`` (eq. 16)."""
    return (decoded.diff(dim=2) - pixels.diff(dim=2)).abs().mean()


def face_focus_loss(decoded: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
    """``L_ff = mean | M (x_hat - x) |`` over frames ``(B, 3, F, H, W)`` (eq. 17); ``mask`` ``(B, 1, F, H, W)``."""
    return (mask * (decoded - pixels)).abs().mean()


def decoded_frames(first: int, stop: int) -> tuple[int, int]:
    """Frames of the chunk that latent frames ``[first, stop)`` decode to, with the one before them if there is one."""
    start = timeline.frames_of_latents(first) - 1 if first else 0
    return start, timeline.frames_of_latents(stop)


def pixel_losses(
    codec: Codec, predicted: Tensor, clean: Tensor, mask: Tensor, first: int, stop: int
) -> dict[str, Tensor]:
    """``L_tgc`` and ``L_ff`` of eq. 5 on latent frames ``[first, stop)``, decoded after a short true lead-in.

    Decoding a causal chunk up to a window costs as much as the window is late. So the window is decoded behind
    ``LEAD_LATENTS`` ground-truth latent frames instead of all of them, and stands against ``D(z)`` of the same latent
    frames decoded the same way instead of ``x``: what the short lead-in changes, and the codec's own error, which no
    prediction can remove, then cancel, and both losses are 0 exactly for the true latents.

    Args:
        codec: the frozen codec.
        predicted: clean prediction ``(B, C, T, h, w)`` with gradient.
        clean: ground truth.
        mask: face masks ``(B, 1, f, H, W)`` of :func:`decoded_frames`.
        first: first predicted latent frame.
        stop: one past the last.
    """
    lead = clean[:, :, max(0, first - LEAD_LATENTS) : first]
    num_frames = mask.shape[2]
    decoded = codec.compared(torch.cat([lead, predicted[:, :, first:stop]], dim=2))[:, :, -num_frames:]
    with torch.no_grad():
        pixels = codec.compared(torch.cat([lead, clean[:, :, first:stop]], dim=2))[:, :, -num_frames:]
    return {
        "tgc": temporal_consistency_loss(decoded, pixels),
        "ff": face_focus_loss(decoded, pixels, mask),
    }
