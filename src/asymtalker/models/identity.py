"""How the identity picture enters the network: TRE (eq. 3, 4) and ETR as latents, CLIP and VTP as image tokens (appendix G)."""

from dataclasses import dataclass

from torch import Tensor

from asymtalker import timeline
from asymtalker.codec import Codec


@dataclass(frozen=True)
class Identity:
    """The identity condition of a chunk; exactly one field is set.

    Attributes:
        latents: ``(B, C, T, h, w)`` for TRE and ETR.
        tokens: ``(B, I, image_dim)`` for CLIP and VTP.
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
    """ETR: encode one frame, repeat the latent ``T`` times. Shapes as in :func:`temporal_reference`."""
    return codec.encode(picture).expand(-1, -1, timeline.latents_of_frames(num_frames), -1, -1)
