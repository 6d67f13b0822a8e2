"""The frozen networks that training stands on: codec, audio encoder, identity encoder."""

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor

from asymtalker.codec import Codec
from asymtalker.config import IdentityStrategy, LoopConfig, difference
from asymtalker.errors import UserError
from asymtalker.models.audio import AudioEncoder, load_audio_encoder
from asymtalker.models.codecs import codec_of, load_codec_network
from asymtalker.models.identity import Identity, ImageEncoder, encode_identity, load_image_encoder
from asymtalker.models.loading import load_part
from asymtalker.training.run_folder import precision

M = TypeVar("M", bound=nn.Module)

MEASURED = ("latents_mean", "latents_std")  # settings of a codec that training measures


@dataclass(frozen=True)
class Frozen:
    """Networks that receive no gradient.

    Attributes:
        codec: the 3D causal VAE, or the codec of motion.
        audio_encoder: wav2vec2, or the bundled model's own.
        extractor: its feature extractor.
        strategy: how the identity picture is encoded.
        image_encoder: what the CLIP and VTP strategies need, ``None`` for TRE and ETR.
        autocast: precision they run in, ``None`` for float32.
        device: where they are.
    """

    codec: Codec
    audio_encoder: AudioEncoder
    extractor: Wav2Vec2FeatureExtractor
    strategy: IdentityStrategy
    image_encoder: ImageEncoder | None
    autocast: torch.dtype | None
    device: torch.device

    def encode_identity(self, pictures: Tensor, num_frames: int) -> Identity:
        """Identity references of pictures ``(B, 3, 1, H, W)`` in [-1, 1] for chunks of ``num_frames`` frames."""
        return encode_identity(self.strategy, pictures, num_frames, codec=self.codec, image_encoder=self.image_encoder)

    def beside(self) -> "Frozen":
        """The same networks, of the same weights, for a second thread: while they run they keep things on
        themselves."""
        codec = codec_of(_sharing(self.codec.vae), self.codec.autocast)
        images = self.image_encoder and _sharing(self.image_encoder)
        return replace(self, codec=codec, audio_encoder=_sharing(self.audio_encoder), image_encoder=images)

    def network(self) -> torch.autocast:
        """The precision a network is run in. No weight is cast twice in a pass, so casts are not kept: one made while
        gradients are off would later hide the gradient."""
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, self.autocast, enabled=enabled, cache_enabled=False)

    @cached_property
    def codec_digest(self) -> str:
        """Names the codec: its weights and latent statistics."""
        return digest(self.codec.encoder, *self.codec.statistics)

    @cached_property
    def audio_digest(self) -> str:
        """Names the audio encoder: its weights and what the extractor does to the waveform."""
        return digest(self.audio_encoder, self.extractor.do_normalize and "by the whole sound")

    @cached_property
    def identity_digest(self) -> str:
        """Names the identity encoder, and what a codec makes of one picture that it does not make of a video."""
        if self.image_encoder is not None:
            return digest(self.image_encoder)
        return " ".join(map(str, (self.codec_digest, *self.codec.pictures)))


def _sharing(module: M) -> M:
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def digest(module: nn.Module, *settings: object) -> str:
    """SHA-256 of a network's weights and of settings that change what it gives."""
    sha = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def load_like(expected: AutoencoderKLWan, folder: Path) -> AutoencoderKLWan:
    """The codec in ``folder``, which must be of the size of ``expected``.

    Raises:
        UserError: naming what differs, and whatever :func:`load_part` raises.
    """
    loaded = load_part(AutoencoderKLWan, folder)
    check_settings(folder, *(json.loads(part.to_json_string()) for part in (loaded, expected)))
    return loaded


def check_settings(folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that the network in ``folder`` has the settings of the one that is wanted.

    Raises:
        UserError: naming what differs.
    """
    changed = [line for line in difference(saved, wanted) if not line.startswith(("_", *MEASURED))]
    if changed:
        raise UserError(f"{folder}: holds a network of other settings than this run's ({'; '.join(changed)})")


def load_frozen(model_path: Path, strategy: IdentityStrategy, loop: LoopConfig) -> Frozen:
    """Load ``vae/``, ``audio_encoder/``, ``feature_extractor/`` and, for CLIP and VTP, ``image_encoder/``.

    Raises:
        UserError: if one of them is missing or damaged.
    """
    device = torch.device(loop.device)
    vae = freeze(load_codec_network(model_path / "vae"), device)
    encoder = freeze(load_audio_encoder(model_path / "audio_encoder"), device)
    extractor = load_part(Wav2Vec2FeatureExtractor, model_path / "feature_extractor")
    autocast = precision(loop)
    images = load_image_encoder(strategy, model_path / "image_encoder")
    if images is not None:
        freeze(images, device)
    return Frozen(codec_of(vae, autocast), encoder, extractor, strategy, images, autocast, device)


def freeze(module: M, device: torch.device) -> M:
    """Move ``module`` to ``device`` for evaluation, without gradients; returns it."""
    nn.Module.to(module, device)
    return module.eval().requires_grad_(False)
