"""The linear start of codec training."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan

from asymtalker.codec import WanCodec, build_vae, latent_statistics, to_pixels
from asymtalker.config import CodecConfig, CodecTrainConfig
from asymtalker.parts.codec import channel_visibility, equal_visibility, train_codec
from asymtalker.parts.codec_start import start_codec
from toy import TOY_CODEC, TOY_OPTIMIZER, ToyFace, toy_loop

PLAIN = replace(TOY_CODEC, is_residual=False, base_dim=12, decoder_base_dim=12)
NO_BLOCKS = replace(PLAIN, num_res_blocks=0)
WIDENING = replace(PLAIN, base_dim=8, decoder_base_dim=8, dim_mult=(1, 2, 4))


def faces(seeds: range) -> torch.Tensor:
    return torch.cat([to_pixels(ToyFace(seed).clip("train", 9).frames) for seed in seeds])


def started(config: CodecConfig) -> AutoencoderKLWan:
    torch.manual_seed(0)
    vae = build_vae(config)
    start_codec(vae, [faces(range(i, i + 4)) for i in (0, 4)], steps=40)
    return vae.eval().requires_grad_(False)


def error(vae: AutoencoderKLWan, pixels: torch.Tensor) -> float:
    frozen = WanCodec(vae)
    return float((frozen.decode(frozen.encode(pixels)) - pixels).square().mean())


@pytest.mark.parametrize("config", [PLAIN, NO_BLOCKS, WIDENING])
def test_the_start_alone_shows_faces_it_has_not_seen(config):
    unseen = faces(range(20, 24))
    spread = float((unseen - unseen.mean((0, 2, 3, 4), keepdim=True)).square().mean())
    vae = started(config)
    assert error(build_vae(config).eval().requires_grad_(False), unseen) > spread
    assert error(vae, unseen) < 0.3 * spread
    assert error(vae, unseen[:, :, :1]) < 0.3 * spread, "the first frame is coded alone"


def test_latents_have_about_unit_variance():
    latents = WanCodec(started(PLAIN)).encode(faces(range(8)))
    assert 0.7 < latents.std() < 1.3
    assert latents.mean().abs() < 0.2


def test_scaled_latents_are_seen_equally_well_in_every_channel():
    vae, pixels = started(PLAIN), faces(range(4))
    _, std = latent_statistics([vae.encode(pixels).latent_dist.mode()])
    visible = channel_visibility(vae, pixels, std)
    assert max(visible) > 1.5 * min(visible), "the toy codec should have channels to tell apart"
    vae.register_to_config(latents_std=equal_visibility(std, visible))
    codec = WanCodec(vae)
    latents = codec.encode(pixels)
    assert float(latents.var((0, 2, 3, 4)).mean()) == pytest.approx(1.0, rel=0.2)
    decoded, changes = codec.decode(latents), []
    for channel in range(codec.channels):
        moved = latents.clone()
        moved[:, channel] += 0.05 * torch.randn(latents[:, 0].shape, generator=torch.Generator().manual_seed(channel))
        changes.append(float((codec.decode(moved) - decoded).square().mean().sqrt()))
    assert max(changes) < 1.3 * min(changes)


def test_the_start_is_repeatable():
    one, other = started(PLAIN).state_dict(), started(PLAIN).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_begins_with_it_once_and_resumes_bit_for_bit(tmp_path, toy_corpus):
    config = CodecTrainConfig(
        model=NO_BLOCKS,
        frames=9,
        crop=16,
        picture_fraction=0.0,
        kl_weight=1e-4,
        edge_weight=0.5,
        loop=toy_loop(steps=2, checkpoint_every=1),
        optimizer=TOY_OPTIMIZER,
    )
    train_codec(config, tmp_path / "straight", toy_corpus, None)
    train_codec(replace(config, loop=toy_loop(steps=1)), tmp_path / "resumed", toy_corpus, None)
    train_codec(config, tmp_path / "resumed", toy_corpus, None)
    straight, resumed = [
        AutoencoderKLWan.from_pretrained(tmp_path / name / "vae").requires_grad_(False)
        for name in ("straight", "resumed")
    ]
    other = resumed.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in straight.state_dict().items())
    assert error(straight, faces(range(4))) < 0.25


def test_the_residual_form_is_refused():
    with pytest.raises(ValueError, match="residual"):
        start_codec(build_vae(TOY_CODEC), [faces(range(1))])
