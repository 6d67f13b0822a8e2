"""Random training chunks of a corpus, encoded now or read from the cache, and what the losses ask for beside them."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asymtalker.config import ChunkConfig, LoopConfig
from asymtalker.dataset.buckets import Size, by_bucket
from asymtalker.dataset.cache import Cache, encode_corpus
from asymtalker.dataset.chunks import AUDIO_MARGIN, Choice, Chooser, draw_clip, usable_clips
from asymtalker.dataset.corpus import Clip, ManifestRow
from asymtalker.dataset.encode import Encoder
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.identity import Identity
from asymtalker.training.distributed import micro_batches, world
from asymtalker.training.frozen import Frozen

HELD_OUT_CLIPS = 8


@dataclass(frozen=True)
class ClipFeatures:
    """Audio features of a piece of each clip of a batch, by frame as :mod:`asymtalker.rollout` asks for them.

    Attributes:
        features: ``(B, N, A)``.
        first: frame that index 0 stands for.
    """

    features: Tensor
    first: int

    def frames(self, start: int, stop: int) -> Tensor:
        """Features ``(B, stop - start, A)``; frames past either end repeat the last one there."""
        index = torch.arange(start, stop, device=self.features.device) - self.first
        return self.features[:, index.clamp(0, self.features.shape[1] - 1)]

    def moved(self, frames: int) -> "ClipFeatures":
        """The same sound on a time axis that begins ``frames`` earlier."""
        return ClipFeatures(self.features, self.first + frames)


@dataclass(frozen=True)
class Batch:
    """Chunks of ``B`` clips with their conditions.

    Attributes:
        keys: the clips.
        starts: first frame of each chunk in its clip.
        latents: ground truth ``(B, C, T, h, w)``, float32; ``T`` is 0 where nobody asked for it.
        audio: features by frame; frame 0 is the chunk's first. It reaches back over the chunks before it.
        identity: the identity reference.
        size: height and width of the frames in pixels, the same for all chunks of a batch.
        masks: face masks of the chunk's frames, ``(B, 1, F, H, W)`` uint8, if asked for.
        elapsed: frames of the video before the chunks, as of which their portraits were chosen; ``None`` where these
            were taken at another time.
    """

    keys: tuple[str, ...]
    starts: tuple[int, ...]
    latents: Tensor
    audio: ClipFeatures
    identity: Identity
    size: Size
    masks: Tensor | None = None
    elapsed: int | None = None


class ChunkSource:
    """Random chunks of a corpus; a batch is a pure function of a generator, the same with and without cache.

    Args:
        folder: the corpus.
        split: ``"train"`` or ``"test"``.
        frozen: the frozen networks.
        chunk: chunk length and continuity window.
        chunks: chunks in a row that must fit in a clip; batches hold the last of them.
        limit: use no more than this many clips, ``None`` for all.
        buckets: sizes (height, width in pixels) of which each clip takes the nearest in shape; empty for the clips'
            own, which is then one.
        cache: encode all clips first (:attr:`encoded`) and keep that beside the corpus; otherwise a chunk that is not
            there is encoded when it is drawn, and nothing is written.

    Raises:
        UserError: if the split has no clip that is long enough, or clips of a size that cannot be trained on.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        frozen: Frozen,
        chunk: ChunkConfig,
        chunks: int = 1,
        limit: int | None = None,
        *,
        buckets: Sequence[Size] = (),
        cache: bool = True,
    ):
        self.folder, self.device = folder, frozen.device
        self.spatial, self.channels = frozen.codec.spatial, frozen.codec.channels
        self.chunk_frames = chunk.frames
        self.lead = (chunks - 1) * (chunk.frames - chunk.continuity_frames)
        self.clips = usable_clips(folder, self.lead + chunk.frames, split)[:limit]
        if not self.clips:
            longest = max((clip.num_frames for clip in usable_clips(folder, 0, split)), default=0)
            raise UserError(
                f"{folder}: no {split} clip has the {self.lead + chunk.frames} frames that training needs (the longest"
                f" has {longest}); add longer clips or use a shorter chunk"
            )
        self._encoder, self._cache = Encoder(frozen, chunk.frames, buckets), cache
        self._choose_from(self.clips)

    def _choose_from(self, clips: Sequence[Clip]) -> None:
        self.clips = list(clips)
        groups = by_bucket(self.clips, self._encoder.buckets, self.spatial)
        self._of_size = {size: Chooser(clips, self.chunk_frames, self.lead) for size, clips in groups.items()}

    @property
    def rows(self) -> list[ManifestRow]:
        """The clips' rows of the manifest."""
        return [clip.row for clip in self.clips]

    @cached_property
    def encoded(self) -> Cache:
        """What batches are made of. With ``cache`` the first use encodes the clips that are not yet, which may take
        hours; all processes come here together. Clips that can't be encoded are drawn no more.

        Raises:
            UserError: if there is no other.
        """
        if not self._cache:
            return Cache(self._encoder)
        cache = encode_corpus(self._encoder, self.clips)
        if not (whole := [clip for clip in self.clips if not cache.missing(clip)]):
            raise UserError(f"{self.folder}: none of its {len(self.clips)} clips of this split can be encoded")
        self._choose_from(whole)
        return cache

    @property
    def largest(self) -> Size:
        """That of most pixels of :attr:`sizes`."""
        return max(self.sizes, key=math.prod)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Heights and widths in pixels that batches come in."""
        return tuple(self._of_size)

    def frames(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        """Frames ``[start, stop)`` of a clip as they are trained on, ``(n, H, W, 3)`` uint8."""
        return self.encoded.view(clip).cut(clip.frames(start, stop))

    def beginning(self, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """The first frames of the first clip, ``num_frames`` or all there are, as :meth:`frames`; and its sound."""
        clip = self.clips[0]
        return self.frames(clip, 0, min(clip.num_frames, num_frames)), clip.audio()

    def batch(
        self,
        size: int,
        generator: torch.Generator,
        elapsed: int | None = None,
        *,
        target: bool = True,
        masks: bool = True,
    ) -> Batch:
        """``size`` random chunks with their references (:meth:`asymtalker.dataset.chunks.Chooser.choose`, also on
        ``elapsed``), all of the first one's bucket. What takes time to read is asked for: ``target`` the ground-truth
        latents, ``masks``. It changes no draw.
        """
        encoded, choices = self.encoded, list[Choice]()
        clips = self.clips
        while len(choices) < size:
            clip = draw_clip(clips, generator)
            bucket = self._encoder.bucket(clip) if self.spatial else self.sizes[0]
            choices.append(self._of_size[bucket].choose(clip, generator, elapsed))
            clips = self._of_size[bucket].clips
        spans = [(choice.clip, choice.start, choice.start + self.chunk_frames) for choice in choices]
        cells = (bucket[0] // self.spatial, bucket[1] // self.spatial) if self.spatial else (1, 1)
        reference = self._stacked([encoded.reference(choice.portrait, choice.reference) for choice in choices])
        return Batch(
            keys=tuple(choice.clip.key for choice in choices),
            elapsed=elapsed,
            starts=tuple(choice.start for choice in choices),
            latents=self._stacked([encoded.latents(choice.clip, choice.chunk) for choice in choices])
            if target
            else torch.empty(size, self.channels, 0, *cells, device=self.device),
            audio=self._audio(spans),
            identity=Identity(latents=reference) if reference.ndim == 5 else Identity(tokens=reference),
            size=bucket,
            masks=self._stacked([encoded.mask(*span)[None] for span in spans]) if masks and self.spatial else None,
        )

    def _stacked(self, pieces: list[Tensor]) -> Tensor:
        values = torch.stack(pieces)
        return (values.float() if values.is_floating_point() else values).to(self.device)

    def _audio(self, spans: Sequence[tuple[Clip, int, int]]) -> ClipFeatures:
        """Features of chunks, of the chunks before them, and a margin on both sides."""
        first = -self.lead - AUDIO_MARGIN
        pieces = [self.encoded.audio(clip, start + first, stop + AUDIO_MARGIN) for clip, start, stop in spans]
        return ClipFeatures(self._stacked(pieces), first)

    def face_mask(self, batch: Batch, start: int, stop: int) -> Tensor:
        """Face masks of frames ``[start, stop)`` of the chunks, ``(B, 1, stop - start, H, W)`` in [0, 1]; of motion,
        which is the face's alone, ones with one row and column."""
        if not self.spatial:
            return torch.ones(len(batch.keys), 1, stop - start, 1, 1, device=self.device)
        assert batch.masks is not None, "the batch was drawn without masks"
        return batch.masks[:, :, start:stop].float() / 255


def check_sizes(source: ChunkSource, patch_size: Sequence[int]) -> None:
    """Check that patches fit the clips.

    Args:
        source: of the clips.
        patch_size: latent frames, rows and columns of cells that make one token.

    Raises:
        UserError: naming what does not.
    """
    for size in source.sizes:
        cells = tuple(side // source.spatial for side in size) if source.spatial else (1, 1)
        if any(side % step for side, step in zip(cells, patch_size[1:], strict=True)):
            raise UserError(
                f"Clips of {source.folder} have {cells[0]} x {cells[1]} latent cells, which patches of"
                f" {patch_size[1]} x {patch_size[2]} do not divide: use clips of another size, other"
                " --config.buckets, or a recipe for this codec."
            )


def encode_all(*sources: ChunkSource | None) -> None:
    """Encode what is to be kept of corpora, once everything that could refuse the run has been looked at."""
    for source in filter(None, sources):
        _ = source.encoded


def open_held_out(
    folder: Path, frozen: Frozen, chunk: ChunkConfig, buckets: Sequence[Size], cache: bool
) -> ChunkSource | None:
    """Held-out chunks of at most ``HELD_OUT_CLIPS`` clips; ``None`` where the test split has none long enough."""
    if not usable_clips(folder, chunk.frames, "test"):
        return None
    return ChunkSource(folder, "test", frozen, chunk, limit=HELD_OUT_CLIPS, buckets=buckets, cache=cache)


class BatchesAhead:
    """The batches of a training on this process, each read in a second thread while the one before is trained on.

    Args:
        loop: seed, micro-batches, device.
        draw: a batch, of the number of its update and its random numbers.
        updates: of the whole run; beyond it nothing is read.
    """

    def __init__(self, loop: LoopConfig, draw: Callable[[int, torch.Generator], Batch], updates: int):
        self._loop, self._draw, self._end = loop, draw, updates * loop.micro_batches
        self._thread = ThreadPoolExecutor(1)
        self._reading: dict[int, Future[tuple[Batch, torch.Generator]]] = {}

    def of_update(self, update: int) -> Iterator[tuple[Batch, torch.Generator]]:
        """Those of one update (:func:`asymtalker.training.distributed.micro_batches`), each with the random numbers
        that follow those it was drawn by."""
        for number in micro_batches(self._loop, update):
            batch = self._reading.pop(number, None) or self._read(number)
            read = batch.result()
            following = number + world().size
            self._reading = {following: self._read(following)} if following < self._end else {}
            yield read

    def _read(self, number: int) -> Future[tuple[Batch, torch.Generator]]:
        return self._thread.submit(self._drawn, number)

    def _drawn(self, number: int) -> tuple[Batch, torch.Generator]:
        device = torch.device(self._loop.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # each thread has its own
        generator = numbered_generator(self._loop.seed, number)
        return self._draw(number // self._loop.micro_batches, generator), generator
