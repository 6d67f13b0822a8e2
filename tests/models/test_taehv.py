import re

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file

from asymtalker.codec import build_vae
from asymtalker.errors import UserError
from asymtalker.models import taehv
from asymtalker.models.taehv import PreviewDecoder, load_preview
from toy import TOY_CODEC


@pytest.fixture(scope="module")
def decoder() -> PreviewDecoder:
    torch.manual_seed(0)
    return PreviewDecoder(TOY_CODEC.z_dim).eval()


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(2, TOY_CODEC.z_dim, 6, 2, 3, generator=torch.Generator().manual_seed(0))


def test_layout_is_the_published_one():
    shapes = {name: tuple(weight.shape) for name, weight in PreviewDecoder().state_dict().items()}
    assert shapes["decoder.1.weight"] == (256, 16, 3, 3)
    assert shapes["decoder.3.conv.0.weight"] == (256, 512, 3, 3)
    assert shapes["decoder.5.conv.4.bias"] == (256,)
    assert shapes["decoder.7.conv.weight"] == (256, 256, 1, 1)
    assert shapes["decoder.8.weight"] == (128, 256, 3, 3)
    assert shapes["decoder.13.conv.weight"] == (256, 128, 1, 1)
    assert shapes["decoder.14.weight"] == (64, 128, 3, 3)
    assert shapes["decoder.19.conv.weight"] == (128, 64, 1, 1)
    assert shapes["decoder.20.weight"] == (64, 64, 3, 3)
    assert shapes["decoder.22.weight"] == (3, 64, 3, 3)
    assert "decoder.8.bias" not in shapes
    assert len(shapes) == 2 + 3 * (3 * 6 + 2) + 2


def test_a_latent_frame_is_four_frames_and_the_first_is_one(decoder, latents):
    pixels = decoder.decode(latents)
    assert pixels.shape == (2, 3, 21, 16, 24)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert decoder.decode(latents[:, :, :1]).shape == (2, 3, 1, 16, 24)


def test_no_frame_sees_the_future(decoder, latents):
    changed = latents.clone()
    changed[:, :, 4:] += 1
    before, after = decoder.decode(latents), decoder.decode(changed)
    first = 1 + 4 * 3
    assert torch.allclose(before[:, :, :first], after[:, :, :first], atol=1e-6)
    assert not torch.allclose(before[:, :, first:], after[:, :, first:], atol=1e-3)


def test_pieces_and_videos_are_decoded_as_if_alone(decoder, latents, monkeypatch):
    expected = decoder.decode(latents)
    for piece in (1, 5, 100):
        monkeypatch.setattr(taehv, "PIECE", piece)
        assert torch.allclose(decoder.decode(latents), expected, atol=1e-5)
    assert torch.allclose(decoder.decode(latents[1:]), expected[1:], atol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_back_from_a_file(decoder, latents, tmp_path, suffix):
    path = tmp_path / f"preview{suffix}"
    encoder = {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}
    growth = decoder.state_dict()["decoder.7.conv.weight"]
    wide = {"decoder.7.conv.weight": torch.cat([torch.ones_like(growth), growth])}  # as some files have it
    weights = decoder.state_dict() | encoder | wide
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    loaded = load_preview(path, build_vae(TOY_CODEC))
    assert torch.equal(loaded.decode(latents), decoder.decode(latents))


def test_files_that_do_not_fit_are_refused(decoder, tmp_path):
    vae, path = build_vae(TOY_CODEC), tmp_path / "preview.pth"
    lacking = {name: weight for name, weight in decoder.state_dict().items() if name != "decoder.9.conv.2.bias"}
    for content, says in [
        (lacking, "lacks decoder.9.conv.2.bias"),
        (PreviewDecoder(16).state_dict(), "has decoder.1.weight of shape (256, 16, 3, 3), but .* (256, 6, 3, 3)"),
        ({"state_dict": decoder.state_dict()}, "holds more than weights by name"),
        (None, "is not a file of weights"),
    ]:
        if content is None:
            path.write_bytes(b"no weights")
        else:
            torch.save(content, path)
        with pytest.raises(UserError, match=says.replace("(", r"\(").replace(")", r"\)")) as error:
            load_preview(path, vae)
        assert "\n" not in str(error.value)
    damaged = tmp_path / "preview.safetensors"
    damaged.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not a file of weights"):
        load_preview(damaged, vae)


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"decoder.1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=re.escape("is not a file of weights")):
        load_preview(tmp_path / "evil.pth", build_vae(TOY_CODEC))


def test_a_codec_of_other_latents_of_the_same_shape_is_refused(tmp_path):
    torch.save(PreviewDecoder().state_dict(), tmp_path / "preview.pth")
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    load_preview(tmp_path / "preview.pth", vae)
    vae.register_to_config(latents_mean=[0.0] * 16)
    with pytest.raises(UserError, match=r"for Wan2\.1's latents"):
        load_preview(tmp_path / "preview.pth", vae)


def test_a_codec_of_another_shape_is_refused(decoder, tmp_path):
    torch.save(decoder.state_dict(), tmp_path / "preview.pth")
    vae = build_vae(TOY_CODEC)
    vae.register_to_config(scale_factor_spatial=16)
    with pytest.raises(UserError, match="shrinks them 16 times"):
        load_preview(tmp_path / "preview.pth", vae)
