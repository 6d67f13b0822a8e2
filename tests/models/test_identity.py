"""The four identity strategies: shapes, frozen encoders, what TRE adds over ETR, and a transformer that takes each."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from asymtalker.codec import WanCodec, build_vae
from asymtalker.config import CodecConfig
from asymtalker.errors import UserError
from asymtalker.models import identity
from asymtalker.models.magvit import MagvitTokenizer, load_published, lookup_free_indices, published_name
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import Conditions, predict_velocity

STRATEGIES = ["tre", "etr", "clip", "vtp"]
FRAMES, SIZE = 9, 32


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    config = CodecConfig(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=(1, 2, 2),
        num_res_blocks=1,
        temperal_downsample=(True, True),
        is_residual=False,
        patch_size=2,
    )
    return WanCodec(build_vae(config).eval())


def clip_encoder() -> CLIPVisionModel:
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=24, patch_size=8
    )
    return CLIPVisionModel(config).eval()


def tokenizer() -> MagvitTokenizer:
    torch.manual_seed(2)
    return MagvitTokenizer(
        base_channels=32, channel_multipliers=(1, 2, 2), num_res_blocks=1, codebook_bits=6, sample_size=16
    ).eval()


def image_encoder(strategy):
    return {"clip": clip_encoder, "vtp": tokenizer}.get(strategy, lambda: None)()


@pytest.fixture
def picture():
    return torch.rand(2, 3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_shapes(codec, picture):
    latents = (2, 4, 3, SIZE // 8, SIZE // 8)
    for strategy, shape in {"tre": latents, "etr": latents}.items():
        encoded = identity.encode_identity(strategy, picture, FRAMES, codec=codec)
        assert encoded.latents.shape == shape
        assert encoded.tokens is None
    features = identity.encode_identity("clip", picture, FRAMES, codec=codec, image_encoder=clip_encoder())
    assert features.tokens.shape == (2, 9, 16)  # 3 x 3 patches, no class token
    indices = identity.encode_identity("vtp", picture, FRAMES, codec=codec, image_encoder=tokenizer())
    assert indices.tokens.shape == (2, 16)
    assert indices.tokens.dtype == torch.int64
    assert 0 <= indices.tokens.min() <= indices.tokens.max() < 2**6
    assert features.latents is None
    assert indices.latents is None


def test_tre_equals_etr_at_the_first_latent_and_differs_after(codec, picture):
    tre = identity.encode_identity("tre", picture, FRAMES, codec=codec).latents
    etr = identity.encode_identity("etr", picture, FRAMES, codec=codec).latents
    torch.testing.assert_close(tre[:, :, 0], etr[:, :, 0])
    assert torch.equal(etr[:, :, 0], etr[:, :, 1])
    for latent in (1, 2):
        assert (tre[:, :, latent] - etr[:, :, latent]).abs().mean() > 1e-3


def test_clip_takes_the_layer_but_one_of_pictures_as_clip_was_trained_on(picture):
    encoder = clip_encoder()
    seen = []
    encoder.embeddings.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tokens = identity.clip_tokens(encoder, picture)
    every = encoder(seen[0], output_hidden_states=True).hidden_states
    torch.testing.assert_close(tokens, every[2][:, 1:])
    assert not torch.allclose(tokens, every[3][:, 1:])
    identity.clip_tokens(encoder, torch.ones(1, 3, 1, 24, 24))
    white = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    torch.testing.assert_close(seen[-1], torch.tensor(white).view(1, 3, 1, 1).expand(1, 3, 24, 24))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_transformer_trains_with_each_strategy_and_the_encoders_stay_frozen(strategy, codec, picture, tmp_path):
    encoder = image_encoder(strategy)
    encoded = identity.encode_identity(strategy, picture, FRAMES, codec=codec, image_encoder=encoder)
    torch.manual_seed(4)
    transformer = AsymTalkerTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        latent_channels=4,
        audio_dim=10,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        **identity.transformer_arguments(strategy, latent_channels=4, image_encoder=encoder),
    )
    conditions = Conditions(torch.randn(2, FRAMES + 4, 10), encoded)
    noisy = torch.randn(2, 4, 3, SIZE // 8, SIZE // 8)
    velocity = predict_velocity(transformer, noisy, torch.tensor([0.3, 0.9]), conditions)
    assert velocity.shape == noisy.shape
    velocity.square().mean().backward()
    without_gradient = [name for name, parameter in transformer.named_parameters() if parameter.grad is None]
    assert without_gradient == []
    frozen = [*codec.vae.parameters(), *(encoder.parameters() if encoder is not None else [])]
    assert all(parameter.grad is None for parameter in frozen)

    other = Conditions(
        conditions.audio, identity.encode_identity(strategy, -picture, FRAMES, codec=codec, image_encoder=encoder)
    )
    with torch.no_grad():
        assert not torch.allclose(predict_velocity(transformer, noisy, torch.tensor([0.3, 0.9]), other), velocity)
        transformer.save_pretrained(tmp_path)
        loaded = AsymTalkerTransformer3DModel.from_pretrained(tmp_path)
        again = predict_velocity(loaded, noisy, torch.tensor([0.3, 0.9]), conditions)
    torch.testing.assert_close(again, velocity.detach())


def test_wrong_encoder_for_a_strategy_is_refused(codec, picture):
    with pytest.raises(ValueError, match="needs a CLIPVisionModel, got MagvitTokenizer"):
        identity.encode_identity("clip", picture, FRAMES, codec=codec, image_encoder=tokenizer())
    with pytest.raises(ValueError, match="needs a MagvitTokenizer, got NoneType"):
        identity.transformer_arguments("vtp", latent_channels=4)


def test_lookup_free_quantisation_is_the_sign_of_each_channel():
    bits = torch.tensor([[-1.0, 0.5, 0.0, 2.0]]).view(1, 4, 1, 1)
    assert lookup_free_indices(bits).tolist() == [[[0b1010]]]


def published_checkpoint(reference: MagvitTokenizer, averaged: bool) -> dict[str, torch.Tensor]:
    """A state dict laid out as Open-MAGVIT2's training saves it, with a decoder that nobody wants."""
    state = {"decoder.conv_in.weight": torch.zeros(1), "loss.discriminator.weight": torch.zeros(1)}
    for name, value in reference.state_dict().items():
        key = f"encoder.{published_name(name)}"
        state[key] = torch.full_like(value, 7.0) if averaged else value
        if averaged:
            state[f"model_ema.{key.replace('.', '')}"] = value
    return state


@pytest.mark.parametrize("averaged", [False, True])
def test_published_checkpoint_gives_the_same_tokens(averaged, tmp_path):
    reference = tokenizer()
    state = published_checkpoint(reference, averaged)
    for key in (
        "encoder.conv_in.weight",
        "encoder.down.0.block.0.norm1.bias",
        "encoder.down.0.downsample.bias",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.mid_block.0.conv2.weight",
        "encoder.norm_out.weight",
        "encoder.conv_out.bias",
    ):
        assert key in state
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model.ckpt")
    torch.manual_seed(9)
    fresh = MagvitTokenizer(**{key: value for key, value in reference.config.items() if not key.startswith("_")})
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    assert not torch.equal(fresh.encode(pixels), reference.encode(pixels))
    loaded = load_published(tmp_path / "model.ckpt", fresh)
    assert torch.equal(loaded.encode(pixels), reference.encode(pixels))


def test_published_architecture_has_the_published_size():
    with torch.device("meta"):
        whole = MagvitTokenizer()
        bits = whole(torch.zeros(1, 3, 256, 256))
    assert bits.shape == (1, 18, 16, 16)
    assert whole.num_tokens == 256


def test_unusable_checkpoints_say_so(tmp_path):
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="not an Open-MAGVIT2 checkpoint"):
        load_published(tmp_path / "text.ckpt", tokenizer())
    state = published_checkpoint(tokenizer(), averaged=False)
    torch.save({"state_dict": state}, tmp_path / "small.ckpt")
    with pytest.raises(UserError, match=r"conv_in\.weight of shape \(32, 3, 3, 3\)"):
        load_published(tmp_path / "small.ckpt", MagvitTokenizer(base_channels=64, num_res_blocks=1))
    torch.save({"state_dict": {}}, tmp_path / "empty.ckpt")
    with pytest.raises(UserError, match=r"has no encoder\.conv_in\.weight"):
        load_published(tmp_path / "empty.ckpt", tokenizer())


def test_image_encoders_load_from_folders_frozen(tmp_path, picture):
    for strategy, encoder in (("clip", clip_encoder()), ("vtp", tokenizer())):
        encoder.save_pretrained(tmp_path / strategy)
        loaded = identity.load_image_encoder(strategy, tmp_path / strategy)
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(identity.vtp_tokens(loaded, picture), identity.vtp_tokens(encoder, picture))
    assert identity.load_image_encoder("tre", None) is None
    with pytest.raises(UserError, match="needs an image encoder"):
        identity.load_image_encoder("clip", None)
    with pytest.raises(UserError, match="cannot load the image encoder"):
        identity.load_image_encoder("vtp", tmp_path / "nothing")


@pytest.mark.parametrize("strategy", ["clip", "vtp"])
def test_image_encoders_that_could_run_code_are_refused(strategy, tmp_path):
    encoder = image_encoder(strategy)
    encoder.save_pretrained(tmp_path)
    assert identity.load_image_encoder(strategy, tmp_path) is not None
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()
    for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin"):
        torch.save(encoder.state_dict(), tmp_path / name)
    with pytest.raises(UserError, match="cannot load the image encoder"):
        identity.load_image_encoder(strategy, tmp_path)
