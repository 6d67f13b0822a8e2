"""Narrow 3-D convolutions: PyTorch's values and gradients by 2-D ones, and no others."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._C import _ConvBackend, _select_conv_backend

from asymtalker import convolution
from asymtalker.codec import WanCodec, build_vae, recompute_decoder
from asymtalker.config import CodecConfig
from asymtalker.convolution import convolve_frames, is_narrow, quicken_convolutions
from toy import TOY_CODEC

WAN_SHAPES = [  # of the input, the kernel, and the stride
    ((1, 24, 6, 20, 18), (12, 24, 3, 3, 3), (1, 1, 1)),
    ((1, 12, 3, 20, 18), (24, 12, 3, 3, 3), (1, 1, 1)),
    ((2, 6, 5, 9, 11), (8, 6, 3, 3, 3), (1, 1, 1)),
    ((1, 8, 9, 9, 8), (8, 8, 3, 3, 3), (2, 1, 1)),
    ((1, 8, 8, 9, 8), (4, 8, 3, 3, 3), (2, 2, 2)),
    ((1, 8, 7, 9, 8), (4, 8, 1, 3, 5), (3, 2, 1)),
]


@pytest.mark.parametrize(("shape", "kernel", "stride"), WAN_SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_the_3_d_convolution(shape, kernel, stride, biased):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, kernel))
    bias = torch.randn(kernel[0], generator=generator, dtype=torch.float64) if biased else None
    given = [value.requires_grad_() for value in (x, weight, bias) if value is not None]
    expected, actual = F.conv3d(x, weight, bias, stride), convolve_frames(x, weight, bias, stride)
    torch.testing.assert_close(actual, expected)
    towards = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for one, other in zip(*(torch.autograd.grad(y, given, towards) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", [20, 21])
@pytest.mark.parametrize("sides", [(3, 3), (5, 3), (5, 5)])
def test_narrow_are_those_that_pytorch_keeps_from_onednn(batch, channels, sides):
    x, weight = torch.empty(batch, channels, 8, 128, 6), torch.empty(4, channels, 3, *sides)  # 20 * 8 * 128 = 20,480
    chosen = _select_conv_backend(x, weight, None, (1, 1, 1), (0, 0, 0), (1, 1, 1), False, (0, 0, 0), 1, None)
    assert is_narrow(x, weight) == (chosen == _ConvBackend.Slow3d)
    assert chosen in (_ConvBackend.Slow3d, _ConvBackend.Mkldnn)


def test_kernels_of_one_pixel_other_types_and_other_devices_stay():
    x, weight = torch.empty(1, 4, 5, 8, 8), torch.empty(4, 4, 3, 3, 3)
    assert is_narrow(x, weight)
    assert not is_narrow(x, torch.empty(4, 4, 3, 1, 1))
    assert not is_narrow(x.bfloat16(), weight.bfloat16())
    assert not is_narrow(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_narrow(x, weight)


@pytest.fixture
def counted(monkeypatch) -> dict[bool, int]:
    """How many convolutions with kernels of several pixels went by 2-D ones (True) and by PyTorch (False)."""
    counts = {True: 0, False: 0}
    by_frames, by_pytorch = convolve_frames, F.conv3d

    def count(narrow, way):
        def run(x, weight, *arguments, **options):
            counts[narrow] += weight.shape[-1] > 1
            return way(x, weight, *arguments, **options)

        return run

    monkeypatch.setattr(convolution, "convolve_frames", count(True, by_frames))
    monkeypatch.setattr(F, "conv3d", count(False, by_pytorch))
    return counts


def wan(base_dim: int) -> CodecConfig:
    """Wan2.1's codec of another width."""
    return CodecConfig(
        base_dim=base_dim,
        decoder_base_dim=base_dim,
        z_dim=4,
        dim_mult=(1, 2),
        num_res_blocks=1,
        temperal_downsample=(True,),
        is_residual=False,
        patch_size=None,
    )


@pytest.mark.parametrize("config", [wan(8), TOY_CODEC])
def test_a_narrow_codec_goes_by_2_d_convolutions_and_gives_the_same(config, counted):
    torch.manual_seed(0)
    vae = build_vae(config).eval()
    stock = copy.deepcopy(vae)
    codec = WanCodec(vae)
    pixels = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    latents = stock.encode(pixels).latent_dist.mode()
    counted.update({True: 0, False: 0})
    torch.testing.assert_close(codec.encode(pixels), latents, rtol=1e-4, atol=1e-5)
    expected = stock.decode(latents).sample
    in_stock = counted[False]
    torch.testing.assert_close(codec.decode(latents), expected, rtol=1e-4, atol=1e-5)
    assert counted[True] > 0
    assert counted[False] == in_stock


def test_wide_convolutions_stay_with_pytorch(counted):
    codec = WanCodec(build_vae(wan(96)).eval())
    codec.encode(torch.rand(1, 3, 1, 80, 16))
    assert counted == {True: 2, False: 8}, "narrow: the first, of 3 channels, and the first of 96 at half the rows"
    counted.update({True: 0, False: 0})
    codec.encode(torch.rand(2, 3, 1, 16, 16))
    assert counted == {True: 0, False: 10}


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_through_the_decoder_are_the_same(recomputed, counted):
    torch.manual_seed(0)
    stock = build_vae(wan(8)).requires_grad_(False)
    vae = copy.deepcopy(stock)
    codec = WanCodec(vae)
    if recomputed:
        recompute_decoder(vae)
    latents = torch.randn(1, 4, 3, 4, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(stock.decode(latents).sample.square().sum(), latents)
    (actual,) = torch.autograd.grad(codec.decode(latents).square().sum(), latents)
    assert counted[True] > 0
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_copy_convolves_with_its_own_weights():
    layer = nn.Sequential(nn.Conv3d(2, 2, 3))
    quicken_convolutions(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other[0].weight.zero_()
    x = torch.rand(1, 2, 3, 4, 4)
    torch.testing.assert_close(other(x), other[0].bias.view(1, 2, 1, 1, 1).expand(1, 2, 1, 2, 2))
    assert not torch.allclose(layer(x), other(x))
