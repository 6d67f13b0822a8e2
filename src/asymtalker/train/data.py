"""Training chunks from a corpus: encoded once, kept beside the corpus, read at random (last stage of appendix F).

Encoding a chunk costs far more than a training step of a small network, so latents, identity references and audio
features are written once, as fp16 safetensors, under ``<corpus>/cache/<what>-<hash>/<key>.safetensors``. The hash
covers the weights, precision and lengths the values depend on, so a retrained codec or audio encoder never meets stale
values, and a new audio encoder does not throw away the latents. A file older than the shard of its clip is made again.

No continuity reference is stored: the codec is causal and a chunk is encoded from its own first frame, so the
ground-truth reference of a chunk is the head of its own latents, ``E(x[:K]) == E(x)[:, :, :1 + m]``.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from asymtalker import corpus, timeline
from asymtalker.codec import to_pixels
from asymtalker.config import ChunkConfig
from asymtalker.corpus import ManifestRow
from asymtalker.errors import UserError
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES, ArraySource, AudioFeatures
from asymtalker.models.identity import Identity
from asymtalker.train.frozen import Frozen
from asymtalker.whole import whole

START_STRIDE = 40  # frames between the starts of encoded chunks of a clip
REFERENCES = 4  # identity references per clip, beside the first frames of its chunks
AUDIO_MARGIN = 8  # frames of features kept on both sides of a clip, for the context of its first and last chunk
ENCODE_BATCH = 4  # chunks that go through the codec together
MOUTH = (0.6, 0.92, 0.2, 0.8)  # top, bottom, left and right of the mouth in motion, as shares of the face mask's box


def chunk_starts(num_frames: int, chunk_frames: int) -> list[int]:
    """First frames of the encoded chunks of a clip: every ``START_STRIDE`` frames, and the last possible one."""
    last = num_frames - chunk_frames
    return sorted({*range(0, last + 1, START_STRIDE), last}) if last >= 0 else []


def reference_frames(key: str, num_frames: int, chunk_frames: int) -> list[int]:
    """Frames of a clip that serve as identity references: those at :func:`chunk_starts`, in that order, then one from
    each of ``REFERENCES`` equal parts of the clip, fixed by its key."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    edges = np.linspace(0, num_frames, REFERENCES + 1).astype(int)
    anywhere = [int(generator.integers(low, max(high, low + 1))) for low, high in pairwise(edges)]
    return chunk_starts(num_frames, chunk_frames) + anywhere


def usable_rows(folder: Path, min_frames: int, split: str) -> list[ManifestRow]:
    """Kept clips of ``split`` with at least ``min_frames`` frames."""
    rows = corpus.read_manifest(folder)
    return [row for row in rows if row.split == split and not row.rejected_by and row.frames >= min_frames]


@dataclass(frozen=True)
class Cache:
    """Where the encoded parts of a corpus lie: one folder for each part, named by what its values depend on."""

    latents: Path
    identity: Path
    audio: Path
    mouth: Path

    @classmethod
    def of(cls, folder: Path, frozen: Frozen, chunk_frames: int) -> "Cache":
        """The cache of a corpus for these frozen networks and this chunk length."""
        root = folder / "cache"
        codec = _hash(frozen.codec_digest, frozen.autocast, chunk_frames, START_STRIDE)
        identity = _hash(frozen.identity_digest, frozen.autocast, chunk_frames, START_STRIDE, REFERENCES)
        audio = _hash(frozen.audio_digest, frozen.autocast, BLOCK_FRAMES, CONTEXT_FRAMES, AUDIO_MARGIN)
        return cls(
            root / f"latents-{codec}",
            root / f"{frozen.strategy}-{identity}",
            root / f"audio-{audio}",
            root / f"mouth-{_hash(MOUTH)}",
        )


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def encode_corpus(folder: Path, rows: Sequence[ManifestRow], frozen: Frozen, chunk_frames: int) -> Cache:
    """Encode every clip of ``rows`` that is not encoded yet; a stopped run goes on where it was.

    Per clip: latents ``(S, C, T, h, w)`` of chunks at :func:`chunk_starts`, identity references at
    :func:`reference_frames` (latents ``(R, C, T, h, w)`` or tokens ``(R, I, ...)``), and of the whole clip audio
    features ``(F + 2 AUDIO_MARGIN, A)`` and :func:`mouth_boxes`.

    Args:
        folder: the corpus.
        rows: clips of at least ``chunk_frames`` frames.
        frozen: the frozen codec, audio encoder and identity encoder.
        chunk_frames: frames of a chunk.
    """
    cache = Cache.of(folder, frozen, chunk_frames)
    parts: list[tuple[Path, Callable[[corpus.Clip], dict[str, Tensor]]]] = [
        (cache.latents, lambda clip: _encode_chunks(clip, frozen, chunk_frames)),
        (cache.identity, lambda clip: _encode_references(clip, frozen, chunk_frames)),
        (cache.audio, lambda clip: _encode_audio(clip, frozen)),
        (cache.mouth, lambda clip: {"boxes": torch.from_numpy(mouth_boxes(clip.mask()))}),
    ]
    for path, _ in parts:
        path.mkdir(parents=True, exist_ok=True)
    missing = [row for row in rows if not all(_fresh(_cached(path, row.key), folder / row.shard) for path, _ in parts)]
    if not missing:
        return cache
    columns = (
        TextColumn("encoding clips"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for row in progress.track(missing):
            clip = corpus.open_clip(folder, row.key)
            for path, encode in parts:
                target = _cached(path, row.key)
                if not _fresh(target, folder / row.shard):
                    tensors = {name: value.contiguous() for name, value in encode(clip).items()}
                    with whole(target) as partial:
                        save_file(tensors, partial)
    return cache


def _cached(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def _fresh(cached: Path, shard: Path) -> bool:
    """Whether a cached file is there and no older than the clips it was made from: a corpus can be written again."""
    return cached.exists() and shard.exists() and cached.stat().st_mtime >= shard.stat().st_mtime


@torch.no_grad()
def _encode_chunks(clip: corpus.Clip, frozen: Frozen, chunk_frames: int) -> dict[str, Tensor]:
    frames = clip.frames()
    starts = chunk_starts(clip.num_frames, chunk_frames)
    latents = []
    for first in range(0, len(starts), ENCODE_BATCH):
        chunks = [to_pixels(frames[start : start + chunk_frames]) for start in starts[first : first + ENCODE_BATCH]]
        latents.append(frozen.codec.encode(torch.cat(chunks).to(frozen.device)).cpu().half())
    return {"latents": torch.cat(latents), "starts": torch.tensor(starts)}


@torch.no_grad()
def _encode_references(clip: corpus.Clip, frozen: Frozen, chunk_frames: int) -> dict[str, Tensor]:
    wanted = reference_frames(clip.row.key, clip.num_frames, chunk_frames)
    pictures = torch.cat([to_pixels(clip.frames(frame, frame + 1)) for frame in wanted])  # (R, 3, 1, H, W)
    identity = frozen.encode_identity(pictures.to(frozen.device), chunk_frames)
    name, value = ("latents", identity.latents) if identity.latents is not None else ("tokens", identity.tokens)
    assert value is not None
    value = value.cpu()
    return {name: value.half() if value.is_floating_point() else value, "frames": torch.tensor(wanted)}


def _encode_audio(clip: corpus.Clip, frozen: Frozen) -> dict[str, Tensor]:
    source = AudioFeatures(frozen.audio_encoder, frozen.extractor, ArraySource(clip.audio()), frozen.autocast)
    return {"features": source.frames(-AUDIO_MARGIN, clip.num_frames + AUDIO_MARGIN)[0].cpu().half()}


def mouth_boxes(masks: np.ndarray) -> np.ndarray:
    """Where the mouth is, by the face masks ``(F, H, W)`` uint8: ``(F, 4)`` float32 top, bottom, left and right as
    shares of the picture; all 0 where there is no face."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks > 127, strict=True):
        if mask.any():
            for sides, hit in ((slice(0, 2), mask.any(1)), (slice(2, 4), mask.any(0))):
                inside = np.flatnonzero(hit)
                low, length = inside[0] / len(hit), (inside[-1] + 1 - inside[0]) / len(hit)
                box[sides] = low + np.array(MOUTH[sides]) * length
    return boxes


def box_coverage(boxes: Tensor, height: int, width: int) -> Tensor:
    """Share of each cell of a grid that lies in a box: ``(N, 4)`` of :func:`mouth_boxes` to ``(N, height, width)``."""

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
    """

    keys: tuple[str, ...]
    starts: tuple[int, ...]
    latents: Tensor
    audio: ClipFeatures
    identity: Identity
    windows: tuple[tuple[int, int], ...]


def cut_windows(grids: Sequence[Tensor], windows: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
    """Stack the windows of ``size`` rows and columns, upper left corners given, of grids ``(..., H, W)``."""
    height, width = size
    return torch.stack(
        [grid[..., top : top + height, left : left + width] for grid, (top, left) in zip(grids, windows, strict=True)]
    )


class ChunkSource:
    """Random chunks of an encoded corpus; a batch is a pure function of a generator.

    Args:
        folder: the corpus.
        split: ``"train"`` or ``"test"``.
        frozen: the frozen networks.
        chunk: chunk length and continuity window.
        chunks: chunks in a row that must fit in a clip; batches hold the last of them.
        limit: use no more than this many clips, ``None`` for all.

    Raises:
        UserError: if the split has no clip that is long enough, or clips of several sizes.
    """

    def __init__(
        self, folder: Path, split: str, frozen: Frozen, chunk: ChunkConfig, chunks: int = 1, limit: int | None = None
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
        sizes = sorted({(row.height, row.width) for row in self.rows})
        if len(sizes) > 1 or any(side % self.spatial for side in sizes[0]):
            shown = ", ".join(f"{height} x {width}" for height, width in sizes)
            raise UserError(
                f"{folder}: the clips have {shown} pixels; training needs one size, a multiple of the codec's"
                f" {self.spatial}: put other sizes into a corpus of their own"
            )
        self.cache = encode_corpus(folder, self.rows, frozen, chunk.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the clips in pixels."""
        return self.rows[0].height, self.rows[0].width

    def batch(
        self,
        size: int,
        generator: torch.Generator,
        crop: int = 0,
        mouth_share: float = 0.5,
        own_reference: float = 0.0,
    ) -> Batch:
        """``size`` chunks of random clips, each at one of the clip's :func:`chunk_starts` with one of its
        :func:`reference_frames`: one outside the chunk, where there is one, or for ``own_reference`` of the chunks
        on average the chunk's own first frame.

        With ``crop`` and latent identity references only a square window of ``crop`` latent cells is seen of each
        chunk, around the mouth of ``mouth_share`` of them on average, anywhere of the others.
        """
        choices = [self._choose(generator, own_reference) for _ in range(size)]
        latents, audio, identity = zip(*(self._read(*choice) for choice in choices), strict=True)
        keys = tuple(row.key for row, _, _ in choices)
        starts = tuple(self._starts(row)[index] for row, index, _ in choices)
        shape = latents[0].shape[-2:]
        windows = ((0, 0),) * size
        latent_identity = identity[0].ndim == 4
        if crop and latent_identity:
            windows = tuple(
                self._window(key, start, shape, crop, mouth_share, generator)
                for key, start in zip(keys, starts, strict=True)
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
        )

    def _window(
        self, key: str, start: int, shape: Sequence[int], crop: int, mouth_share: float, generator: torch.Generator
    ) -> tuple[int, int]:
        """Upper left cell of a random window."""
        if torch.rand((), generator=generator) < mouth_share:
            middle = self._boxes(key, start).mean(0).view(2, 2).mean(1) * torch.tensor(shape)
            jitter = torch.randint(-(crop // 4), crop // 4 + 1, (2,), generator=generator)
            corner = (middle.round().long() - crop // 2 + jitter).tolist()
        else:
            corner = [_index(side - crop + 1, generator) for side in shape]
        top, left = (min(max(at, 0), side - crop) for at, side in zip(corner, shape, strict=True))
        return top, left

    def _boxes(self, key: str, start: int) -> Tensor:
        return _read_slice(_cached(self.cache.mouth, key), "boxes", slice(start, start + self.chunk_frames))

    def pixels(self, batch: Batch, start: int, stop: int) -> Tensor:
        """Real frames ``[start, stop)`` counted from each chunk's first, ``(B, 3, stop - start, H, W)`` in [-1, 1]."""
        clips = self._clips(batch)
        return self._seen([to_pixels(clip.frames(at + start, at + stop))[0] for clip, at in clips], batch)

    def face_mask(self, batch: Batch, start: int, stop: int) -> Tensor:
        """Face masks of the same frames, ``(B, 1, stop - start, H, W)`` in [0, 1]."""
        masks = [clip.mask(at + start, at + stop) for clip, at in self._clips(batch)]
        return self._seen([torch.from_numpy(mask)[None] for mask in masks], batch).float() / 255

    def mouth(self, batch: Batch) -> Tensor:
        """Share of each latent cell that the mouth covers, ``(B, 1, T, h, w)`` in [0, 1]."""
        num_latents = batch.latents.shape[2]
        height, width = (side // self.spatial for side in self.size)
        maps = []
        for key, start in zip(batch.keys, batch.starts, strict=True):
            frames = box_coverage(self._boxes(key, start), height, width)  # (F, h, w)
            later = frames[1:].unflatten(0, (num_latents - 1, timeline.TEMPORAL_COMPRESSION)).mean(1)
            maps.append(torch.cat([frames[:1], later])[None])
        return cut_windows(maps, batch.windows, batch.latents.shape[-2:]).to(self.device)

    def _seen(self, pictures: Sequence[Tensor], batch: Batch) -> Tensor:
        """What the windows show of full pictures ``(..., H, W)``."""
        corners = [(top * self.spatial, left * self.spatial) for top, left in batch.windows]
        height, width = (side * self.spatial for side in batch.latents.shape[-2:])
        return cut_windows(pictures, corners, (height, width)).to(self.device)

    def _clips(self, batch: Batch) -> list[tuple[corpus.Clip, int]]:
        return [(corpus.open_clip(self.folder, key), at) for key, at in zip(batch.keys, batch.starts, strict=True)]

    def _starts(self, row: ManifestRow) -> list[int]:
        return chunk_starts(row.frames, self.chunk_frames)

    def _choose(self, generator: torch.Generator, own_reference: float) -> tuple[ManifestRow, int, int]:
        """A clip, the index of its chunk, and the index of its reference."""
        row = self.rows[_index(len(self.rows), generator)]
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
        latents = _read_slice(_cached(self.cache.latents, row.key), "latents", index)
        features = _read_slice(_cached(self.cache.audio, row.key), "features", slice(None))
        start = self._starts(row)[index]
        audio = features[start - self.lead : start + self.chunk_frames + 2 * AUDIO_MARGIN]
        path = _cached(self.cache.identity, row.key)
        with safe_open(path, "pt") as file:
            name = "latents" if "latents" in file.keys() else "tokens"  # noqa: SIM118 (not a dict)
        return latents, audio, _read_slice(path, name, reference)


def _read_slice(path: Path, name: str, index: int | slice) -> Tensor:
    """Part of a cached tensor, floats as float32; the file is mapped, so the system keeps hot files in memory."""
    with safe_open(path, "pt") as file:
        value = file.get_slice(name)[index]
    return value.float() if value.is_floating_point() else value


def _index(length: int, generator: torch.Generator) -> int:
    return int(torch.randint(length, (), generator=generator))
