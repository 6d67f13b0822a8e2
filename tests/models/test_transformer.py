import warnings

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from asymtalker import timeline
from asymtalker.models import transformer
from asymtalker.models.transformer import (
    MASK_CHANNELS,
    AsymTalkerTransformer3DModel,
    FrameAlignedAttnProcessor,
    attend,
    rotate,
)
from toy import TOY_AUDIO, TOY_CODEC, toy_transformer

FRAMES, CONTEXT = 9, 2
LATENTS = timeline.latents_of_frames(FRAMES)
CHANNELS = 2 * TOY_CODEC.z_dim + MASK_CHANNELS


def inputs(batch: int = 2, channels: int = CHANNELS):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(batch, channels, LATENTS, 4, 4, generator=generator)
    audio = torch.randn(batch, FRAMES + 2 * CONTEXT, TOY_AUDIO.hidden_size, generator=generator)
    return hidden, audio


def test_a_latent_frame_hears_its_own_frames_and_their_context():
    model = toy_transformer()
    audio = torch.zeros(1, FRAMES + 2 * CONTEXT, 1, requires_grad=True)
    windows = model.audio_windows(audio)
    for latent in range(LATENTS):
        (gradient,) = torch.autograd.grad(windows[:, latent].sum(), audio, retain_graph=True)
        heard = {int(index) - CONTEXT for index in gradient[0, :, 0].nonzero()}
        assert heard == set(timeline.audio_window(latent, CONTEXT))


def test_cross_attention_of_a_latent_frame_sees_nothing_else():
    model = toy_transformer()
    attn, slots = model.blocks[0].attn2, model.num_audio_tokens
    assert isinstance(attn.processor, FrameAlignedAttnProcessor)
    tokens = torch.randn(2 * LATENTS, 4, 24)  # two chunks, their latent frames in the batch axis
    audio = torch.randn(2, LATENTS, slots, 24, requires_grad=True)
    mixed = attn(tokens, audio).unflatten(0, (2, LATENTS))
    for latent in range(LATENTS):
        (gradient,) = torch.autograd.grad(mixed[:, latent].square().sum(), audio, retain_graph=True)
        assert [t for t in range(LATENTS) if gradient[:, t].any()] == [latent]


@pytest.mark.parametrize("audio_modulation", [False, True])
def test_audio_far_away_does_not_reach_a_network_without_self_attention(audio_modulation):
    model = toy_transformer(audio_modulation=audio_modulation)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn1.to_out[0].weight)
    hidden, audio = inputs(1)
    before = model(hidden, torch.tensor([500.0]), audio).sample
    audio[:, -1] += 10  # the last frame of context: heard by the last latent frame alone
    after = model(hidden, torch.tensor([500.0]), audio).sample
    assert torch.equal(before[:, :, :-1], after[:, :, :-1])
    assert not torch.allclose(before[:, :, -1], after[:, :, -1])


def test_one_noise_level_is_the_same_level_for_every_latent_frame():
    model = toy_transformer()
    hidden, audio = inputs()
    level = torch.tensor([300.0, 800.0])
    single = model(hidden, level, audio).sample
    torch.testing.assert_close(model(hidden, level[:, None].expand(-1, LATENTS), audio).sample, single)
    mixed = model(hidden, torch.tensor([[0.0, 300.0, 300.0], [0.0, 800.0, 800.0]]), audio).sample
    assert not torch.allclose(mixed, single)


def test_self_attention_is_that_of_wan():
    model = toy_transformer().eval()
    hidden, _ = inputs()
    attn = model.blocks[0].attn1
    tokens = torch.randn(2 * LATENTS, 4, 24)
    rotary = model.rope(hidden)
    ours = attn(tokens, None, None, rotary)
    attn.set_processor(WanAttnProcessor())
    theirs = attn(tokens.reshape(2, -1, 24), None, None, rotary)
    torch.testing.assert_close(ours, theirs.reshape(ours.shape))


def test_bfloat16_attention_on_the_cpu_agrees_with_pytorch():
    query, key, value = (torch.randn(2, n, 3, 8).bfloat16() for n in (10, 7, 7))
    heads = [x.transpose(1, 2).float() for x in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads)
    torch.testing.assert_close(attend(query, key, value).float(), expected.transpose(1, 2), atol=0.03, rtol=0.03)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    model = toy_transformer()
    cos, sin = model.rope(torch.zeros(1, CHANNELS, 5, 2, 2))
    token = torch.randn(1, 1, 1, 12).expand(-1, 5, -1, -1)
    turned = rotate(token, cos, sin)[0, :, 0]
    torch.testing.assert_close(turned.norm(dim=-1), token[0, :, 0].norm(dim=-1))
    products = turned @ turned.T
    for distance in range(5):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_gradient_checkpointing_changes_nothing():
    hidden, audio = inputs(1)
    gradients = []
    for checkpointing in (False, True):
        model = toy_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(hidden, torch.tensor([500.0]), audio).sample.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("prediction_type", ["velocity", "change"])
def test_saved_and_loaded_is_the_same(tmp_path, prediction_type):
    model = toy_transformer(prediction_type=prediction_type, audio_modulation=True)
    model.save_pretrained(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir() if path.name != "config.json"] == [".safetensors"]
    loaded = AsymTalkerTransformer3DModel.from_pretrained(tmp_path)
    assert loaded.config.prediction_type == prediction_type
    hidden, audio = inputs()
    arguments = (hidden, torch.tensor([100.0, 900.0]), audio)
    assert torch.equal(model(*arguments).sample, loaded(*arguments).sample)


def test_image_tokens_reach_every_latent_frame():
    model = toy_transformer(identity_channels=0, image_dim=10, prediction_type="velocity")
    hidden, audio = inputs(channels=TOY_CODEC.z_dim + MASK_CHANNELS)
    tokens = torch.randn(2, 5, 10)
    level = torch.tensor([100.0, 900.0])
    before = model(hidden, level, audio, tokens).sample
    changed = tokens.clone()
    changed[1] += 1
    after = model(hidden, level, audio, changed).sample
    assert torch.equal(before[0], after[0])  # each chunk sees its own picture
    assert ((before[1] - after[1]).abs().amax(dim=(0, 2, 3)) > 0).all()


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="noise"):
        toy_transformer(prediction_type="noise")


def test_a_new_network_adds_nothing_to_the_linear_estimate_and_hears_and_sees_from_the_start():
    model = toy_transformer(audio_modulation=True)
    model.initialize()
    hidden, audio = inputs()
    level = torch.tensor([500.0, 500.0])
    assert not model(hidden, level, audio).sample.any()
    torch.nn.init.normal_(model.proj_out.weight)
    before = model(hidden, level, audio).sample
    assert not torch.allclose(model(hidden, level, audio + 1).sample, before)
    for channels in (slice(0, TOY_CODEC.z_dim), slice(TOY_CODEC.z_dim + MASK_CHANNELS, None)):  # noisy, reference
        other = hidden.clone()
        other[:, channels] += 1
        assert not torch.allclose(model(other, level, audio).sample, before)


def test_patches_that_span_latent_frames_are_refused():
    with pytest.raises(ValueError, match="one latent frame"):
        toy_transformer(patch_size=(2, 2, 2))


def test_noise_level_and_modulation_are_float32_under_autocast():
    """As in Wan: rounded to bfloat16, noise levels next to each other would be one."""
    model = toy_transformer()
    hidden, audio = inputs(1)
    embedder = model.condition_embedder
    recorded: dict[str, list[torch.Tensor]] = {}

    def record(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, given, made: recorded.setdefault(name, []).append(made.detach()))

    parts = {"time": embedder.time_embedder, "modulation": embedder.time_proj}
    for name, module in (parts | {"queries": model.blocks[0].attn1.to_q, "normed": model.norm_out}).items():
        record(name, module)
    given: list[torch.Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: given.append(arguments[2]))
    with torch.no_grad():
        model(hidden, torch.tensor([500.0]), audio)
        with torch.autocast("cpu", torch.bfloat16):
            model(hidden, torch.tensor([500.0]), audio)
    assert recorded["queries"][1].dtype == torch.bfloat16, "autocast was on"
    for name in (*parts, "normed"):
        assert recorded[name][1].dtype == torch.float32, name
    assert given[1].dtype == torch.float32
    for name in parts:
        assert torch.equal(*recorded[name]), name


def test_under_autocast_attention_is_asked_in_one_type_and_norms_do_not_warn(monkeypatch):
    asked = []

    def noted(query, key, value, *others):
        asked.append({query.dtype, key.dtype, value.dtype})
        return attend(query, key, value, *others)

    monkeypatch.setattr(transformer, "attend", noted)
    model = toy_transformer(identity_channels=0, image_dim=8, prediction_type="velocity")
    hidden, audio = inputs(1, TOY_CODEC.z_dim + MASK_CHANNELS)
    warns = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
            warnings.simplefilter("error")
            model(hidden, torch.tensor([500.0]), audio, torch.randn(1, 4, 8))
    finally:
        torch.set_warn_always(warns)
    assert len(asked) == 3 * len(model.blocks)
    assert all(types == {torch.bfloat16} for types in asked)


def test_weights_stored_in_bfloat16_keep_time_and_modulation_in_float32(tmp_path):
    toy_transformer().save_pretrained(tmp_path)
    model = AsymTalkerTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    temb, modulation = model.embed_noise_level(torch.tensor([500.0]))
    assert temb.dtype == modulation.dtype == torch.float32
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
