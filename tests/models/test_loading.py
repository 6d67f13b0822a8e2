"""Parts of a checkpoint are loaded whole or not at all."""

import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)

from asymtalker.errors import UserError
from asymtalker.models.identity import load_image_encoder
from asymtalker.models.loading import load_part
from asymtalker.models.magvit import MagvitTokenizer


def without(file, name: str) -> None:
    weights = load_file(file)
    del weights[name]
    save_file(weights, file, {"format": "pt"})


def test_a_codec_that_lacks_a_weight_is_refused(toy_vae, tmp_path):
    toy_vae.save_pretrained(tmp_path)
    loaded = load_part(type(toy_vae), tmp_path)
    assert torch.equal(loaded.encoder.conv_in.weight, toy_vae.encoder.conv_in.weight)
    without(tmp_path / "diffusion_pytorch_model.safetensors", "decoder.conv_out.bias")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sentence has to come without the library's warning
        with pytest.raises(UserError, match=r"1 of its weights are missing, such as decoder\.conv_out\.bias"):
            load_part(type(toy_vae), tmp_path)


@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_weights_of_other_shapes_or_of_no_use_are_refused_plainly(toy_vae, tmp_path, shards, capfd):
    toy_vae.save_pretrained(tmp_path, max_shard_size=shards)
    (file,) = (path for path in tmp_path.glob("*.safetensors") if "decoder.conv_out.bias" in load_file(path))
    weights = load_file(file)
    save_file(weights | {"decoder.extra": torch.zeros(2)}, file, {"format": "pt"})
    if shards == "10GB":  # a sharded model's index is what tells
        with pytest.raises(UserError, match=r"it has no place for 1 of the weights there, such as decoder\.extra"):
            load_part(type(toy_vae), tmp_path)
    save_file(weights | {"decoder.conv_out.bias": torch.zeros(5)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"weight decoder\.conv_out\.bias is 5, where its config asks for 12") as error:
        load_part(type(toy_vae), tmp_path)
    assert "ignore_mismatched_sizes" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [Wav2Vec2ForPreTraining, Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification])
def test_heads_of_published_wav2vec2s_are_left_out(toy_audio_encoder, tmp_path, kind):
    whole = kind(toy_audio_encoder.config)
    whole.save_pretrained(tmp_path)
    loaded = load_part(Wav2Vec2Model, tmp_path)
    weight = loaded.feature_projection.projection.weight
    assert torch.equal(weight, whole.wav2vec2.feature_projection.projection.weight)


def test_the_vision_half_of_a_published_clip_is_taken(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, text = sizes | {"image_size": 28, "patch_size": 14}, sizes | {"vocab_size": 10}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    older = {f"{part}.embeddings.position_ids": torch.arange(5) for part in ("vision_model", "text_model")}
    save_file(load_file(file) | older, file, {"format": "pt"})
    assert load_image_encoder("clip", tmp_path) is not None


@pytest.mark.parametrize("strategy", ["clip", "vtp"])
def test_an_image_encoder_that_lacks_a_weight_is_refused(strategy, tmp_path):
    if strategy == "clip":
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        encoder = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14))
    else:
        encoder = MagvitTokenizer(
            base_channels=32, channel_multipliers=(1, 2, 2), num_res_blocks=1, codebook_bits=6, sample_size=16
        )
    encoder.save_pretrained(tmp_path)
    assert load_image_encoder(strategy, tmp_path) is not None
    (file,) = tmp_path.glob("*.safetensors")
    without(file, sorted(load_file(file))[-1])
    with pytest.raises(UserError, match="1 of its weights are missing"):
        load_image_encoder(strategy, tmp_path)


def test_another_network_s_folder_is_refused_by_its_name(toy_vae, tmp_path):
    toy_vae.save_pretrained(tmp_path / "run" / "vae")
    with pytest.raises(UserError, match="tells of a AutoencoderKLWan, not of MagvitTokenizer"):
        load_part(MagvitTokenizer, tmp_path / "run" / "vae")
    with pytest.raises(UserError, match=r"run has no config\.json: did you mean .*run/vae\?"):
        load_part(type(toy_vae), tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"loop": {}}')  # a training's settings
    with pytest.raises(UserError, match=r"tells of no network, not of AutoencoderKLWan: did you mean .*run/vae\?"):
        load_part(type(toy_vae), tmp_path / "run")
