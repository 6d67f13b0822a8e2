"""Published Wan weights, in their published layout at toy size, become ours and compute what they did."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from asymtalker.checkpoints.convert import convert_checkpoint, convert_transformer
from asymtalker.checkpoints.settings import Convert
from asymtalker.config import TransformerConfig
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.recipes import wan_1_3b
from asymtalker.training.frozen import load_frozen
from asymtalker.training.network import start_transformer
from toy import toy_loop

SIZES = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 20,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
}
AUDIO = 16
TRE = {"identity_channels": 6, "audio_dim": AUDIO}


def wan(**changes) -> WanTransformer3DModel:
    torch.manual_seed(0)
    network = WanTransformer3DModel(**(SIZES | {"in_channels": 6, "out_channels": 6} | changes)).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)  # biases and norms too, or they could be forgotten
    return network


@pytest.fixture
def text_to_video(tmp_path) -> Path:
    """The folder ``transformer`` of a text-to-video checkpoint, in several files with an index, as published."""
    wan().save_pretrained(tmp_path / "wan" / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "wan" / "transformer").glob("*.safetensors"))) > 2
    return tmp_path / "wan" / "transformer"


@torch.no_grad()
def ours(network: AsymTalkerTransformer3DModel, latents: torch.Tensor, time: torch.Tensor, **more) -> torch.Tensor:
    """On latents whose new inputs are zero, and sound of zeros."""
    missing = network.patch_embedding.in_channels - latents.shape[1]
    rest = latents.new_zeros(len(latents), missing, *latents.shape[2:])
    frames = 1 + 4 * (latents.shape[2] - 1)
    sound = latents.new_zeros(len(latents), frames + 2 * network.config.audio_context, AUDIO)
    return network(torch.cat([latents, rest], 1), time, sound, **more).sample


def test_with_the_new_inputs_at_zero_it_is_wan_exactly(text_to_video):
    network, conversion = convert_transformer(text_to_video, TRE, torch.float32)
    latents, time = torch.randn(2, 6, 3, 8, 8), torch.tensor([300, 900])
    with torch.no_grad():
        theirs = wan()(latents, time, torch.zeros(2, 7, SIZES["text_dim"])).sample
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours(network, latents, time), theirs, rtol=1e-4, atol=1e-5)
    assert conversion.widened == ["patch_embedding.weight"]
    assert sorted(conversion.new) == ["audio_slots", "condition_embedder.text_embedder.linear_1.weight"]
    assert conversion.dropped == []
    everything = {*conversion.kept, *conversion.widened, *conversion.new}
    assert everything == set(network.state_dict())
    heard = network(torch.randn(1, 16, 3, 8, 8), torch.tensor([500]), torch.randn(1, 13, AUDIO)).sample
    assert heard.isfinite().all()


def test_image_to_video_keeps_its_picture_branch_for_the_clip_strategy(tmp_path):
    changes = {"in_channels": 16, "image_dim": 10, "added_kv_proj_dim": 24}
    published = wan(**changes)
    published.save_pretrained(tmp_path / "transformer")
    arguments = {"identity_channels": 0, "image_dim": 10, "audio_dim": AUDIO}
    network, conversion = convert_transformer(tmp_path / "transformer", arguments, torch.float32)
    latents, time, image = torch.randn(1, 6, 2, 8, 8), torch.tensor([500]), torch.randn(1, 5, 10)
    given = torch.cat([latents, torch.zeros(1, 10, 2, 8, 8)], 1)
    with torch.no_grad():
        theirs = published(given, time, torch.zeros(1, 512, SIZES["text_dim"]), image).sample
    mine = ours(network, latents, time, encoder_hidden_states_image=image)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    network, conversion = convert_transformer(tmp_path / "transformer", TRE, torch.float32)
    assert conversion.widened == []  # noise, mask and picture are inputs of image to video already
    torch.testing.assert_close(network.patch_embedding.weight, published.patch_embedding.weight)
    assert all("add_" in name or "image_embedder" in name or "norm_added" in name for name in conversion.dropped)
    assert conversion.dropped


def test_norms_time_and_modulation_keep_their_precision(text_to_video):
    weights = convert_transformer(text_to_video, TRE, torch.bfloat16)[0].state_dict()
    time = "condition_embedder.time_embedder.linear_1.weight"
    for name in ("scale_shift_table", "blocks.1.scale_shift_table", time):
        assert torch.equal(weights[name], wan().state_dict()[name]), name
    assert weights["proj_out.weight"].dtype == torch.bfloat16


def test_new_weights_follow_the_seed(text_to_video):
    name = "condition_embedder.text_embedder.linear_1.weight"
    one, same, other = (
        convert_transformer(text_to_video, TRE, torch.float32, seed)[0].state_dict()[name] for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_converted_checkpoint_loads_saves_and_is_where_training_starts(
    text_to_video, toy_vae, toy_audio_encoder, toy_extractor, tmp_path, capsys
):
    toy_vae.save_pretrained(text_to_video.parent / "vae")
    toy_audio_encoder.save_pretrained(tmp_path / "wav2vec")
    toy_extractor.save_pretrained(tmp_path / "wav2vec")
    source, out = str(text_to_video.parent), tmp_path / "init"
    settings = Convert(wan=source, wav2vec=str(tmp_path / "wav2vec"), out=out, size="32", dtype="float32")
    convert_checkpoint(settings, wan_1_3b())
    said = capsys.readouterr().err
    assert "widened: 1 weights" in said
    flags = "--config.model.num-attention-heads 2 --config.model.attention-head-dim 12 --config.model.ffn-dim 48"
    assert f"another network: train with {flags}" in " ".join(said.split())
    assert str(tmp_path) not in (out / "transformer" / "config.json").read_text()
    pipeline = AsymTalkerPipeline.from_pretrained(out)
    assert pipeline.settings.chunk.frames == 81
    pipeline.save_pretrained(tmp_path / "again")
    again = AsymTalkerTransformer3DModel.from_pretrained(tmp_path / "again" / "transformer")
    for name, weight in pipeline.transformer.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    model = TransformerConfig(num_attention_heads=2, attention_head_dim=12, ffn_dim=48, num_layers=2, freq_dim=32)
    teacher = replace(wan_1_3b().teacher, model=model, init=out, loop=toy_loop())
    started = start_transformer(teacher, load_frozen(out, "tre", toy_loop()))
    assert torch.equal(started.proj_out.weight, again.proj_out.weight)


def spoil_index(folder: Path) -> None:
    next(folder.glob("*-00002-of-*")).unlink()


def spoil_file(folder: Path) -> None:
    file = next(folder.glob("*-00002-of-*"))
    file.write_bytes(file.read_bytes()[:-100])


def spoil_shape(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        if "proj_out.weight" in weights:
            save_file(weights | {"proj_out.weight": weights["proj_out.weight"][:, :5].contiguous()}, file)


def spoil_key(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        weights.pop("blocks.1.attn1.to_q.weight", None)
        save_file(weights, file)


def spoil_patches(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        if "patch_embedding.weight" in weights:
            patches = weights["patch_embedding.weight"]
            save_file(weights | {"patch_embedding.weight": torch.cat([patches, patches[:, :1]], 1)}, file)


def spoil_depth(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 1}))


def spoil_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "FluxTransformer2DModel"}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_index, r"lacks diffusion_pytorch_model-00002-of-"),
        (spoil_file, r"00002-of-\d+\.safetensors is damaged or cut short"),
        (spoil_shape, r"proj_out\.weight has the shape \(24, 5\), but config\.json tells \(24, 24\)"),
        (spoil_key, r"the weight blocks\.1\.attn1\.to_q\.weight is missing"),
        (
            spoil_patches,
            r"patch_embedding\.weight has the shape \(24, 7, 1, 2, 2\), .* tells of 6 in_channels",
        ),
        (spoil_depth, r"holds blocks\.1\..*, of which config\.json does not tell"),
        (spoil_class, "tells of a FluxTransformer2DModel"),
        (shutil.rmtree, "has no config.json"),
    ],
)
def test_what_is_missing_or_of_another_architecture_is_named(text_to_video, spoil, says):
    spoil(text_to_video)
    with pytest.raises(UserError, match=says):
        convert_transformer(text_to_video, TRE, torch.float32)


def test_a_failed_conversion_leaves_nothing(text_to_video, toy_vae, toy_audio_encoder, toy_extractor, tmp_path):
    toy_vae.save_pretrained(text_to_video.parent / "vae")
    toy_audio_encoder.save_pretrained(tmp_path / "wav2vec")
    toy_extractor.save_pretrained(tmp_path / "wav2vec")
    settings = Convert(
        wan=str(text_to_video.parent), wav2vec=str(tmp_path / "wav2vec"), out=tmp_path / "new" / "init", size="32"
    )
    config = tmp_path / "wav2vec" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "hubert"}))
    with pytest.raises(UserError, match=r"config\.json tells of a hubert, not of a wav2vec2"):
        convert_checkpoint(settings, wan_1_3b())
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="taken is a file"):
        convert_checkpoint(replace(settings, out=tmp_path / "taken"), wan_1_3b())
