"""What is encoded of a corpus, kept beside it.

Encoding a chunk costs far more than a training step of a small network, and a small corpus is drawn from again and
again, so latents, identity references, audio features and face masks can be written once, floats as float16, as
``<corpus>/cache/<what>-<hash>/<key>.safetensors``.
The hash covers the weights, precision, lengths, bucket and rules the values depend on, so a retrained codec or audio
encoder never meets stale values, and a new audio encoder does not throw away the latents. A file older than the shard
of its clip is made again.

The cache is filled by :class:`asymtalker.dataset.encode.Encoder` one chunk at a time, so both give the same, bit for
bit on one machine.
"""

import hashlib
import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from asymtalker.config import TeacherConfig
from asymtalker.dataset.buckets import BLOCK, Size, View, by_bucket, whole_view
from asymtalker.dataset.chunks import (
    AUDIO_MARGIN,
    REFERENCES,
    START_STRIDE,
    chunk_starts,
    reference_frames,
    usable_clips,
)
from asymtalker.dataset.corpus import Clip
from asymtalker.dataset.encode import Encoder
from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES
from asymtalker.training.distributed import barrier, on_its_device, patient_group, world
from asymtalker.training.frozen import Frozen, load_frozen
from asymtalker.training.run_folder import in_its_precision, tracked


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
            root / f"face-{_hash(*seen)}",
        )


class Cache:
    """What an :class:`Encoder` gives: read from beside the corpus what is kept there, and the rest computed. Files are
    mapped, so the system keeps hot ones in memory."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self._folders: dict[tuple[Path, Size | None], Folders] = {}
        self._kept: set[Path] = set()

    def _has(self, folder: Path, clip: Clip) -> bool:
        path = _file(folder, clip)
        if path not in self._kept and _fresh(path, clip.shard):
            self._kept.add(path)
        return path in self._kept

    def folders(self, clip: Clip) -> Folders:
        """Where the parts of a clip lie."""
        bucket = self.encoder.bucket(clip)
        own = bucket == (clip.row.height, clip.row.width)
        key = clip.shard.parent, None if own else bucket
        if key not in self._folders:
            self._folders[key] = Folders.of(key[0], self.encoder.given, self.encoder.chunk_frames, key[1])
        return self._folders[key]

    def view(self, clip: Clip) -> View:
        """See :meth:`Encoder.view`."""
        bucket = self.encoder.bucket(clip)
        if (view := whole_view(clip.row, bucket)) is not None:
            return view
        if not self._has(self.folders(clip).face, clip):
            return self.encoder.view(clip)
        left, top, right, bottom = _read(self.folders(clip).face, clip, "view", slice(None)).tolist()
        return View((left, top, right, bottom), bucket)

    def latents(self, clip: Clip, chunk: int) -> Tensor:
        """See :meth:`Encoder.latents`."""
        if not self._has(folder := self.folders(clip).latents, clip):
            return self.encoder.latents(clip, chunk)
        return _read(folder, clip, "latents", chunk)

    def reference(self, clip: Clip, reference: int) -> Tensor:
        """See :meth:`Encoder.reference`."""
        if not self._has(folder := self.folders(clip).identity, clip):
            return self.encoder.reference(clip, reference)
        name = "tokens" if self.encoder.frozen.image_encoder is not None else "latents"
        return _read(folder, clip, name, reference)

    def audio(self, clip: Clip, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.audio`."""
        if not self._has(folder := self.folders(clip).audio, clip):
            return self.encoder.audio(clip, start, stop)
        return _read(folder, clip, "features", slice(start + AUDIO_MARGIN, stop + AUDIO_MARGIN))

    def mask(self, clip: Clip, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.mask`."""
        if not self._has(folder := self.folders(clip).face, clip):
            return self.encoder.mask(clip, start, stop)
        height, width = self.encoder.bucket(clip)
        edges = _read(folder, clip, "mask_edges", slice(start, stop + 1)).tolist()
        packed = _read(folder, clip, "masks", slice(edges[0], edges[-1])).numpy().tobytes()
        masks = [zlib.decompress(packed[low - edges[0] : high - edges[0]]) for low, high in pairwise(edges)]
        return torch.frombuffer(bytearray(b"".join(masks)), dtype=torch.uint8).view(-1, height, width)

    def files(self, clip: Clip) -> dict[Path, Callable[[], dict[str, Tensor]]]:
        """The files of a clip, and what each is made of."""
        folders, encoder, frames = self.folders(clip), self.encoder, clip.num_frames
        starts = chunk_starts(frames, encoder.chunk_frames)
        wanted = reference_frames(clip.key, frames, encoder.chunk_frames)
        name = "tokens" if encoder.frozen.image_encoder is not None else "latents"

        def latents() -> dict[str, Tensor]:
            values = torch.stack([encoder.latents(clip, chunk) for chunk in range(len(starts))])
            return {"latents": values, "starts": torch.tensor(starts)}

        def identity() -> dict[str, Tensor]:
            values = torch.stack([encoder.reference(clip, reference) for reference in range(len(wanted))])
            return {name: values, "frames": torch.tensor(wanted)}

        def face() -> dict[str, Tensor]:
            packed = [
                zlib.compress(mask.numpy().tobytes(), 1)  # of 512 x 512 pixels about a kilobyte
                for first in range(0, frames, BLOCK)
                for mask in encoder.mask(clip, first, min(first + BLOCK, frames))
            ]
            return {
                "view": torch.tensor(encoder.view(clip).box, dtype=torch.float64),
                "masks": torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8),
                "mask_edges": torch.tensor([0, *accumulate(map(len, packed))]),
            }

        def audio() -> dict[str, Tensor]:
            return {"features": encoder.audio(clip, -AUDIO_MARGIN, frames + AUDIO_MARGIN)}

        files = {folders.latents: latents, folders.identity: identity, folders.audio: audio}
        if encoder.frozen.codec.spatial:  # the losses on decoded frames, which masks are for, need pixels
            files[folders.face] = face
        return {_file(folder, clip): make for folder, make in files.items()}

    def missing(self, clip: Clip) -> dict[Path, Callable[[], dict[str, Tensor]]]:
        """Those of :meth:`files` that are not there or older than the clip: a corpus can be written again."""
        return {path: make for path, make in self.files(clip).items() if not _fresh(path, clip.shard)}


def encode_corpus(encoder: Encoder, clips: Sequence[Clip]) -> Cache:
    """Encode every clip that is not encoded yet; a stopped run goes on where it was. A clip that the frozen networks
    can't read is said on stderr, and keeps missing.

    Per clip: latents ``(S, C, T, h, w)`` of chunks at :func:`chunk_starts`, identity references at
    :func:`reference_frames` (latents ``(R, C, T, h, w)`` or tokens ``(R, I, ...)``), and of the whole clip audio
    features ``(F + 2 AUDIO_MARGIN, A)`` and face masks. Under ``torchrun`` each process encodes its share and waits
    for the others.

    Args:
        encoder: of the frozen networks.
        clips: of one corpus, each of at least ``encoder.chunk_frames`` frames.

    Raises:
        UserError: if the corpus may not be written to, or the disk is full.
    """
    cache, here = Cache(encoder), world()
    share = [clip for clip in clips[here.rank :: here.size] if cache.missing(clip)]
    if share and not os.access(folder := share[0].shard.parent, os.W_OK):
        raise UserError(
            f"{folder} may not be written to, and what is encoded of a corpus is kept beside it: change its"
            " permissions, or give --config.loop.no-cache to encode every chunk when it is drawn"
        )
    waiting = patient_group()
    if share:
        for clip in tracked(share, "encoding clips", here.main):
            for target, make in cache.missing(clip).items():
                try:
                    tensors = {name: value.contiguous() for name, value in make().items()}
                except UserError as error:
                    print(f"{error} It is left out.", file=sys.stderr, flush=True)
                    break
                with atomic_path(target) as partial:
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
    frozen = load_frozen(model_path, config.model.identity, config.loop)
    encoder = Encoder(frozen, config.chunk.frames, config.buckets)
    splits = [usable_clips(corpus_path, config.chunk.frames, split) for split in ("train", "test")]
    if not any(splits):
        raise UserError(
            f"{corpus_path}: no clip has the {config.chunk.frames} frames of a chunk; add longer clips or use a"
            " shorter chunk"
        )
    for clips in filter(None, splits):
        by_bucket(clips, config.buckets, frozen.codec.spatial)
    clips = [clip for split in splits for clip in split]
    there = {clip.key for clip in clips if not Cache(encoder).missing(clip)}
    barrier()  # nobody begins before all have looked
    cache = encode_corpus(encoder, clips)
    if world().main:
        done = [clip for clip in clips if not cache.missing(clip)]
        new = sum(clip.key not in there for clip in done)
        size = sum(path.stat().st_size for clip in done for path in cache.files(clip)) / 1e9
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"encoded {new} clips in {time.perf_counter() - began:.1f} s; {len(done)} of {len(clips)} are there,"
            f" {size:.3f} GB"
        )
    return corpus_path / "cache"


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _file(folder: Path, clip: Clip) -> Path:
    return folder / f"{clip.key}.safetensors"


def _fresh(cached: Path, shard: Path) -> bool:
    return cached.exists() and shard.exists() and cached.stat().st_mtime >= shard.stat().st_mtime


def _read(folder: Path, clip: Clip, name: str, index: int | slice) -> Tensor:
    with safe_open(_file(folder, clip), "pt") as file:
        return file.get_slice(name)[index]
