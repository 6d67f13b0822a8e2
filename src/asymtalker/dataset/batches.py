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

from asymtalker import timeline
from asymtalker.codec import to_pixels
from asymtalker.config import ChunkConfig, LoopConfig
from asymtalker.dataset import corpus
from asymtalker.dataset.buckets import Size
from asymtalker.dataset.cache import (
    AUDIO_MARGIN,
    Cache,
    Encoder,
    chunk_starts,
    encode_corpus,
    reference_frames,
    usable_rows,
)
from asymtalker.dataset.corpus import ManifestRow
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.identity import Identity
from asymtalker.training.distributed import micro_batches, world
from asymtalker.training.frozen import Frozen


def box_coverage(boxes: Tensor, height: int, width: int) -> Tensor:
    """Share of each cell of a grid that lies in a box: ``(N, 4)`` of :func:`asymtalker.dataset.cache.mouth_boxes` to
    ``(N, height, width)``."""

    def along(low: Tensor, high: Tensor, cells: int) -> Tensor:
        edges = torch.arange(cells + 1, device=boxes.device)
        return edges.clamp(low[:, None] * cells, high[:, None] * cells).diff(dim=1)

    top, bottom, left, right = boxes.unbind(1)
    return along(top, bottom, height)[:, :, None] * along(left, right, width)[:, None]


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
        latents: ground truth ``(B, C, T, h, w)``, float32.
        audio: features by frame; frame 0 is the chunk's first. It reaches back over the chunks before it.
        identity: the identity reference.
        windows: upper left latent cell of what is seen of each chunk, ``(B, 2)`` row and column.
        size: height and width in pixels of the whole frames, the same for all chunks of a batch.
    """

    keys: tuple[str, ...]
    starts: tuple[int, ...]
    latents: Tensor
    audio: ClipFeatures
    identity: Identity
    windows: tuple[tuple[int, int], ...]
    size: Size


def cut_windows(grids: Sequence[Tensor], windows: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
    """Stack the windows of ``size`` rows and columns, upper left corners given, of grids ``(..., H, W)``."""
    height, width = size
    return torch.stack(
        [grid[..., top : top + height, left : left + width] for grid, (top, left) in zip(grids, windows, strict=True)]
    )


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
        self.spatial = frozen.codec.spatial
        self.chunk_frames = chunk.frames
        self.lead = (chunks - 1) * (chunk.frames - chunk.continuity_frames)
        self.rows = usable_rows(folder, self.lead + chunk.frames, split)[:limit]
        if not self.rows:
            longest = max((row.frames for row in usable_rows(folder, 0, split)), default=0)
            raise UserError(
                f"{folder}: no {split} clip has the {self.lead + chunk.frames} frames that training needs (the longest"
                f" has {longest}); add longer clips or use a shorter chunk"
            )
        self._encoder, self._cache = Encoder(folder, frozen, chunk.frames, buckets), cache
        self._groups = self._encoder.group(self.rows)
        self._bucket = {row.key: size for size, rows in self._groups.items() for row in rows}

    @cached_property
    def encoded(self) -> Cache:
        """What batches are made of. With ``cache`` the first use encodes the clips that are not yet, which may take
        hours; all processes come here together."""
        return encode_corpus(self._encoder, self.rows) if self._cache else Cache(self._encoder)

    @property
    def largest(self) -> Size:
        """That of most pixels of :attr:`sizes`."""
        return max(self.sizes, key=math.prod)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Heights and widths in pixels that batches come in."""
        return tuple(self._groups)

    def frames(self, row: ManifestRow, start: int, stop: int) -> np.ndarray:
        """Frames ``[start, stop)`` of a clip as they are trained on, ``(n, H, W, 3)`` uint8."""
        return self.encoded.view(row).cut(corpus.open_clip(self.folder, row.key).frames(start, stop))

    def batch(
        self,
        size: int,
        generator: torch.Generator,
        crop: int = 0,
        mouth_share: float = 0.5,
        own_reference: float = 0.0,
    ) -> Batch:
        """``size`` chunks of random clips, all of the first one's bucket, each at one of the clip's
        :func:`asymtalker.dataset.cache.chunk_starts` with one of its
        :func:`asymtalker.dataset.cache.reference_frames`: one outside the chunk, where there is one, or for
        ``own_reference`` of the chunks on average the chunk's own first frame.

        With ``crop`` and latent identity references only a square window of ``crop`` latent cells is seen of each
        chunk, around the mouth of ``mouth_share`` of them on average, anywhere of the others.
        """
        choices = [self._choose(self.rows, generator, own_reference)]
        bucket = self._bucket[choices[0][0].key]
        choices += [self._choose(self._groups[bucket], generator, own_reference) for _ in range(size - 1)]
        latents, audio, identity = zip(*(self._read(*choice) for choice in choices), strict=True)
        keys = tuple(row.key for row, _, _ in choices)
        starts = tuple(self._starts(row)[index] for row, index, _ in choices)
        shape = latents[0].shape[-2:]
        windows = ((0, 0),) * size
        latent_identity = identity[0].ndim == 4
        if crop and latent_identity:
            windows = tuple(
                self._window(row, start, shape, crop, mouth_share, generator)
                for (row, _, _), start in zip(choices, starts, strict=True)
            )
            shape = (crop, crop)
        return Batch(
            keys=keys,
            starts=starts,
            latents=cut_windows(latents, windows, shape).to(self.device),
            audio=ClipFeatures(torch.stack(audio).to(self.device), -self.lead - AUDIO_MARGIN),
            identity=Identity(latents=cut_windows(identity, windows, shape).to(self.device))
            if latent_identity
            else Identity(tokens=torch.stack(identity).to(self.device)),
            windows=windows,
            size=bucket,
        )

    def _window(
        self,
        row: ManifestRow,
        start: int,
        shape: Sequence[int],
        crop: int,
        mouth_share: float,
        generator: torch.Generator,
    ) -> tuple[int, int]:
        """Upper left cell of a random window."""
        if torch.rand((), generator=generator) < mouth_share:
            boxes = self.encoded.mouth(row, start, start + self.chunk_frames)
            middle = boxes.mean(0).view(2, 2).mean(1) * torch.tensor(shape)
            jitter = torch.randint(-(crop // 4), crop // 4 + 1, (2,), generator=generator)
            corner = (middle.round().long() - crop // 2 + jitter).tolist()
        else:
            corner = [_index(side - crop + 1, generator) for side in shape]
        top, left = (min(max(at, 0), side - crop) for at, side in zip(corner, shape, strict=True))
        return top, left

    def pixels(self, batch: Batch, start: int, stop: int) -> Tensor:
        """Real frames ``[start, stop)`` counted from each chunk's first, ``(B, 3, stop - start, H, W)`` in [-1, 1]."""
        rows = self._rows_of(batch)
        return self._seen([to_pixels(self.frames(row, at + start, at + stop))[0] for row, at in rows], batch)

    def face_mask(self, batch: Batch, start: int, stop: int) -> Tensor:
        """Face masks of the same frames, ``(B, 1, stop - start, H, W)`` in [0, 1]."""
        masks = [self.encoded.mask(row, at + start, at + stop)[None] for row, at in self._rows_of(batch)]
        return self._seen(masks, batch).float() / 255

    def mouth(self, batch: Batch) -> Tensor:
        """Share of each latent cell that the mouth covers, ``(B, 1, T, h, w)`` in [0, 1]."""
        num_latents = batch.latents.shape[2]
        height, width = (side // self.spatial for side in batch.size)
        maps = []
        for row, start in self._rows_of(batch):
            boxes = self.encoded.mouth(row, start, start + self.chunk_frames)
            frames = box_coverage(boxes, height, width)  # (F, h, w)
            later = frames[1:].unflatten(0, (num_latents - 1, timeline.TEMPORAL_COMPRESSION)).mean(1)
            maps.append(torch.cat([frames[:1], later])[None])
        return cut_windows(maps, batch.windows, batch.latents.shape[-2:]).to(self.device)

    def _seen(self, pictures: Sequence[Tensor], batch: Batch) -> Tensor:
        """What the windows show of full pictures ``(..., H, W)``."""
        corners = [(top * self.spatial, left * self.spatial) for top, left in batch.windows]
        height, width = (side * self.spatial for side in batch.latents.shape[-2:])
        return cut_windows(pictures, corners, (height, width)).to(self.device)

    def _rows_of(self, batch: Batch) -> list[tuple[ManifestRow, int]]:
        """The clips of a batch, with the first frame of each chunk."""
        rows = (corpus.open_clip(self.folder, key).row for key in batch.keys)
        return list(zip(rows, batch.starts, strict=True))

    def _starts(self, row: ManifestRow) -> list[int]:
        return chunk_starts(row.frames, self.chunk_frames)

    def _choose(
        self, rows: Sequence[ManifestRow], generator: torch.Generator, own_reference: float
    ) -> tuple[ManifestRow, int, int]:
        """A clip, the index of its chunk, and the index of its reference."""
        row = rows[_index(len(rows), generator)]
        starts = self._starts(row)
        possible = [index for index, start in enumerate(starts) if start >= self.lead]
        index = possible[_index(len(possible), generator)]
        chunk = range(starts[index], starts[index] + self.chunk_frames)
        if torch.rand((), generator=generator) < own_reference:
            return row, index, index
        frames = reference_frames(row.key, row.frames, self.chunk_frames)
        elsewhere = [i for i, frame in enumerate(frames) if frame not in chunk] or list(range(len(frames)))
        return row, index, elsewhere[_index(len(elsewhere), generator)]

    def _read(self, row: ManifestRow, index: int, reference: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, audio features and identity reference, floats as float32."""
        start = self._starts(row)[index]
        span = start - self.lead - AUDIO_MARGIN, start + self.chunk_frames + AUDIO_MARGIN
        identity = self.encoded.reference(row, reference)
        return (
            self.encoded.latents(row, index).float(),
            self.encoded.audio(row, *span).float(),
            identity.float() if identity.is_floating_point() else identity,
        )


class BatchesAhead:
    """The batches of a training on this process, each read in a second thread while the one before is trained on.

    Args:
        loop: seed, micro-batches, device.
        draw: a batch, of its random numbers.
        updates: of the whole run; beyond it nothing is read.
    """

    def __init__(self, loop: LoopConfig, draw: Callable[[torch.Generator], Batch], updates: int):
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
        return self._draw(generator), generator


def _index(length: int, generator: torch.Generator) -> int:
    return int(torch.randint(length, (), generator=generator))
