"""What the frozen networks make of the chunks of a corpus (end of appendix F), each computed when it is asked for.

No continuity reference is among it: the codec is causal and a chunk is encoded from its own first frame, so the
ground-truth reference of a chunk is the head of its own latents, ``E(x[:K]) == E(x)[:, :, :1 + m]``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from asymtalker.codec import to_pixels
from asymtalker.dataset.buckets import Size, View, nearest_bucket, view_of
from asymtalker.dataset.chunks import chunk_starts, reference_frames
from asymtalker.dataset.corpus import Clip
from asymtalker.errors import UserError
from asymtalker.models.audio import ArraySource, AudioFeatures
from asymtalker.training.frozen import Frozen


class Encoder:
    """Latents, references, audio features and masks of clips.

    Floats are float16, as the cache holds them; everything is on the CPU.

    Args:
        frozen: the frozen codec, audio encoder and identity encoder.
        chunk_frames: frames of a chunk.
        buckets: sizes (height, width in pixels) of which each clip takes the nearest in shape; empty for its own size.
    """

    def __init__(self, frozen: Frozen, chunk_frames: int, buckets: Sequence[Size] = ()):
        self.chunk_frames, self.buckets = chunk_frames, tuple(buckets)
        self.given, self.frozen = frozen, frozen.beside()  # batches are read beside the training
        self._views: dict[str, View] = {}

    def bucket(self, clip: Clip) -> Size:
        """Height and width in pixels at which a clip is seen."""
        return nearest_bucket(clip.row, self.buckets)

    def view(self, clip: Clip) -> View:
        """What is seen of a clip's picture."""
        if clip.key not in self._views:
            self._views[clip.key] = view_of(clip, self.bucket(clip))
        return self._views[clip.key]

    @torch.no_grad()
    def latents(self, clip: Clip, chunk: int) -> Tensor:
        """Latents ``(C, T, h, w)`` of the chunk at :func:`chunk_starts` ``[chunk]``.

        Raises:
            UserError: if the codec can't read its frames, such as faces that are not there.
        """
        start = chunk_starts(clip.num_frames, self.chunk_frames)[chunk]
        pixels = self._pixels(clip, start, start + self.chunk_frames)
        with _named(clip):
            return self.frozen.codec.encode(pixels)[0].cpu().half()

    @torch.no_grad()
    def reference(self, clip: Clip, reference: int) -> Tensor:
        """The identity reference at :func:`reference_frames` ``[reference]``: latents ``(C, T, h, w)`` for TRE and
        ETR, tokens ``(I, ...)`` for CLIP and VTP; raises as :meth:`latents`."""
        frame = reference_frames(clip.key, clip.num_frames, self.chunk_frames)[reference]
        pixels = self._pixels(clip, frame, frame + 1)
        with _named(clip):
            identity = self.frozen.encode_identity(pixels, self.chunk_frames)
        value = identity.latents if identity.latents is not None else identity.tokens
        assert value is not None
        return (value.half() if value.is_floating_point() else value)[0].cpu()

    def audio(self, clip: Clip, start: int, stop: int) -> Tensor:
        """Audio features ``(stop - start, A)`` of frames ``[start, stop)``, which may lie outside the clip."""
        source = ArraySource(clip.audio())
        features = AudioFeatures(self.frozen.audio_encoder, self.frozen.extractor, source, self.frozen.autocast)
        return features.frames(start, stop)[0].cpu().half()

    def mask(self, clip: Clip, start: int, stop: int) -> Tensor:
        """Face masks ``(stop - start, H, W)`` uint8 of frames ``[start, stop)``, as they are seen."""
        return torch.from_numpy(self.view(clip).cut(clip.mask(start, stop)))

    def _pixels(self, clip: Clip, start: int, stop: int) -> Tensor:
        return to_pixels(self.view(clip).cut(clip.frames(start, stop))).to(self.frozen.device)


@contextmanager
def _named(clip: Clip) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{clip.key} of {clip.shard.parent} can't be encoded: {error}") from None
