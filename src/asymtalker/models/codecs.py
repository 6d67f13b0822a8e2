"""The codec of a checkpoint, of whichever kind it is."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin

from asymtalker.codec import Codec, WanCodec
from asymtalker.errors import UserError
from asymtalker.models.loading import load_part, read_settings
from asymtalker.models.motion.codec import MotionCodec, MotionCodecModel


def codec_of(network: ModelMixin, autocast: torch.dtype | None = None) -> Codec:
    """The codec with this network, run in a precision; ``None`` for the weights' own."""
    if isinstance(network, MotionCodecModel):
        return MotionCodec(network, autocast)
    assert isinstance(network, AutoencoderKLWan), "there are two kinds"
    return WanCodec(network, autocast)


def load_codec_network(folder: Path, dtype: torch.dtype = torch.float32) -> ModelMixin:
    """The network of the codec in ``folder``.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    try:
        read_settings(folder / "config.json", MotionCodecModel.__name__)
    except UserError:
        return load_part(AutoencoderKLWan, folder, dtype)  # which says what is wrong
    return load_part(MotionCodecModel, folder)
