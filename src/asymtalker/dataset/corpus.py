"""The corpus contract of ``docs/architecture.md``: WebDataset shards and a manifest, written whole, read at random.

A shard is an uncompressed tar; per clip it holds ``<key>.mp4``, ``<key>.wav``, ``<key>.json`` and, but where the face
mesh is to say where the face is, ``<key>.mask.mp4``.
The manifest is derived from the JSON members alone, so it can always be made again from the shards.
"""

import contextlib
import functools
import io
import json
import os
import tarfile
import tempfile
import wave
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream

from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path, clear_unfinished
from asymtalker.media.face_mesh import find_face
from asymtalker.media.face_readings import face_mask
from asymtalker.media.wav import decode_wav, encode_wav
from asymtalker.timeline import FPS, SAMPLES_PER_FRAME

MANIFEST = "manifest.parquet"
KEYFRAME_INTERVAL = 25
VIDEO_IN_MEMORY = 32 << 20
"""Bytes: what is longer waits for its place in the shard in a file."""


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One clip of the manifest."""

    key: str
    shard: str
    """File name of the shard within the corpus folder; empty of a clip that was rejected and is in none."""
    split: Literal["train", "test"]
    source_id: str
    identity_id: str
    voice_id: str
    kind: str
    """``"rendered"`` or ``"photo"`` for synthetic heads, ``"real"`` for curated video."""
    fps: float
    frames: int
    height: int
    width: int
    crop: str | None = None
    """JSON text: where in the source's picture the clip was cut out (left, top, right, bottom), null if all of it."""
    scores: str = "{}"
    """JSON text: what the filters measured."""
    rejected_by: str | None = None
    """The filter that rejected the clip, null if it was kept."""
    licence: str | None = None
    """Of the source, as who gave it said."""
    source: str | None = None
    """Where the source comes from, likewise."""
    start: float | None = None
    """Seconds of the source at which the clip begins, null if it was made."""


@dataclass(frozen=True, kw_only=True)
class NewClip:
    """A clip to be written. Its pictures may be drawn as they are asked for, a frame and its mask at a time, so that a
    clip of any length needs little memory."""

    key: str
    split: Literal["train", "test"]
    source_id: str
    identity_id: str
    voice_id: str
    kind: str
    frames: Iterable[np.ndarray]
    """F pictures ``(H, W, 3)`` uint8 RGB, 25 FPS, such as an array of them; H and W even."""
    mask: Iterable[np.ndarray] | None
    """Their F masks ``(H, W)`` uint8, face = 255; ``None`` leaves them to the face mesh, when they are read."""
    audio: np.ndarray
    """``(N,)`` float32 at 16 kHz, F frames long: ``640 (F - 1) < N <= 640 F``."""
    ground_truth: dict[str, Any] | Callable[[], dict[str, Any]] | None = None
    """A function is called after the last frame."""
    crop: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    rejected_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncodedClip:
    """A clip whose members are files already.

    Attributes:
        row: what the manifest says of it; its shard is filled in.
        files: by suffix, ``mp4``, ``mask.mp4`` and ``wav``, as :class:`ShardWriter` makes them.
        more: goes into the JSON member beside the row.
    """

    row: ManifestRow
    files: Mapping[str, Path]
    more: Mapping[str, Any] = field(default_factory=dict)

    def info(self, shard: str) -> dict[str, Any]:
        """The JSON member."""
        return asdict(replace(self.row, shard=shard)) | dict(self.more)


class ShardWriter:
    """Writes a corpus shard by shard; a shard that is there already is kept, so a stopped run goes on where it was."""

    def __init__(self, folder: Path):
        """Make the folder.

        Raises:
            UserError: if the folder can't be made or written to.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't make the corpus folder {folder}: {error.strerror}; choose another") from None
        if not os.access(folder, os.W_OK):
            raise UserError(f"can't write to the corpus folder {folder}; change its permissions or choose another")

    def has(self, index: int) -> bool:
        """Whether shard ``index`` is finished."""
        return (self.folder / shard_name(index)).is_file()

    def write(self, index: int, clips: Iterable[NewClip]) -> None:
        """Write one shard from its clips, taken one at a time; the file appears when it is whole.

        The same clips give the same bytes.

        Raises:
            UserError: if the disk is full or the shard can't be written.
        """
        name = shard_name(index)
        with (
            atomic_path(self.folder / name) as partial,
            tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for clip in clips:
                _add_clip(tar, clip, self.folder / name)

    def write_encoded(self, index: int, clips: Sequence[EncodedClip]) -> None:
        """Write one shard of clips that are encoded already; else as :meth:`write`."""
        name = shard_name(index)
        with (
            atomic_path(self.folder / name) as partial,
            tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for clip in clips:
                with contextlib.ExitStack() as stack:
                    members: dict[str, IO[bytes]] = {
                        suffix: stack.enter_context(path.open("rb")) for suffix, path in clip.files.items()
                    }
                    members["json"] = io.BytesIO(json.dumps(clip.info(name), ensure_ascii=False).encode())
                    _add_members(tar, clip.row.key, members)

    def holds(self, index: int, clips: Sequence[EncodedClip]) -> bool:
        """Whether shard ``index`` is there with these clips, by what its JSON members say."""
        shard = self.folder / shard_name(index)
        return shard.is_file() and _infos(shard) == [clip.info(shard.name) for clip in clips]

    def clear(self) -> None:
        """Remove what killed writers left unfinished; nobody may be writing."""
        clear_unfinished(self.folder)

    def write_manifest(self, rejected: Sequence[ManifestRow] | None = None) -> list[ManifestRow]:
        """Write ``manifest.parquet`` for the shards that are there now; returns its rows in order of key.

        Args:
            rejected: rows of clips that are in no shard; by default those of the manifest that is there.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if rejected is None:
            there = (self.folder / MANIFEST).is_file()
            rejected = [row for row in (read_manifest(self.folder) if there else []) if not row.shard]
        rows = list(rejected)
        for shard in sorted(self.folder.glob("shard-*.tar")):
            for info in _infos(shard):
                row = ManifestRow(**{f.name: info[f.name] for f in fields(ManifestRow) if f.name in info})
                rows.append(replace(row, shard=shard.name))  # corpora can be put together
        rows.sort(key=lambda row: row.key)
        kinds = {
            "fps": pa.float64(),
            "start": pa.float64(),
            **dict.fromkeys(("frames", "height", "width"), pa.int64()),
        }
        schema = pa.schema([(f.name, kinds.get(f.name, pa.string())) for f in fields(ManifestRow)])
        with atomic_path(self.folder / MANIFEST) as partial:
            pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), partial)
        return rows


def shard_name(index: int) -> str:
    """File name of shard ``index``."""
    return f"shard-{index:06d}.tar"


def _add_clip(tar: tarfile.TarFile, clip: NewClip, shard: Path) -> None:
    if "." in clip.key or "/" in clip.key:
        raise ValueError(f"a key has no dot and no slash, got {clip.key!r}")
    # a member's size stands before it; beside the shard there is room for it
    scratch = functools.partial(tempfile.SpooledTemporaryFile, VIDEO_IN_MEMORY, dir=shard.parent)
    with scratch() as video, scratch() as mask:
        count, height, width = _encode_pictures(clip, video, mask)
        if not SAMPLES_PER_FRAME * (count - 1) < len(clip.audio) <= SAMPLES_PER_FRAME * count:
            raise ValueError(f"{len(clip.audio)} samples of audio for {count} frames")
        row = ManifestRow(
            key=clip.key,
            shard=shard.name,
            split=clip.split,
            source_id=clip.source_id,
            identity_id=clip.identity_id,
            voice_id=clip.voice_id,
            kind=clip.kind,
            fps=float(FPS),
            frames=count,
            height=height,
            width=width,
            crop=clip.crop,
            scores=json.dumps(clip.scores, sort_keys=True),
            rejected_by=clip.rejected_by,
        )
        truth = clip.ground_truth() if callable(clip.ground_truth) else clip.ground_truth
        info = asdict(row) | ({"ground_truth": truth} if truth is not None else {})
        text = json.dumps(info, ensure_ascii=False).encode()
        masks = {} if clip.mask is None else {"mask.mp4": mask}
        members = {"mp4": video, **masks, "wav": io.BytesIO(encode_wav(clip.audio)), "json": io.BytesIO(text)}
        _add_members(tar, clip.key, members)


def _add_members(tar: tarfile.TarFile, key: str, members: Mapping[str, IO[bytes]]) -> None:
    for suffix, file in members.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        file.seek(0, os.SEEK_END)
        member.size, member.mode = file.tell(), 0o644
        file.seek(0)
        tar.addfile(member, file)


def _encode_pictures(clip: NewClip, video: IO[bytes], mask: IO[bytes]) -> tuple[int, int, int]:
    """Write both videos, frame by frame; returns the number of frames, their height and their width."""
    count, height, width = 0, 0, 0
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(video_writer(video))
        write_mask = None if clip.mask is None else stack.enter_context(video_writer(mask, crf=18))
        for picture, face in zip_longest(clip.frames, () if clip.mask is None else clip.mask):
            if picture is None or (write_mask and (face is None or face.shape != picture.shape[:2])):
                raise ValueError(f"frame {count} and its mask do not belong together")
            write(picture)
            if write_mask:
                write_mask(face)
            count, (height, width) = count + 1, picture.shape[:2]
    return count, height, width


@contextlib.contextmanager
def video_writer(file: IO[bytes], crf: int = 12) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a picture to an H.264 MP4 of 25 FPS: RGB ``(H, W, 3)`` without chroma subsampling, or
    grey ``(H, W)``. The file is whole when the block ends.

    One thread and no timestamps in the file: the same frames give the same bytes.
    """
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "threads": "1", "flags": "+bitexact"}
        # with lookahead, bytes of small pictures differed from run to run
        options["x264-params"] = "rc-lookahead=0:mbtree=0:scenecut=0:weightp=0"
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.gop_size = KEYFRAME_INTERVAL
        stream.time_base = Fraction(1, FPS)
        count = 0

        def write(picture: np.ndarray) -> None:
            nonlocal count
            grey = picture.ndim == 2
            if not count:
                stream.pix_fmt = "gray" if grey else "yuv444p"
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray" if grey else "rgb24")
            frame.pts, frame.time_base = count, Fraction(1, FPS)
            container.mux(stream.encode(frame))
            count += 1

        yield write
        container.mux(stream.encode(None))


def decode_video(source: str, start: int, stop: int, grey: bool = False) -> np.ndarray:
    """Frames ``[start, stop)`` of a video made by :func:`video_writer`: ``(n, H, W, 3)`` RGB or ``(n, H, W)`` grey.

    ``source`` is what FFmpeg opens. Decoding begins at the last key frame before ``start``, and only that part is
    read; a frame is known by its time, so seeking is exact.

    Raises:
        UserError: if the data is no video or ends before ``stop``.
    """
    pictures = []
    try:
        with av.open(source, "r", metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            if not isinstance(stream, VideoStream) or stream.time_base is None or stream.codec_context is None:
                raise UserError("the clip's video has no picture; write the corpus again")
            stream.codec_context.thread_count = 1
            if start >= KEYFRAME_INTERVAL:
                container.seek(round(Fraction(start, FPS) / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                index = round(frame.pts * stream.time_base * FPS) if frame.pts is not None else len(pictures)
                if index >= stop:
                    break
                if index >= start:
                    pictures.append(frame.to_ndarray(format="gray" if grey else "rgb24"))
    except FFmpegError as error:
        raise UserError(f"a clip's video can't be decoded ({error}); its shard is damaged, write it again") from None
    if len(pictures) != stop - start:
        raise UserError(f"a clip's video has no frames {start} to {stop}; its shard is damaged, write it again")
    return np.stack(pictures)


@functools.lru_cache(maxsize=4096)
def _index(path: str, size: int, modified: int) -> dict[str, tuple[int, int]]:
    members = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")
            members[member.name] = (member.offset_data, member.size)
    return members


def _members(shard: Path) -> dict[str, tuple[int, int]]:
    """Members of a shard: ``name -> (offset, size)``; kept as long as the file does not change."""
    try:
        state = shard.stat()
        return _index(str(shard), state.st_size, state.st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"the corpus has lost its shard {shard}; copy it again or write the corpus again") from None
    except tarfile.TarError as error:
        raise UserError(f"the shard {shard} is damaged ({error}); delete it and write the corpus again") from None


def _infos(shard: Path) -> list[dict[str, Any]]:
    """The JSON members of a shard."""
    found = []
    with shard.open("rb") as file:
        for name, (offset, size) in _members(shard).items():
            if name.endswith(".json"):
                file.seek(offset)
                found.append(json.loads(file.read(size)))
    return found


def read_manifest(folder: Path) -> list[ManifestRow]:
    """The rows of a corpus's manifest, in order of key.

    Raises:
        UserError: if the folder is no corpus or its manifest is damaged.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} is not a corpus: it has no {MANIFEST}; give a folder that asymtalker synth has written,"
            " or another of that form"
        )
    state = path.stat()
    return list(_manifest(str(path), state.st_size, state.st_mtime_ns).values())


@functools.lru_cache(maxsize=16)
def _manifest(path: str, size: int, modified: int) -> dict[str, ManifestRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # a file handle: a folder named like "split=train" must not become a column
        with Path(path).open("rb") as file:
            records = pq.read_table(file).to_pylist()
        return {record["key"]: ManifestRow(**record) for record in records}
    except (pa.ArrowException, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is no manifest of a corpus ({error}); write the corpus again") from None


@dataclass(frozen=True)
class Clip:
    """One clip of a corpus; nothing is read before it is asked for."""

    row: ManifestRow
    shard: Path

    @property
    def key(self) -> str:
        return self.row.key

    @property
    def num_frames(self) -> int:
        return self.row.frames

    def _place(self, suffix: str) -> tuple[int, int]:
        """Where a member lies in the shard: offset and size in bytes."""
        name = f"{self.row.key}.{suffix}"
        place = _members(self.shard).get(name)
        if place is None:
            raise UserError(f"the shard {self.shard} has no {name}; delete it and write the corpus again")
        return place

    def _video(self, suffix: str) -> str:
        """A member as FFmpeg opens it in its place, so that a block of a long video costs no more than one of a short
        video."""
        offset, size = self._place(suffix)
        return f"subfile,,start,{offset},end,{offset + size},,:file:{self.shard}"

    def _read(self, suffix: str) -> bytes:
        offset, size = self._place(suffix)
        with self.shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.row.frames if stop is None else stop
        if not 0 <= start < stop <= self.row.frames:
            raise ValueError(f"frames {start} to {stop} of a clip of {self.row.frames}")
        return start, stop

    def frames(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames ``[start, stop)`` as ``(n, H, W, 3)`` uint8 RGB, all of them by default."""
        return decode_video(self._video("mp4"), *self._range(start, stop))

    def mask(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Face masks ``(n, H, W)`` uint8, face = 255, of frames ``[start, stop)``: those of the shard, else of the
        face mesh, 0 where that finds no face."""
        if f"{self.row.key}.mask.mp4" not in _members(self.shard):
            return np.stack([_mesh_mask(frame) for frame in self.frames(start, stop)])
        return decode_video(self._video("mask.mp4"), *self._range(start, stop), grey=True)

    def audio(self) -> np.ndarray:
        """The whole sound: ``(N,)`` float32 in [-1, 1] at 16 kHz; frame ``k`` owns samples ``[640k, 640(k+1))``."""
        try:
            return decode_wav(self._read("wav"))
        except (wave.Error, EOFError, ValueError) as error:
            raise UserError(f"{self.shard}: the sound of {self.row.key} is damaged; write the shard again") from error

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """The JSON member: the manifest's row and, for synthetic clips, ``ground_truth``."""
        try:
            return json.loads(self._read("json"))
        except ValueError as error:
            raise UserError(f"{self.shard}: the JSON of {self.row.key} is damaged; write the shard again") from error


def _mesh_mask(frame: np.ndarray) -> np.ndarray:
    """The face mask ``(H, W)`` uint8 of a frame, read alone, so that it is the same in any range of frames."""
    face = find_face(frame)
    return face_mask(face.points, *frame.shape[:2]) if face else np.zeros(frame.shape[:2], np.uint8)


def read_clips(folder: Path) -> list[Clip]:
    """The clips of the corpus in ``folder`` that are in a shard, in order of key.

    Raises:
        UserError: if the folder is no corpus or its manifest is damaged.
    """
    return [Clip(row, Path(folder) / row.shard) for row in read_manifest(folder) if row.shard]


def open_clip(folder: Path, key: str) -> Clip:
    """The clip ``key`` of the corpus in ``folder``.

    Raises:
        UserError: if the folder is no corpus, has no such clip, or the clip's shard is missing or damaged.
    """
    read_manifest(folder)
    path = Path(folder) / MANIFEST
    state = path.stat()
    row = _manifest(str(path), state.st_size, state.st_mtime_ns).get(key)
    if row is None:
        raise UserError(f"the corpus {folder} has no clip {key!r}; its manifest lists the keys")
    shard = Path(folder) / row.shard
    _members(shard)
    return Clip(row, shard)
