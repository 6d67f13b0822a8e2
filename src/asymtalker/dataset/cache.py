"""What the frozen networks make of a corpus: computed chunk by chunk, and kept beside the corpus (end of appendix F).

Encoding a chunk costs far more than a training step of a small network, and a small corpus is drawn from again and
again, so latents, identity references, audio features, face masks and mouth boxes can be written once, floats as
float16, as
``<corpus>/cache/<what>-<hash>/<key>.safetensors``.
The hash covers the weights, precision, lengths and bucket the values depend on, so a retrained codec or audio encoder
never meets stale values, and a new audio encoder does not throw away the latents. A file older than the shard of its
clip is made again.

:class:`Encoder` computes the values of one chunk, :class:`Cache` reads those that are kept: both give the same, bit
for bit on one machine, as the cache is filled by the encoder one chunk at a time.

No continuity reference is stored: the codec is causal and a chunk is encoded from its own first frame, so the
ground-truth reference of a chunk is the head of its own latents, ``E(x[:K]) == E(x)[:, :, :1 + m]``.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from asymtalker.codec import to_pixels
from asymtalker.config import TeacherConfig
from asymtalker.dataset import corpus
from asymtalker.dataset.buckets import BLOCK, Size, View, nearest_bucket, view_of, whole_view
from asymtalker.dataset.corpus import ManifestRow
from asymtalker.errors import UserError
from asymtalker.media.whole import whole
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES, ArraySource, AudioFeatures
from asymtalker.training.distributed import barrier, on_its_device, patient_group, world
from asymtalker.training.frozen import Frozen, load_frozen
from asymtalker.training.run_folder import in_its_precision, tracked

START_STRIDE = 40  # frames between the starts of encoded chunks of a clip
REFERENCES = 4  # identity references per clip, beside the first frames of its chunks
AUDIO_MARGIN = 8  # frames of features kept on both sides of a clip, for the context of its first and last chunk
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


def mouth_boxes(masks: np.ndarray, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Where the mouth is, by the face masks ``(F, H, W)`` uint8: ``(F, 4)`` float32 top, bottom, left and right as
    shares of the picture, or of a box of it (left, top, right, bottom in pixels), outside of which they may lie; all 0
    where there is no face."""
    boxes = np.zeros((len(masks), 4), np.float32)
    left, top, right, bottom = box or (0, 0, masks.shape[2], masks.shape[1])
    for mouth, mask in zip(boxes, masks > 127, strict=True):
        if mask.any():
            axes = ((slice(0, 2), mask.any(1), top, bottom - top), (slice(2, 4), mask.any(0), left, right - left))
            for sides, hit, start, side in axes:
                inside = np.flatnonzero(hit)
                low, length = (inside[0] - start) / side, (inside[-1] + 1 - inside[0]) / side
                mouth[sides] = low + np.array(MOUTH[sides]) * length
    return boxes


class Encoder:
    """What the frozen networks make of chunks of a corpus, each computed when it is asked for.

    Floats are float16, as the cache holds them; everything is on the CPU.

    Args:
        folder: the corpus.
        frozen: the frozen codec, audio encoder and identity encoder.
        chunk_frames: frames of a chunk.
        buckets: sizes (height, width in pixels) of which each clip takes the nearest in shape; empty for its own size.
    """

    def __init__(self, folder: Path, frozen: Frozen, chunk_frames: int, buckets: Sequence[Size] = ()):
        self.folder, self.chunk_frames, self.buckets = folder, chunk_frames, tuple(buckets)
        self.given, self.frozen = frozen, frozen.beside()  # batches are read beside the training
        self._views: dict[str, View] = {}

    def group(self, rows: Sequence[ManifestRow]) -> dict[Size, list[ManifestRow]]:
        """The clips of each size that is trained on, in the order of ``rows``.

        Raises:
            UserError: if there are several sizes and no buckets, or a side is no multiple of the codec's factor.
        """
        spatial = self.frozen.codec.spatial
        for size in self.buckets:
            if min(size) < 1 or any(side % spatial for side in size):
                raise UserError(
                    f"--config.buckets has {_shown([size])} pixels: sides must be multiples of the codec's {spatial}."
                )
        groups: dict[Size, list[ManifestRow]] = {}
        for row in rows:
            groups.setdefault(self.bucket(row), []).append(row)
        if not self.buckets and (len(groups) > 1 or any(side % spatial for side in min(groups))):
            raise UserError(
                f"{self.folder}: the clips have {_shown(sorted(groups))} pixels; without buckets training needs one"
                f" size, a multiple of the codec's {spatial}: give the sizes to train on with --config.buckets"
            )
        return groups

    def bucket(self, row: ManifestRow) -> Size:
        """Height and width in pixels at which a clip is seen."""
        return nearest_bucket(row, self.buckets)

    def view(self, row: ManifestRow) -> View:
        """What is seen of a clip's picture."""
        if row.key not in self._views:
            self._views[row.key] = view_of(self._clip(row), self.bucket(row))
        return self._views[row.key]

    @torch.no_grad()
    def latents(self, row: ManifestRow, chunk: int) -> Tensor:
        """Latents ``(C, T, h, w)`` of the chunk at :func:`chunk_starts` ``[chunk]``."""
        start = chunk_starts(row.frames, self.chunk_frames)[chunk]
        return self.frozen.codec.encode(self._pixels(row, start, start + self.chunk_frames))[0].cpu().half()

    @torch.no_grad()
    def reference(self, row: ManifestRow, reference: int) -> Tensor:
        """The identity reference at :func:`reference_frames` ``[reference]``: latents ``(C, T, h, w)`` for TRE and
        ETR, tokens ``(I, ...)`` for CLIP and VTP."""
        frame = reference_frames(row.key, row.frames, self.chunk_frames)[reference]
        identity = self.frozen.encode_identity(self._pixels(row, frame, frame + 1), self.chunk_frames)
        value = identity.latents if identity.latents is not None else identity.tokens
        assert value is not None
        return (value.half() if value.is_floating_point() else value)[0].cpu()

    def audio(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """Audio features ``(stop - start, A)`` of frames ``[start, stop)``, at most ``AUDIO_MARGIN`` past the clip."""
        sound = ArraySource(self._clip(row).audio())
        source = AudioFeatures(self.frozen.audio_encoder, self.frozen.extractor, sound, self.frozen.autocast)
        return source.frames(start, stop)[0].cpu().half()

    def mouth(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """:func:`mouth_boxes` ``(stop - start, 4)`` of frames ``[start, stop)``, as shares of what is seen."""
        view, clip = self.view(row), self._clip(row)
        blocks = [(first, min(first + BLOCK, stop)) for first in range(start, stop, BLOCK)]
        return torch.from_numpy(np.concatenate([mouth_boxes(clip.mask(*block), view.box) for block in blocks]))

    def mask(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """Face masks ``(stop - start, H, W)`` uint8 of frames ``[start, stop)``, as they are seen."""
        return torch.from_numpy(self.view(row).cut(self._clip(row).mask(start, stop)))

    def _clip(self, row: ManifestRow) -> corpus.Clip:
        return corpus.open_clip(self.folder, row.key)

    def _pixels(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        return to_pixels(self.view(row).cut(self._clip(row).frames(start, stop))).to(self.frozen.device)


@dataclass(frozen=True)
class Folders:
    """Where the encoded parts of clips lie: one folder for each part, named by what its values depend on."""

    latents: Path
    identity: Path
    audio: Path
    face: Path

    @classmethod
    def of(cls, folder: Path, frozen: Frozen, chunk_frames: int, bucket: Size | None = None) -> "Folders":
        """The folders for these frozen networks and this chunk length, of clips seen at their own size or, with
        ``bucket``, scaled and cut to another."""
        root = folder / "cache"
        seen = () if bucket is None else (bucket,)
        codec = _hash(frozen.codec_digest, frozen.autocast, chunk_frames, START_STRIDE, *seen)
        identity = _hash(frozen.identity_digest, frozen.autocast, chunk_frames, START_STRIDE, REFERENCES, *seen)
        audio = _hash(frozen.audio_digest, frozen.autocast, BLOCK_FRAMES, CONTEXT_FRAMES, AUDIO_MARGIN)
        return cls(
            root / f"latents-{codec}",
            root / f"{frozen.strategy}-{identity}",
            root / f"audio-{audio}",
            root / f"face-{_hash(MOUTH, *seen)}",
        )


class Cache:
    """What an :class:`Encoder` gives: read from beside the corpus what is kept there, and the rest computed. Files are
    mapped, so the system keeps hot ones in memory."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self._folders: dict[Size | None, Folders] = {}
        self._kept: set[Path] = set()

    def _has(self, folder: Path, row: ManifestRow) -> bool:
        path = _file(folder, row)
        if path not in self._kept and _fresh(path, self.encoder.folder / row.shard):
            self._kept.add(path)
        return path in self._kept

    def folders(self, row: ManifestRow) -> Folders:
        """Where the parts of a clip lie."""
        bucket = self.encoder.bucket(row)
        key = None if bucket == (row.height, row.width) else bucket
        if key not in self._folders:
            encoder = self.encoder
            self._folders[key] = Folders.of(encoder.folder, encoder.given, encoder.chunk_frames, key)
        return self._folders[key]

    def view(self, row: ManifestRow) -> View:
        """See :meth:`Encoder.view`."""
        bucket = self.encoder.bucket(row)
        if (view := whole_view(row, bucket)) is not None:
            return view
        if not self._has(self.folders(row).face, row):
            return self.encoder.view(row)
        left, top, right, bottom = _read(self.folders(row).face, row, "view", slice(None)).tolist()
        return View((left, top, right, bottom), bucket)

    def latents(self, row: ManifestRow, chunk: int) -> Tensor:
        """See :meth:`Encoder.latents`."""
        if not self._has(folder := self.folders(row).latents, row):
            return self.encoder.latents(row, chunk)
        return _read(folder, row, "latents", chunk)

    def reference(self, row: ManifestRow, reference: int) -> Tensor:
        """See :meth:`Encoder.reference`."""
        if not self._has(folder := self.folders(row).identity, row):
            return self.encoder.reference(row, reference)
        name = "tokens" if self.encoder.frozen.image_encoder is not None else "latents"
        return _read(folder, row, name, reference)

    def audio(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.audio`."""
        if not self._has(folder := self.folders(row).audio, row):
            return self.encoder.audio(row, start, stop)
        return _read(folder, row, "features", slice(start + AUDIO_MARGIN, stop + AUDIO_MARGIN))

    def mouth(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.mouth`."""
        if not self._has(folder := self.folders(row).face, row):
            return self.encoder.mouth(row, start, stop)
        return _read(folder, row, "boxes", slice(start, stop))

    def mask(self, row: ManifestRow, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.mask`."""
        if not self._has(folder := self.folders(row).face, row):
            return self.encoder.mask(row, start, stop)
        height, width = self.encoder.bucket(row)
        edges = _read(folder, row, "mask_edges", slice(start, stop + 1)).tolist()
        packed = _read(folder, row, "masks", slice(edges[0], edges[-1])).numpy().tobytes()
        masks = [zlib.decompress(packed[low - edges[0] : high - edges[0]]) for low, high in pairwise(edges)]
        return torch.frombuffer(bytearray(b"".join(masks)), dtype=torch.uint8).view(-1, height, width)

    def files(self, row: ManifestRow) -> dict[Path, Callable[[], dict[str, Tensor]]]:
        """The files of a clip, and what each is made of."""
        folders, encoder, frames = self.folders(row), self.encoder, row.frames
        starts = chunk_starts(frames, encoder.chunk_frames)
        wanted = reference_frames(row.key, frames, encoder.chunk_frames)
        name = "tokens" if encoder.frozen.image_encoder is not None else "latents"

        def latents() -> dict[str, Tensor]:
            values = torch.stack([encoder.latents(row, chunk) for chunk in range(len(starts))])
            return {"latents": values, "starts": torch.tensor(starts)}

        def identity() -> dict[str, Tensor]:
            values = torch.stack([encoder.reference(row, reference) for reference in range(len(wanted))])
            return {name: values, "frames": torch.tensor(wanted)}

        def face() -> dict[str, Tensor]:
            packed = [
                zlib.compress(mask.numpy().tobytes(), 1)  # of 512 x 512 pixels about a kilobyte
                for first in range(0, frames, BLOCK)
                for mask in encoder.mask(row, first, min(first + BLOCK, frames))
            ]
            return {
                "boxes": encoder.mouth(row, 0, frames),
                "view": torch.tensor(encoder.view(row).box, dtype=torch.float64),
                "masks": torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8),
                "mask_edges": torch.tensor([0, *accumulate(map(len, packed))]),
            }

        return {
            _file(folders.latents, row): latents,
            _file(folders.identity, row): identity,
            _file(folders.audio, row): lambda: {"features": encoder.audio(row, -AUDIO_MARGIN, frames + AUDIO_MARGIN)},
            _file(folders.face, row): face,
        }

    def missing(self, row: ManifestRow) -> dict[Path, Callable[[], dict[str, Tensor]]]:
        """Those of :meth:`files` that are not there or older than the clip: a corpus can be written again."""
        shard = self.encoder.folder / row.shard
        return {path: make for path, make in self.files(row).items() if not _fresh(path, shard)}


def encode_corpus(encoder: Encoder, rows: Sequence[ManifestRow]) -> Cache:
    """Encode every clip of ``rows`` that is not encoded yet; a stopped run goes on where it was.

    Per clip: latents ``(S, C, T, h, w)`` of chunks at :func:`chunk_starts`, identity references at
    :func:`reference_frames` (latents ``(R, C, T, h, w)`` or tokens ``(R, I, ...)``), and of the whole clip audio
    features ``(F + 2 AUDIO_MARGIN, A)``, face masks and :func:`mouth_boxes`. Under ``torchrun`` each process
    encodes its share and waits for the others.

    Args:
        encoder: of the corpus.
        rows: clips of at least ``encoder.chunk_frames`` frames.

    Raises:
        UserError: if the corpus may not be written to, or the disk is full.
    """
    cache, here = Cache(encoder), world()
    share = [row for row in rows[here.rank :: here.size] if cache.missing(row)]
    if share and not os.access(encoder.folder, os.W_OK):
        raise UserError(
            f"{encoder.folder} may not be written to, and what is encoded of a corpus is kept beside it: change its"
            " permissions, or give --config.loop.no-cache to encode every chunk when it is drawn"
        )
    waiting = patient_group()
    if share:
        for row in tracked(share, "encoding clips", here.main):
            for target, make in cache.missing(row).items():
                tensors = {name: value.contiguous() for name, value in make().items()}
                with whole(target) as partial:
                    save_file(tensors, partial)
    barrier(waiting)
    return cache


def encode(config: TeacherConfig, corpus_path: Path, model_path: Path) -> Path:
    """Encode both splits of a corpus for trainings with these settings, and say on stderr what was done.

    Args:
        config: chunk, buckets, identity strategy, device and precision.
        corpus_path: the corpus.
        model_path: folder with ``vae/``, ``audio_encoder/`` and ``feature_extractor/``, such as a pipeline folder.

    Returns:
        The folder of the cache.

    Raises:
        UserError: if a folder does not hold what it should, or there is no clip that is long enough.
    """
    began = time.perf_counter()
    config = in_its_precision(on_its_device(config))
    encoder = Encoder(
        corpus_path, load_frozen(model_path, config.model.identity, config.loop), config.chunk.frames, config.buckets
    )
    splits = [usable_rows(corpus_path, config.chunk.frames, split) for split in ("train", "test")]
    if not any(splits):
        raise UserError(
            f"{corpus_path}: no clip has the {config.chunk.frames} frames of a chunk; add longer clips or use a"
            " shorter chunk"
        )
    for rows in filter(None, splits):
        encoder.group(rows)
    rows = [row for split in splits for row in split]
    there = {row.key for row in rows if not Cache(encoder).missing(row)}
    barrier()  # nobody begins before all have looked
    cache = encode_corpus(encoder, rows)
    if world().main:
        done = [row for row in rows if not cache.missing(row)]
        new = sum(row.key not in there for row in done)
        size = sum(path.stat().st_size for row in done for path in cache.files(row)) / 1e9
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"encoded {new} clips in {time.perf_counter() - began:.1f} s; {len(done)} of {len(rows)} are there,"
            f" {size:.3f} GB"
        )
    return corpus_path / "cache"


def _shown(sizes: Sequence[Size]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in sizes)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _file(folder: Path, row: ManifestRow) -> Path:
    return folder / f"{row.key}.safetensors"


def _fresh(cached: Path, shard: Path) -> bool:
    return cached.exists() and shard.exists() and cached.stat().st_mtime >= shard.stat().st_mtime


def _read(folder: Path, row: ManifestRow, name: str, index: int | slice) -> Tensor:
    with safe_open(_file(folder, row), "pt") as file:
        return file.get_slice(name)[index]
