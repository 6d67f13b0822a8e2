import copy

import numpy as np
import pytest
import torch

from asymtalker.codec import WanCodec, latent_statistics, recompute_decoder, to_frames, to_pixels
from toy import ToyFace


@pytest.fixture
def pixels():
    return to_pixels(ToyFace(1).clip("train", 13).frames)


def test_frames_survive_the_way_to_pixels_and_back():
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    pixels = to_pixels(frames)
    assert pixels.shape == (1, 3, 3, 8, 8)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert np.array_equal(to_frames(pixels), frames)


def test_shapes(toy_codec, pixels):
    latents = toy_codec.encode(pixels)
    assert latents.shape == (1, toy_codec.channels, 4, 32 // toy_codec.spatial, 32 // toy_codec.spatial)
    assert toy_codec.decode(latents).shape == pixels.shape


def test_encoding_a_prefix_gives_the_prefix_of_the_encoding(toy_codec, pixels):
    whole = toy_codec.encode(pixels)
    for frames, latents in ((1, 1), (5, 2), (9, 3)):
        torch.testing.assert_close(toy_codec.encode(pixels[:, :, :frames]), whole[:, :, :latents])


def test_decoding_a_prefix_gives_the_prefix_of_the_decoding(toy_codec, pixels):
    latents = toy_codec.encode(pixels)
    whole = toy_codec.decode(latents)
    for num, frames in ((1, 1), (2, 5), (3, 9)):
        torch.testing.assert_close(toy_codec.decode(latents[:, :, :num]), whole[:, :, :frames])


def test_a_tail_latent_has_the_wrong_role_at_the_head(toy_codec, pixels):
    tail = toy_codec.encode(pixels)[:, :, -2:]
    assert (toy_codec.encode(pixels[:, :, -5:]) - tail).abs().mean() > 0.01


def test_other_lengths_are_refused(toy_codec, pixels):
    with pytest.raises(ValueError, match="1 \\+ 4m"):
        toy_codec.encode(pixels[:, :, :4])


def test_statistics_normalise_latents(toy_vae, pixels):
    raw = toy_vae.encode(pixels).latent_dist.mode()
    mean, std = latent_statistics([raw[:, :, :2], raw[:, :, 2:]])
    flat = raw.transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(mean), flat.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(std), flat.std(1, unbiased=False), rtol=1e-3, atol=1e-5)
    normal = WanCodec(toy_vae).encode(to_pixels(ToyFace(0).clip("train", 9).frames)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(len(normal)), atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.std(1, unbiased=False), torch.ones(len(normal)), atol=1e-2, rtol=0)


def test_a_decoder_that_computes_anew_gives_the_same_gradient_from_less(toy_vae, toy_codec, pixels):
    latents = toy_codec.encode(pixels[:, :, :9])
    again = copy.deepcopy(toy_vae)
    recompute_decoder(again)
    gradients, kept = [], []
    for vae in (toy_vae, again):
        window = latents[:, :, 1:].clone().requires_grad_()  # behind a frame that needs no gradient
        sizes: list[int] = []

        def keep(value, sizes=sizes):
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            decoded = WanCodec(vae).decode(torch.cat([latents[:, :, :1], window], dim=2))
        kept.append(sum(sizes))
        decoded.square().sum().backward()
        gradients.append(window.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)
    assert kept[1] < 0.3 * kept[0]
