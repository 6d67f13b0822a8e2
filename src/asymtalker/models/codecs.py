"""The codec of a checkpoint, of whichever kind it is."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin

from asymtalker.codec import Codec, WanCodec
from asymtalker.errors import UserError
from asymtalker.models.folder import moves_pictures
from asymtalker.models.loading import load_part
from asymtalker.models.motion.codec import MotionCodec, MotionCodecModel
from asymtalker.models.motion.control import AS_MADE, MotionControl


def codec_of(network: ModelMixin, autocast: torch.dtype | None = None, control: MotionControl = AS_MADE) -> Codec:
    """The codec with this network.

    Args:
        network: of either kind.
        autocast: the precision that it runs in; ``None`` for the weights' own.
        control: how a portrait is to move.

    Raises:
        UserError: if the codec can't control motion.
    """
    if isinstance(network, MotionCodecModel):
        return MotionCodec(network, autocast, control)
    assert isinstance(network, AutoencoderKLWan), "there are two kinds"
    if control != AS_MADE:
        raise UserError("--motion, --gaze and --no-blinks need a model with a codec of motion; this one makes pixels.")
    return WanCodec(network, autocast)


def load_codec_network(folder: Path, dtype: torch.dtype = torch.float32) -> ModelMixin:
    """The network of the codec in ``folder``.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    if moves_pictures(folder):
        return load_part(MotionCodecModel, folder)
    return load_part(AutoencoderKLWan, folder, dtype)
