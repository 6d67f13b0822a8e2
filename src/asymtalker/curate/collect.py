"""Stage 1: which videos there are, what their headers say, and whose licence allows them."""

import csv
import hashlib
import io
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from asymtalker.curate.recipe import Recipe
from asymtalker.curate.work import Rejected
from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path
from asymtalker.media.video import VIDEO_SUFFIXES, probe_video

TABLES = (".csv", ".tsv", ".parquet", ".txt", ".lst")
"""Of files taken for lists of videos."""
NAMES = {
    "path": ("path", "file", "uri", "url", "video"),
    "source_id": ("source_id", "video_id", "id"),
    "start": ("start", "start_s", "begin"),
    "end": ("end", "end_s", "stop"),
    "licence": ("licence", "license"),
    "source": ("source", "origin"),
    "speaker": ("speaker", "identity"),
}
"""Columns of a table and what they may be called."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video that is to be looked at.

    Attributes:
        key: names it, without dots and slashes.
        path: of a file, or its address.
        name: for people, and the clips' ``source_id``.
        source_id: what it is called where it comes from; two of the same are one video.
        spans: seconds ``(start, end)`` of its clips, if the table says them.
        licence: as the table says it.
        source: where it comes from, likewise.
        speaker: who speaks in it, likewise.
    """

    key: str
    path: str
    name: str
    source_id: str
    spans: tuple[tuple[float, float], ...] = ()
    licence: str | None = None
    source: str | None = None
    speaker: str | None = None


def is_address(path: str) -> bool:
    """Whether it is an address of fsspec's, such as ``s3://bucket/film.mp4``, and not a file here."""
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def list_videos(source: str) -> list[Video]:
    """The videos of a folder, in order of their names, or of a list, in its order. Either may be an address.

    A list is a text file of paths, or a CSV, TSV or Parquet table with a column ``path`` and perhaps ``start`` and
    ``end`` (seconds), ``source_id``, ``licence``, ``source`` and ``speaker``; several rows of one path are several
    clips of it. Paths are below the list's own folder. A folder may hold such a table as ``index.tsv`` or
    ``index.csv``, which says more of its videos.

    Raises:
        UserError: if there is no such folder or list, or a row of it makes no sense.
    """
    if PurePosixPath(source).suffix.lower() in TABLES:
        rows = _table(source)
        base = source.rpartition("/")[0]
        return _keyed(_videos(rows, base, source))
    paths, names = _folder(source)
    said: dict[str, list[dict[str, Any]]] = {}
    for table in ("index.tsv", "index.csv"):
        if table in names:
            for row in _table(f"{source.rstrip('/')}/{table}"):
                said.setdefault(str(row.get("path", "")), []).append(row)
    videos = []
    for path, name in zip(paths, names, strict=True):
        if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES:
            rows = [row | {"path": path, "name": name} for row in said.get(name, [{}])]
            videos += _videos(rows, "", source)
    return _keyed(videos)


def _folder(source: str) -> tuple[list[str], list[str]]:
    """Paths of all files of a folder and their names below it, sorted."""
    if not is_address(source):
        folder = Path(source)
        if not folder.is_dir():
            raise UserError(f"There is no folder of videos {folder}: give one that exists.")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [str(path) for path in files], [path.relative_to(folder).as_posix() for path in files]
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(source)
        found = sorted(system.find(root))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{source} can't be listed: {error}.") from error
    if not found:
        raise UserError(f"There is no folder of videos {source}: give one that exists.")
    names = [PurePosixPath(path).relative_to(root).as_posix() for path in found]
    return [system.unstrip_protocol(path) for path in found], names


def _table(source: str) -> list[dict[str, Any]]:
    """Rows of a list, their columns named as :data:`NAMES` does."""
    import fsspec

    try:
        with fsspec.open(source, "rb") as file:
            data: bytes = file.read()  # type: ignore[union-attr]
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"The list of videos {source} can't be read: {error}.") from error
    suffix = PurePosixPath(source).suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(io.BytesIO(data)).to_pylist()
        elif suffix in (".csv", ".tsv"):
            quoting = {"quoting": csv.QUOTE_NONE, "delimiter": "\t"} if suffix == ".tsv" else {}
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), **quoting))
        else:
            rows = [{"path": line.strip()} for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except (ValueError, csv.Error) as error:
        raise UserError(f"The list of videos {source} is damaged: {error}.") from error
    known = {name: column for column, names in NAMES.items() for name in names}
    return [{known.get(str(key).lower(), str(key)): value for key, value in row.items() if key} for row in rows]


def _videos(rows: list[dict[str, Any]], base: str, source: str) -> Iterator[Video]:
    """A video for each path, in the order of their first rows."""
    together: dict[str, Video] = {}
    for number, row in enumerate(rows, 1):
        path = str(row.get("path") or "")
        if not path:
            raise UserError(f"{source}: row {number} has no path of a video: a column called path has to say it.")
        name = row.get("name", path)
        if base and not is_address(path) and not Path(path).is_absolute():
            path = f"{base}/{path}"
        span = _span(row, f"{source}: row {number}")
        if path in together:
            together[path] = replace(together[path], spans=together[path].spans + span)
            continue
        texts = {key: str(row[key]) for key in ("licence", "source", "speaker") if row.get(key)}
        together[path] = Video(
            key=_key(name), path=path, name=name, source_id=str(row.get("source_id") or name), spans=span, **texts
        )
    yield from together.values()


def _span(row: Mapping[str, Any], where: str) -> tuple[tuple[float, float], ...]:
    start, end = row.get("start"), row.get("end")
    if start in (None, "") and end in (None, ""):
        return ()
    try:
        span = float(start or 0), float("nan" if end in (None, "") else end)  # type: ignore[arg-type]
    except ValueError:
        raise UserError(f"{where}: start and end are seconds, not {start} and {end}.") from None
    if not 0 <= span[0] < span[1]:
        raise UserError(f"{where}: a clip from {start} to {end} seconds is none.")
    return (span,)


def _key(name: str) -> str:
    path = PurePosixPath(name.partition("://")[2] or name)
    return re.sub(r"[^\w-]+", "_", "_".join(path.with_suffix("").parts).strip("_/")) or "video"


def _keyed(videos: Iterator[Video] | list[Video]) -> list[Video]:
    """The videos, those of one key told apart by their names."""
    videos = list(videos)
    count = Counter(video.key for video in videos)
    return [
        replace(video, key=f"{video.key}-{hashlib.sha256(video.name.encode()).hexdigest()[:8]}")
        if count[video.key] > 1
        else video
        for video in videos
    ]


def local_copy(video: Video, folder: Path) -> Path:
    """The video as a file: itself, or what was fetched from its address into ``folder``.

    Raises:
        UserError: if it can't be fetched.
    """
    if not is_address(video.path):
        return Path(video.path)
    import fsspec

    copy = folder / f"{video.key}{PurePosixPath(video.path).suffix}"
    if not copy.exists():
        try:
            with fsspec.open(video.path, "rb") as there, atomic_path(copy) as partial, partial.open("wb") as here:
                shutil.copyfileobj(there, here, 1 << 20)  # type: ignore[arg-type]
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{video.path} can't be fetched: {error}") from error
    return copy


def probe(path: Path) -> dict[str, Any]:
    """What the header of a video says: ``scores`` (``source_pixels`` its shorter side, ``source_fps``,
    ``source_seconds``) and ``delay``, the seconds by which its sound begins later than its picture.

    Raises:
        Rejected: if it has no sound.
        UserError: if it is no video.
    """
    info = probe_video(path)
    if info.audio_rate is None:
        raise Rejected("sound", "it has no sound.")
    scores = {
        "source_pixels": min(info.width, info.height),
        "source_fps": info.fps,
        "source_seconds": info.seconds,
        "sound_rate": info.audio_rate,
    }
    return {"scores": scores, "delay": info.audio_delay}


def licence_problem(video: Video, recipe: Recipe) -> str | None:
    """Why a video's licence does not let it pass, ``None`` if it does."""
    if video.licence is None:
        return None if recipe.unknown_licence else "nobody says its licence"
    if recipe.licences is None or _plain(video.licence) in map(_plain, recipe.licences):
        return None
    return f"its licence is {video.licence}"


def _plain(licence: str) -> str:
    return re.sub(r"[\s_-]+", "-", licence.strip().lower())
