"""Parts of a checkpoint are loaded whole or not at all."""

import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

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
