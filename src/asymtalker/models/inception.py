"""Inception-v3 as FID knows it: the TensorFlow network of 2015-12-05 with the weights torch-fidelity publishes.

It differs from the usual Inception-v3 in four places (Heusel et al. 2017; torch-fidelity 0.4, pytorch-fid): pictures
are resized as TensorFlow 1 did, average pools leave the padding out of the mean, the last block pools by maximum, and
there are 1,008 classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 299

_Branches = dict[str, tuple]
"""Name of a convolution -> (in, out, kernel, padding, stride)."""
_Paths = tuple[tuple[str, ...], ...]
"""Convolutions and pools in a row; the paths' results are concatenated."""


class _Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int | tuple = 1, padding: int | tuple = 0, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(pixels)), inplace=True)


_POOLS = {
    "average": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "maximum": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "shrink": lambda x: F.max_pool2d(x, 3, stride=2),
}


class _Mixed(nn.Module):
    def __init__(self, branches: _Branches, paths: _Paths):
        super().__init__()
        for name, arguments in branches.items():
            self.add_module(name, _Convolution(*arguments))
        self._paths = paths

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._follow(path, x) for path in self._paths], 1)

    def _follow(self, path: tuple[str, ...], x: Tensor) -> Tensor:
        for name in path:
            x = _POOLS[name](x) if name in _POOLS else self.get_submodule(name)(x)
        return x


def _block_a(inputs: int, pooled: int) -> _Mixed:
    branches: _Branches = {
        "branch1x1": (inputs, 64),
        "branch5x5_1": (inputs, 48),
        "branch5x5_2": (48, 64, 5, 2),
        "branch3x3dbl_1": (inputs, 64),
        "branch3x3dbl_2": (64, 96, 3, 1),
        "branch3x3dbl_3": (96, 96, 3, 1),
        "branch_pool": (inputs, pooled),
    }
    paths = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        ("average", "branch_pool"),
    )
    return _Mixed(branches, paths)


def _block_b(inputs: int) -> _Mixed:
    branches: _Branches = {
        "branch3x3": (inputs, 384, 3, 0, 2),
        "branch3x3dbl_1": (inputs, 64),
        "branch3x3dbl_2": (64, 96, 3, 1),
        "branch3x3dbl_3": (96, 96, 3, 0, 2),
    }
    return _Mixed(branches, (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), ("shrink",)))


def _block_c(inputs: int, inner: int) -> _Mixed:
    wide, tall = ((1, 7), (0, 3)), ((7, 1), (3, 0))
    branches: _Branches = {
        "branch1x1": (inputs, 192),
        "branch7x7_1": (inputs, inner),
        "branch7x7_2": (inner, inner, *wide),
        "branch7x7_3": (inner, 192, *tall),
        "branch7x7dbl_1": (inputs, inner),
        "branch7x7dbl_2": (inner, inner, *tall),
        "branch7x7dbl_3": (inner, inner, *wide),
        "branch7x7dbl_4": (inner, inner, *tall),
        "branch7x7dbl_5": (inner, 192, *wide),
        "branch_pool": (inputs, 192),
    }
    paths = (
        ("branch1x1",),
        ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
        tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
        ("average", "branch_pool"),
    )
    return _Mixed(branches, paths)


def _block_d(inputs: int) -> _Mixed:
    branches: _Branches = {
        "branch3x3_1": (inputs, 192),
        "branch3x3_2": (192, 320, 3, 0, 2),
        "branch7x7x3_1": (inputs, 192),
        "branch7x7x3_2": (192, 192, (1, 7), (0, 3)),
        "branch7x7x3_3": (192, 192, (7, 1), (3, 0)),
        "branch7x7x3_4": (192, 192, 3, 0, 2),
    }
    paths = (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in range(1, 5)), ("shrink",))
    return _Mixed(branches, paths)


def _block_e(inputs: int, pool: str) -> _Mixed:
    wide, tall = ((1, 3), (0, 1)), ((3, 1), (1, 0))
    branches: _Branches = {
        "branch1x1": (inputs, 320),
        "branch3x3_1": (inputs, 384),
        "branch3x3_2a": (384, 384, *wide),
        "branch3x3_2b": (384, 384, *tall),
        "branch3x3dbl_1": (inputs, 448),
        "branch3x3dbl_2": (448, 384, 3, 1),
        "branch3x3dbl_3a": (384, 384, *wide),
        "branch3x3dbl_3b": (384, 384, *tall),
        "branch_pool": (inputs, 192),
    }
    paths = (
        ("branch1x1",),
        ("branch3x3_1", "branch3x3_2a"),
        ("branch3x3_1", "branch3x3_2b"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3b"),
        (pool, "branch_pool"),
    )
    return _Mixed(branches, paths)


class InceptionV3(nn.Module):
    """The features of FID: 2,048 per picture, the mean over the last 8x8 map.

    Its state dict has the names and shapes of ``weights-inception-2015-12-05-6726825d.pth``.
    """

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 0, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, 1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "average")
        self.Mixed_7c = _block_e(2048, "maximum")
        self.fc = nn.Linear(2048, 1008)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures ``(N, 3, H, W)`` of values 0 to 255 to features ``(N, 2048)``."""
        x = (resize_as_tensorflow(pictures.to(self.fc.weight.dtype), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


def resize_as_tensorflow(pictures: Tensor, side: int) -> Tensor:
    """Bilinear resizing of ``(N, C, H, W)`` to ``(N, C, side, side)`` as TensorFlow 1 did it.

    Output pixel ``i`` is read at ``i * in / out`` (no half-pixel centres, no smoothing when it gets smaller).
    """
    rows, columns = (_bilinear(length, side).to(pictures) for length in pictures.shape[-2:])
    return torch.einsum("oh,nchw,pw->ncop", rows, pictures, columns)


def _bilinear(length: int, side: int) -> Tensor:
    """Weights ``(side, length)`` of each input for each output."""
    places = torch.arange(side, dtype=torch.float32) * (length / side)
    low = places.long()
    share = places - low
    weights = torch.zeros(side, length)
    outputs = torch.arange(side)
    weights[outputs, low] = 1 - share
    weights[outputs, (low + 1).clamp_max(length - 1)] += share
    return weights
