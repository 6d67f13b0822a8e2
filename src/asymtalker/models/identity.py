"""How the identity picture enters the network: TRE (eq. 3, 4), ETR, CLIP and VTP (appendix G).

TRE and ETR are latents that join the input channels; CLIP and VTP are image tokens for an added cross-attention.
Everything here is frozen. What is trained of CLIP and VTP (their projection, the embedding of VTP's discrete tokens)
belongs to :class:`asymtalker.models.transformer.AsymTalkerTransformer3DModel`: saved, averaged and distilled with it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, assert_never

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from asymtalker import timeline
from asymtalker.codec import Codec
from asymtalker.config import IdentityStrategy
from asymtalker.errors import UserError
from asymtalker.models.loading import load_network
from asymtalker.models.magvit import MagvitTokenizer, load_published

ImageEncoder = CLIPVisionModel | MagvitTokenizer
Kind = TypeVar("Kind", CLIPVisionModel, MagvitTokenizer)

VISUAL_TOKEN_DIM = 256
"""Size of the embedding of a VTP token before its projection; the paper does not give it."""


@dataclass(frozen=True)
class Identity:
    """The identity condition of a chunk; exactly one field is set.

    Attributes:
        latents: ``(B, C, T, h, w)`` for TRE and ETR.
        tokens: ``(B, I, image_dim)`` features for CLIP, ``(B, I)`` int64 token indices for VTP.
    """

    latents: Tensor | None = None
    tokens: Tensor | None = None


def temporal_reference(codec: Codec, picture: Tensor, num_frames: int) -> Tensor:
    """TRE: ``z_id = E(repeat(I, F))`` (eq. 3, 4).

    Args:
        codec: the frozen codec.
        picture: pixels ``(B, 3, 1, H, W)`` in [-1, 1].
        num_frames: frames of a chunk, ``1 + 4m``.

    Returns:
        Normalised latents ``(B, C, T, h, w)``, the same for every chunk of a video.
    """
    return codec.encode(picture.expand(-1, -1, num_frames, -1, -1))


def encode_then_repeat(codec: Codec, picture: Tensor, num_frames: int) -> Tensor:
    """ETR (eq. 29): encode one frame, repeat the latent ``T`` times. Shapes as in :func:`temporal_reference`."""
    return codec.encode(picture).expand(-1, -1, timeline.latents_of_frames(num_frames), -1, -1)


def clip_tokens(encoder: CLIPVisionModel, picture: Tensor) -> Tensor:
    """CLIP (eq. 25): grid features of the last layer but one, without the class token.

    Args:
        encoder: frozen CLIP vision encoder with ``P`` patches on a side.
        picture: pixels ``(B, 3, 1, H, W)`` in [-1, 1]; the whole picture is resized to the encoder's square.

    Returns:
        ``(B, P * P, hidden_size)``, rows from the top.
    """
    size = encoder.config.image_size
    assert isinstance(size, int), "CLIP's pictures are square"
    pixels = _resize(picture[:, :, 0], size).clamp(-1, 1) / 2 + 0.5
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    pixels = ((pixels - mean) / std).to(encoder.dtype)
    return encoder(pixels, output_hidden_states=True).hidden_states[-2][:, 1:].float()


def vtp_tokens(tokenizer: MagvitTokenizer, picture: Tensor) -> Tensor:
    """VTP (eq. 27): discrete tokens of the picture.

    Args:
        tokenizer: frozen Open-MAGVIT2 tokenizer.
        picture: pixels ``(B, 3, 1, H, W)`` in [-1, 1], resized to the tokenizer's ``sample_size``.

    Returns:
        ``(B, num_tokens)``, int64, rows from the top.
    """
    pixels = _resize(picture[:, :, 0], tokenizer.config.sample_size).clamp(-1, 1)
    return tokenizer.encode(pixels.to(tokenizer.dtype))


@torch.no_grad()
def encode_identity(
    strategy: IdentityStrategy,
    picture: Tensor,
    num_frames: int,
    *,
    codec: Codec,
    image_encoder: ImageEncoder | None = None,
) -> Identity:
    """The identity condition of a video, computed once for all its chunks, without gradient.

    Args:
        strategy: how the picture enters the network.
        picture: pixels ``(B, 3, 1, H, W)`` in [-1, 1].
        num_frames: frames of a chunk, ``1 + 4m``.
        codec: the frozen codec.
        image_encoder: for CLIP and VTP, from :func:`load_image_encoder`.

    Raises:
        ValueError: if ``image_encoder`` is not the one that the strategy needs.
    """
    match strategy:
        case "tre":
            return Identity(latents=temporal_reference(codec, picture, num_frames))
        case "etr":
            return Identity(latents=encode_then_repeat(codec, picture, num_frames))
        case "clip":
            return Identity(tokens=clip_tokens(_expect(image_encoder, CLIPVisionModel), picture))
        case "vtp":
            return Identity(tokens=vtp_tokens(_expect(image_encoder, MagvitTokenizer), picture))
        case _:
            assert_never(strategy)


def transformer_arguments(
    strategy: IdentityStrategy, *, latent_channels: int, image_encoder: ImageEncoder | None = None
) -> dict[str, Any]:
    """The arguments of ``AsymTalkerTransformer3DModel`` that depend on the strategy.

    Args:
        strategy: how the picture enters the network.
        latent_channels: channels of the codec.
        image_encoder: for CLIP and VTP, from :func:`load_image_encoder`.

    Raises:
        ValueError: if ``image_encoder`` is not the one that the strategy needs.
    """
    match strategy:
        case "tre" | "etr":
            return {"identity_channels": latent_channels}
        case "clip":
            encoder = _expect(image_encoder, CLIPVisionModel)
            return {"identity_channels": 0, "image_dim": encoder.config.hidden_size}
        case "vtp":
            tokenizer = _expect(image_encoder, MagvitTokenizer)
            return {
                "identity_channels": 0,
                "image_dim": VISUAL_TOKEN_DIM,
                "image_codebook_bits": tokenizer.config.codebook_bits,
                "num_image_tokens": tokenizer.num_tokens,
            }
        case _:
            assert_never(strategy)


def load_image_encoder(strategy: IdentityStrategy, source: str | Path | None) -> ImageEncoder | None:
    """The frozen image encoder that a strategy needs, in evaluation mode and without gradients.

    Args:
        strategy: ``None`` is returned for TRE and ETR.
        source: for CLIP a folder or hub id of a CLIP model (``openai/clip-vit-large-patch14``); for VTP a folder
            that ``MagvitTokenizer.save_pretrained`` wrote, or Open-MAGVIT2's own ``imagenet_256_L.ckpt``.

    Raises:
        UserError: if there is no such model.
    """
    if strategy in ("tre", "etr"):
        return None
    if source is None:
        raise UserError(f"the identity strategy {strategy} needs an image encoder: give its folder, file or hub id")
    try:
        if strategy == "clip":
            encoder = load_network(CLIPVisionModel, source, torch.float32)
        elif Path(source).is_file():
            encoder = load_published(Path(source), MagvitTokenizer())
        else:
            encoder = load_network(MagvitTokenizer, source, torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot load the image encoder of the identity strategy {strategy}: {reason}") from error
    return encoder.requires_grad_(False).eval()


def _expect(encoder: ImageEncoder | None, kind: type[Kind]) -> Kind:
    if not isinstance(encoder, kind):
        raise ValueError(f"this identity strategy needs a {kind.__name__}, got {type(encoder).__name__}")
    return encoder


def _resize(pixels: Tensor, size: int) -> Tensor:
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
