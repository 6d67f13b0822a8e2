"""3-D convolutions that PyTorch computes slowly on a CPU, as sums of 2-D ones with the same values and gradients."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 20_480
"""Most samples x channels x frames x rows of an input that PyTorch thinks too small for oneDNN (``use_mkldnn`` in its
``Convolution.cpp``). It forgets the columns: a large picture of few channels takes its slow way too."""


def is_narrow(x: Tensor, weight: Tensor, groups: int = 1) -> bool:
    """Whether PyTorch convolves ``x`` ``(B, C, F, H, W)`` with ``weight`` ``(D, C, f, h, w)`` without oneDNN, which is
    slow where it lays out a picture for a kernel of several pixels."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    *_, height, width = weight.shape
    if groups > 1 or height == width == 1 or (height > 3 and width > 3):
        return False
    return x.shape[0] == 1 and x.shape[1:4].numel() <= NARROW


def convolve_frames(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
    """A 3-D convolution without padding, as a sum of 2-D ones: one for each frame that the kernel spans.

    Args:
        x: ``(B, C, F, H, W)``.
        weight: ``(D, C, f, h, w)``.
        bias: ``(D,)``.
        stride: in frames, rows and columns.

    Returns:
        ``(B, D, 1 + (F - f) // stride, ...)``.
    """
    span, step = weight.shape[2], stride[0]
    count = 1 + (x.shape[2] - span) // step
    pictures = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    frames = pictures.unflatten(0, (len(x), -1))  # (B, F, C, H, W), channels side by side as oneDNN reads them
    total: Tensor | None = None
    for index in range(span):
        seen = frames[:, index : index + step * (count - 1) + 1 : step].flatten(0, 1)
        kernel = weight[:, :, index].contiguous(memory_format=torch.channels_last)
        added = F.conv2d(seen, kernel, bias if total is None else None, stride[1:])
        total = added if total is None else total.add_(added)
    assert total is not None
    return total.unflatten(0, (len(x), count)).transpose(1, 2)


def quicken_convolutions(network: nn.Module) -> None:
    """Let narrow 3-D convolutions of a network go by :func:`convolve_frames`, wherever they are computed by a CPU;
    all others stay PyTorch's. Done twice it changes nothing more.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.padding == (0, 0, 0) and module.dilation == (1, 1, 1):
            module._conv_forward = partial(_convolve, module.stride, module.groups)


def _convolve(stride: tuple[int, ...], groups: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if is_narrow(x, weight, groups):
        return convolve_frames(x, weight, bias, stride)
    return F.conv3d(x, weight, bias, stride, groups=groups)
