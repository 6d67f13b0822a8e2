"""A start for codec training that is already a good linear transform, so that no hours go into finding one.

Residual branches and attention start as nothing, and norm and SiLU of the two heads in their linear range: a chain of
convolutions is left. It is fitted to clips: principal components on the way down, least squares on the way up, then
gradient steps on the chain alone. Least squares are not the end because upsampling repeats values before a 3x3
convolution, which can't place detail of the doubled grid's own period; encoder and decoder must agree on a way around.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanDecoder3d,
    WanEncoder3d,
    WanResample,
    WanResidualBlock,
    patchify,
)
from torch import Tensor, nn

from asymtalker.training.run_folder import tracked

Conv = nn.Conv2d | nn.Conv3d

# One channel before each head is a constant, this many times as long as the others together: the norm then divides by
# nearly the same number everywhere. The others enter SiLU at this size, where it halves them and does little else.
DOMINANCE = 30.0
SMALL = 0.015
LOG_VARIANCE = -6.0
RIDGE = 1e-5


def start_codec(vae: AutoencoderKLWan, batches: Sequence[Tensor], steps: int = 200, lr: float = 2e-3) -> None:
    """Make ``vae`` a linear transform of clips with latents of unit variance, in place.

    Nothing random happens: the same weights and batches give the same start.

    Args:
        vae: a codec with random weights, on the CPU, in Wan2.1's form (``is_residual`` false).
        batches: clips ``(B, 3, 1 + 4m, H, W)`` in [-1, 1], used in turn; ``H`` and ``W`` are multiples of the codec's
            spatial factor and ``m`` at least 1.
        steps: gradient steps on the chain of convolutions.
        lr: their highest learning rate.

    Raises:
        ValueError: if the codec has the residual form.
    """
    if vae.config.is_residual:
        raise ValueError("a codec in the residual form has shortcuts around its convolutions; it has no such start")
    with torch.no_grad():
        _silence(vae)
        _fit_decoder(vae, batches, _fit_encoder(vae, batches))
    _descend(vae, batches, steps, lr)
    with torch.no_grad():
        _normalize_latents(vae, batches)
        _open_heads(vae, batches)


def _patches(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    return patchify(pixels, vae.config.patch_size or 1)


def _encode(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    return vae.encoder.conv_out(_before_encoder_head(vae, pixels))[:, : vae.config.z_dim]


def _before_encoder_head(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    hidden = vae.encoder.conv_in(_patches(vae, pixels))
    for layer in vae.encoder.down_blocks:
        hidden = _down(layer, hidden)
    return _without_last(hidden)


def _before_decoder_head(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    hidden = vae.decoder.conv_in(latents)
    for shortcuts, upsampler in _up_levels(vae.decoder):
        for shortcut in shortcuts:
            hidden = shortcut(hidden)
        if upsampler:
            hidden = _resample(upsampler, _split_frames(upsampler, hidden))
    return _without_last(hidden)


def _down(layer: nn.Module, hidden: Tensor) -> Tensor:
    if isinstance(layer, WanResidualBlock):
        return layer.conv_shortcut(hidden)
    return _merge_frames(layer, _resample(layer, hidden)) if isinstance(layer, WanResample) else hidden


def _up_levels(decoder: WanDecoder3d) -> list[tuple[list[nn.Module], WanResample | None]]:
    """Per level the shortcuts of its residual blocks and its upsampler."""
    levels = []
    for block in decoder.up_blocks:
        layers = list(block.modules())
        shortcuts = [layer.conv_shortcut for layer in layers if isinstance(layer, WanResidualBlock)]
        levels.append((shortcuts, next((layer for layer in layers if isinstance(layer, WanResample)), None)))
    return levels


def _resample(layer: WanResample, hidden: Tensor) -> Tensor:
    """Change the size of every frame."""
    frames = layer.resample(hidden.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (-1, hidden.shape[2])).transpose(1, 2)


def _merge_frames(layer: WanResample, hidden: Tensor) -> Tensor:
    """Pairs of frames become one; the first frame stays alone."""
    if layer.mode != "downsample3d":
        return hidden
    return torch.cat([hidden[:, :, :1], layer.time_conv(hidden)], 2)


def _split_frames(layer: WanResample, hidden: Tensor) -> Tensor:
    """Frames become pairs; the first frame stays alone."""
    if layer.mode != "upsample3d":
        return hidden
    pairs = layer.time_conv(hidden[:, :, 1:]).unflatten(1, (2, -1))
    return torch.cat([hidden[:, :, :1], pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], 2)


def _without_last(hidden: Tensor) -> Tensor:
    """The last channel is kept free for the constant."""
    return torch.cat([hidden[:, :-1], torch.zeros_like(hidden[:, -1:])], 1)


def _silence(vae: AutoencoderKLWan) -> None:
    """Residual branches and attention add nothing, convolutions of the chain are empty."""
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            _clear(module.conv2)
            if isinstance(module.conv_shortcut, nn.Conv3d):
                _pass(module.conv_shortcut)
        elif isinstance(module, WanAttentionBlock):
            _clear(module.proj)
        elif isinstance(module, WanResample):
            _clear(module.resample)
            if module.mode.endswith("3d"):
                _clear(module.time_conv)
    for part in (vae.encoder, vae.decoder):
        _clear(part.conv_in)
        _clear(part.conv_out)
    _pass(vae.quant_conv)
    _pass(vae.post_quant_conv)


def _clear(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


def _pass(conv: nn.Conv3d) -> None:
    """A 1x1x1 convolution that keeps every channel it has room for."""
    _clear(conv)
    index = torch.arange(min(conv.in_channels, conv.out_channels))
    conv.weight[index, index] = 1.0


def _samples(hidden: Tensor) -> Tensor:
    """``(B, C, F, H, W)`` as ``(N, C)`` in double precision."""
    return hidden.transpose(0, 1).flatten(1).T.double()


def _principal(features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variances (largest first) and directions (columns) of features ``(B, C, F, H, W)``."""
    count = sum(f.numel() // f.shape[1] for f in features)
    mean = torch.stack([_samples(f).sum(0) for f in features]).sum(0) / count
    centred = (_samples(f) - mean for f in features)
    covariance = torch.stack([s.T @ s for s in centred]).sum(0) / count
    variance, directions = torch.linalg.eigh(covariance)
    largest = directions.abs().argmax(0, keepdim=True)
    directions = directions * directions.gather(0, largest).sign()
    return mean.float(), variance.flip(0).clamp_min(1e-8).float(), directions.flip(1).float()


def _fit_encoder(vae: AutoencoderKLWan, batches: Sequence[Tensor]) -> list[list[Tensor]]:
    """Principal components level by level; returns the patches, what each downsampler sees and the last features."""
    encoder = vae.encoder
    patches = [_patches(vae, batch) for batch in batches]
    mean, _, basis = _principal(patches)
    kernel = basis[:, : encoder.conv_in.out_channels].T
    _put(encoder.conv_in, kernel[:, :, None, None], -kernel @ mean)
    levels = [patches]
    hidden = [encoder.conv_in(p) for p in patches]
    for layer in encoder.down_blocks:
        if isinstance(layer, WanResample):
            levels.append(hidden)
            _fit_down(layer, hidden)
        hidden = [_down(layer, h) for h in hidden]
    levels.append(hidden)
    _, variance, basis = _principal([_without_last(h) for h in hidden])
    kernel = (basis / variance.sqrt())[:, : vae.config.z_dim].T
    _put(encoder.conv_out, kernel[:, :, None, None], torch.zeros(len(kernel)))
    return levels


def _fit_down(layer: WanResample, hidden: list[Tensor]) -> None:
    """Components of 2x2 cells; of frame pairs the means, and the differences that vary most.

    The first frame of a clip does not pass ``time_conv``: it looks like a pair of equal frames.
    """
    cells = [F.pixel_unshuffle(h.transpose(1, 2), 2).transpose(1, 2) for h in hidden]
    _, _, basis = _principal(cells)
    room = layer.dim - 1
    basis = basis[:, :room]
    kept = basis.shape[1]
    if layer.mode == "downsample3d":
        parts = [torch.einsum("ck,bcfhw->bkfhw", basis, c[:, :, 1:]) for c in cells]
        first, second = [p[:, :, ::2] for p in parts], [p[:, :, 1::2] for p in parts]
        energy = [
            torch.stack([(a + sign * b).square().mean((0, 2, 3, 4)) for a, b in zip(first, second, strict=True)])
            for sign in (1, -1)
        ]
        chosen = torch.cat([e.mean(0) for e in energy]).argsort(descending=True, stable=True)[:room]
        changing = chosen[chosen >= kept] - kept
        kept = len(chosen) - len(changing)
        changing = changing[changing < kept]
        same = torch.arange(kept)
        layer.time_conv.weight[same, same, 1:] = 0.5
        layer.time_conv.weight[kept + torch.arange(len(changing)), changing, 1] = -0.5
        layer.time_conv.weight[kept + torch.arange(len(changing)), changing, 2] = 0.5
    conv = _convolution(layer)
    conv.weight[:kept, :, :2, :2] = basis[:, :kept].T.unflatten(1, (-1, 2, 2))


def _convolution(layer: WanResample) -> nn.Conv2d:
    return next(module for module in layer.resample.modules() if isinstance(module, nn.Conv2d))


def _fit_decoder(vae: AutoencoderKLWan, batches: Sequence[Tensor], levels: list[list[Tensor]]) -> None:
    """Least squares level by level, each on what the levels before it really give."""
    decoder = vae.decoder
    downsamplers = [layer for layer in vae.encoder.down_blocks if isinstance(layer, WanResample)]
    hidden = [_encode(vae, batch) for batch in batches]
    target = levels.pop()
    _put(decoder.conv_in, *_regress(hidden, target, 1))
    hidden = [decoder.conv_in(h) for h in hidden]
    chain = _up_levels(decoder)
    for level, (shortcuts, upsampler) in enumerate(chain):
        for shortcut in shortcuts:
            hidden = [shortcut(h) for h in hidden]
        if upsampler:
            target = levels.pop()
            halves = [_resample(downsamplers[-1 - level], t)[:, :, 1:] for t in target]
            if upsampler.mode == "upsample3d":
                pairs = [torch.cat([_fit_width(h[:, :, i::2], upsampler.dim) for i in (0, 1)], 1) for h in halves]
                _put(upsampler.time_conv, *_regress([h[:, :, 1:] for h in hidden], pairs, 1))
            hidden = [_split_frames(upsampler, h) for h in hidden]
            _fit_up(_convolution(upsampler), chain[level + 1][0][0], hidden, target)
            hidden = [_resample(upsampler, h) for h in hidden]
    _put(decoder.conv_out, *_regress([_without_last(h) for h in hidden], levels.pop(), 3))


def _fit_width(hidden: Tensor, width: int) -> Tensor:
    """Channels cut, or filled up with zeros, to ``width``."""
    return F.pad(hidden[:, :width], (0, 0) * 3 + (0, max(0, width - hidden.shape[1])))


def _fit_up(conv: nn.Conv2d, following: nn.Module, hidden: list[Tensor], target: list[Tensor]) -> None:
    """The convolution after doubling; where it is narrower than its target, the shortcut after it widens again."""
    large = [F.interpolate(h, scale_factor=(1, 2, 2), mode="nearest-exact") for h in hidden]
    kernel, bias = _regress(large, target, 3)
    if conv.out_channels < len(kernel) and isinstance(following, nn.Conv3d):
        _, _, basis = _principal([F.conv3d(h, kernel[:, :, None], bias, padding=(0, 1, 1)) for h in large])
        basis = basis[:, : conv.out_channels]
        kernel, bias = torch.einsum("kc,kihw->cihw", basis, kernel), basis.T @ bias
        _clear(following)
        _put(following, basis[:, :, None, None], torch.zeros(len(basis)))
    _put(conv, kernel, bias)


def _regress(inputs: list[Tensor], targets: list[Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Kernel ``(out, in, size, size)`` and bias that map inputs to targets best, frame by frame."""
    product = answer = torch.zeros(())
    for one, target in zip(inputs, targets, strict=True):
        windows = F.unfold(one.transpose(1, 2).flatten(0, 1), size, padding=size // 2).transpose(0, 1).flatten(1)
        windows = torch.cat([windows, torch.ones_like(windows[:1])])
        wanted = target.transpose(1, 2).flatten(0, 1).flatten(2).transpose(0, 1).flatten(1)
        product = product + (windows @ windows.T).double()
        answer = answer + (windows @ wanted.T).double()
    ridge = RIDGE * product.diagonal().mean() * torch.eye(len(product), dtype=torch.float64)
    weight = torch.linalg.solve(product + ridge, answer).T.float()
    return weight[:, :-1].unflatten(1, (-1, size, size)), weight[:, -1]


def _put(conv: Conv, kernel: Tensor, bias: Tensor) -> None:
    """Write a kernel ``(out, in, k, k)`` into the middle of the current frame's tap, as far as there are channels."""
    rows = min(len(kernel), conv.out_channels)
    tap = conv.weight[:, :, -1] if isinstance(conv, nn.Conv3d) else conv.weight
    low = (tap.shape[-1] - kernel.shape[-1]) // 2
    high = low + kernel.shape[-1]
    tap[:rows, :, low:high, low:high] = kernel[:rows]
    assert conv.bias is not None
    conv.bias[:rows] = bias[:rows]


def _descend(vae: AutoencoderKLWan, batches: Sequence[Tensor], steps: int, lr: float) -> None:
    """Gradient steps on the squared error of the chain of convolutions."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=lr, betas=(0.9, 0.98))
    for step in tracked(range(steps), "a linear start"):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20) * (1 - step / steps)
        pixels = batches[step % len(batches)]
        decoded = vae.decoder.conv_out(_before_decoder_head(vae, _encode(vae, pixels)))
        F.mse_loss(decoded, _patches(vae, pixels)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _normalize_latents(vae: AutoencoderKLWan, batches: Sequence[Tensor]) -> None:
    """Latents of mean 0 and variance 1 per channel; the decoder takes them back."""
    latents = torch.cat([_samples(_encode(vae, batch)) for batch in batches])
    mean, std = latents.mean(0).float(), latents.std(0).float().clamp_min(1e-4)
    head, entry, z_dim = vae.encoder.conv_out, vae.decoder.conv_in, vae.config.z_dim
    assert head.bias is not None
    assert entry.bias is not None
    entry.bias += entry.weight.sum((2, 3, 4)) @ mean
    entry.weight *= std.view(1, -1, 1, 1, 1)
    head.bias[:z_dim] = (head.bias[:z_dim] - mean) / std
    head.weight[:z_dim] /= std.view(-1, 1, 1, 1, 1)
    head.weight[z_dim:] = 0.0
    head.bias[z_dim:] = LOG_VARIANCE


def _open_heads(vae: AutoencoderKLWan, batches: Sequence[Tensor]) -> None:
    """Let the chain through norm and SiLU of both heads."""
    inner = [_before_encoder_head(vae, batch) for batch in batches]
    outer = [_before_decoder_head(vae, _encode(vae, batch)) for batch in batches]
    layers = list(vae.encoder.down_blocks)
    last = layers[-1]
    length = _open_head(vae.encoder, vae.encoder.mid_block, inner)
    if isinstance(last, WanResidualBlock) and isinstance(last.conv_shortcut, nn.Conv3d):
        _hold(last.conv_shortcut, length)
    else:
        downsampler = next(layer for layer in reversed(layers) if isinstance(layer, WanResample))
        _hold(_convolution(downsampler), length)
        if downsampler.mode == "downsample3d":
            _hold(downsampler.time_conv, 0.0)
            downsampler.time_conv.weight[:, -1] = 0.0
            downsampler.time_conv.weight[-1, -1, -1] = 1.0
    length = _open_head(vae.decoder, vae.decoder.up_blocks[-1], outer)
    levels = _up_levels(vae.decoder)
    shortcut, upsampler = levels[-1][0][0], levels[-2][1]
    if isinstance(shortcut, nn.Conv3d):
        _hold(shortcut, length)
    elif upsampler:
        _hold(_convolution(upsampler), length)


def _hold(conv: Conv, value: float) -> None:
    """Make the last output channel a constant."""
    assert conv.bias is not None
    conv.weight[-1] = 0.0
    conv.bias[-1] = value


def _open_head(part: WanEncoder3d | WanDecoder3d, block: nn.Module, features: list[Tensor]) -> float:
    """Scale the norms after the constant so that SiLU is linear; returns the constant."""
    spread = torch.cat([_samples(f) for f in features]).square().mean(0).sqrt().float()
    length = DOMINANCE * float(spread.norm())
    spread = spread.clamp_min(1e-3 * spread.max())
    unit = length / len(spread) ** 0.5 / spread
    unit[-1] = len(spread) ** -0.5
    small = torch.cat([SMALL * unit[:-1], unit[-1:]])
    part.norm_out.gamma.copy_(small.view(-1, 1, 1, 1))
    scale = torch.cat([2 / SMALL * spread[:-1], torch.zeros(1)])
    part.conv_out.weight *= scale.view(1, -1, 1, 1, 1)
    for resnet in block.modules():
        if isinstance(resnet, WanResidualBlock) and len(resnet.norm1.gamma) == len(unit):
            resnet.norm1.gamma.copy_(unit.view(-1, 1, 1, 1))
    return length
