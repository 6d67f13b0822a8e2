"""Flow matching on the straight path (eq. 1, 2): pure functions of tensors.

Convention (Wan, diffusers): ``sigma`` in [0, 1], 1 is pure noise; ``x_sigma = (1 - sigma) clean + sigma noise``;
``velocity = noise - clean``. ``sigma`` broadcasts against ``B C T H W`` (see :func:`expand`).
"""

import hashlib

import torch
from torch import Tensor


def expand(sigma: Tensor, like: Tensor) -> Tensor:
    """Shape ``sigma``, ``(B,)`` or per latent frame ``(B, T)``, to broadcast against ``like`` ``(B, C, T, H, W)``."""
    if sigma.ndim == 1:
        return sigma.view(-1, 1, 1, 1, 1).to(like.dtype)
    return sigma.view(sigma.shape[0], 1, sigma.shape[1], 1, 1).to(like.dtype)


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``x_sigma = (1 - sigma) clean + sigma noise`` (eq. 1)."""
    sigma = expand(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """The target of flow matching, ``noise - clean`` (eq. 2)."""
    return noise - clean


def clean_from_velocity(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """``clean = x_sigma - sigma v``."""
    return noisy - expand(sigma, noisy) * velocity


def noise_from_velocity(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """``noise = x_sigma + (1 - sigma) v``."""
    return noisy + (1 - expand(sigma, noisy)) * velocity


def preconditioning(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """``scale`` and ``skip`` of noise levels of any shape. Where clean latents have unit variance, ``scale`` brings
    noisy ones to it, ``skip`` times these is the best linear estimate of their velocity, and ``scale`` is the
    deviation of what that estimate lacks (Karras et al. 2022, for this path)."""
    variance = sigma.square() + (1 - sigma).square()
    return variance.rsqrt(), (2 * sigma - 1) / variance


def score_from_velocity(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Score of the noisy distribution, ``-noise / sigma`` (the conversion of eq. 12); ``sigma`` must be positive."""
    return -noise_from_velocity(noisy, velocity, sigma) / expand(sigma, noisy)


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1: ``shift s / (1 + (shift - 1) s)``; ``shift`` 1 changes nothing."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sampling_sigmas(num_steps: int, shift: float) -> Tensor:
    """``(num_steps + 1,)`` falling noise levels from 1 to 0, shifted; the last is exactly 0."""
    return shift_sigma(torch.linspace(1, 0, num_steps + 1), shift)


def training_sigmas(batch: int, shift: float, num_timesteps: int, generator: torch.Generator) -> Tensor:
    """``(batch,)`` random noise levels on the shifted grid ``1/N .. 1`` of ``num_timesteps`` N (the paper: 1,000)."""
    index = torch.randint(1, num_timesteps + 1, (batch,), generator=generator)
    return shift_sigma(index / num_timesteps, shift)


def hashed_seed(seed: int, purpose: str, index: int = 0) -> int:
    """32 bits, all that PyTorch's CPU generator keeps of a seed, of integers of any size and what is drawn with them.
    A purpose has a stream of its own: ``seed + 1`` would be another run's."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}/{index}".encode()).digest()[:4], "big")


def numbered_generator(seed: int, index: int, purpose: str = "step") -> torch.Generator:
    """The random numbers of one step or chunk, on the CPU. They depend on the arguments alone: a resumed run, or a
    video made chunk by chunk, meets the same ones.

    Args:
        seed: of the run or video.
        index: of the step, chunk or whatever is counted.
        purpose: what is drawn, by default the samples and noise of a training step; each purpose has its own stream.
    """
    return torch.Generator().manual_seed(hashed_seed(seed, purpose, index))
