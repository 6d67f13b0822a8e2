"""Stage 1: which videos there are, what their headers say, and whose licence allows them."""

import csv
import hashlib
import io
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from asymtalker.curate.recipe import Recipe
from asymtalker.curate.work import Rejected
from asymtalker.errors import UserError, join_or
from asymtalker.media.atomic import atomic_path, disk_is_full
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
"""Columns of a table and what they may be called; of several the first counts."""
KEY_BYTES = 60
"""Longest key of a video: names in a shard may have 100 bytes, and a clip's key says frames and face besides."""


@dataclass(frozen=True)
class Given:
    """A clip that a table asks for: seconds of a video, and who speaks in it, if that is said."""

    start: float
    end: float
    speaker: str | None = None


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video that is to be looked at.

    Attributes:
        key: names it, without dots and slashes.
        path: of a file, or its address.
        name: for people, and the clips' ``source_id``.
        source_id: what it is called where it comes from; two of the same are one video.
        given: its clips, if the table says them.
        licence: as the table says it, or ``--licence``.
        source: where it comes from, likewise.
        speaker: who speaks in it, likewise, where it says no clips.
    """

    key: str
    path: str
    name: str
    source_id: str
    given: tuple[Given, ...] = ()
    licence: str | None = None
    source: str | None = None
    speaker: str | None = None


def is_address(path: str) -> bool:
    """Whether it is an address of fsspec's, such as ``s3://bucket/film.mp4``, and not a file here."""
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def list_videos(source: str) -> list[Video]:
    """The videos of a folder, in order of their names, or of a list, in its order. Either may be an address.

    A list is a text file of paths, or a CSV, TSV or Parquet table with a column ``path`` and perhaps ``start`` and
    ``end`` (seconds; without an end, that of the video), ``source_id``, ``licence``, ``source`` and ``speaker``;
    several rows of one path are several clips of it. Paths are below the list's own folder. A folder may hold such a
    table as ``index.tsv`` or ``index.csv``, which says more of its videos. What is not looked at (columns, rows of
    files that are not there, files that are no videos by their names) is said on stderr.

    Raises:
        UserError: if there is no such folder or list, there is no video in it, or a row of it makes no sense.
    """
    if PurePosixPath(source).suffix.lower() in TABLES:
        base = source.rpartition("/")[0]
        videos = _videos(_table(source), base, source)
    else:
        videos = _of_folder(source)
    if not videos:
        raise UserError(f"There is no video in {source}: give a folder of {', '.join(VIDEO_SUFFIXES)}, or a list.")
    return _keyed(videos)


def _of_folder(source: str) -> list[Video]:
    paths, names = _folder(source)
    said: dict[str, list[dict[str, Any]]] = {}
    tables = [table for table in ("index.tsv", "index.csv") if table in names]
    for table in tables:
        for row in _table(f"{source.rstrip('/')}/{table}"):
            said.setdefault(str(row.get("path", "")), []).append(row)
    videos, others = list[Video](), Counter[str]()
    for path, name in zip(paths, names, strict=True):
        if (suffix := PurePosixPath(name).suffix.lower()) in VIDEO_SUFFIXES:
            rows = [row | {"path": path} for row in said.pop(name, [{}])]
            videos += _videos(rows, "", f"{source}/{tables[0] if tables else ''}", name)
        elif name not in tables:
            others[suffix or name] += 1
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        print(f"{source}: {sum(others.values())} files are no videos by their names ({kinds}).", file=sys.stderr)
    for name in said:
        print(f"{source}: {' and '.join(tables)} tells of {name or 'no file'}, which is not there.", file=sys.stderr)
    return videos


def _folder(source: str) -> tuple[list[str], list[str]]:
    """Paths of all files of a folder and their names below it, sorted."""
    if not is_address(source):
        folder = Path(source)
        if folder.is_file():
            raise UserError(f"{folder} is a file: give the folder it lies in, or a list, such as a .txt of paths.")
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
    """Rows of a list, their columns named as :data:`NAMES` does; others are left out, and said."""
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
    there = {str(key).strip().lower(): key for row in rows[:1] for key in row if key}
    columns = {
        column: there[found[0]] for column, names in NAMES.items() if (found := [n for n in names if n in there])
    }
    if unknown := sorted(str(key) for key in there.values() if key not in columns.values()):
        print(f"{source}: not looked at: {', '.join(unknown)} (columns are {', '.join(NAMES)}).", file=sys.stderr)
    return [
        {column: said for column, key in columns.items() if (said := _said(row.get(key))) is not None} for row in rows
    ]


def _said(value: Any) -> Any:
    """What a cell says, ``None`` if nothing."""
    value = value.strip() if isinstance(value, str) else value
    return value if value != "" and value == value else None  # nan is not


def _videos(rows: list[dict[str, Any]], base: str, source: str, called: str | None = None) -> list[Video]:
    """A video for each path, in the order of their first rows; ``called`` is the name of the only one."""
    together: dict[str, Video] = {}
    for number, row in enumerate(rows, 1):
        where = f"{source}: row {number}"
        if "path" not in row:
            raise UserError(f"{where} has no path of a video: a column called path has to say it.")
        name = called or str(row["path"])
        path = str(row["path"])
        if base and not is_address(path) and not Path(path).is_absolute():
            path = f"{base}/{path}"
        texts = {key: str(row[key]) for key in ("licence", "source", "speaker") if key in row}
        clip = _given(row, where)
        if clip:
            texts.pop("speaker", None)
        source_id = str(row.get("source_id", name))
        video = Video(key=_key(name), path=path, name=name, source_id=source_id, given=clip, **texts)
        before = together.setdefault(path, video)
        if before is video:
            continue
        if replace(before, given=clip) != video or bool(before.given) != bool(clip):
            raise UserError(
                f"{where} says something else of {name} than a row before: rows of one video are its clips, with start"
                " and end, and agree on licence, source and source_id."
            )
        together[path] = replace(before, given=tuple(dict.fromkeys(before.given + clip)))
    return list(together.values())


def _given(row: Mapping[str, Any], where: str) -> tuple[Given, ...]:
    """The clip a row asks for, none if it says no times."""
    if "start" not in row and "end" not in row:
        return ()
    start, end = row.get("start", 0), row.get("end", math.inf)
    try:
        clip = Given(float(start), float(end), str(row["speaker"]) if "speaker" in row else None)
    except ValueError:
        raise UserError(f"{where}: start and end are seconds, not {start} and {end}.") from None
    if not 0 <= clip.start < clip.end:
        raise UserError(f"{where}: a clip from {start} to {end} seconds is none.")
    return (clip,)


def _key(name: str) -> str:
    path = PurePosixPath(name.partition("://")[2] or name)
    return re.sub(r"[^\w-]+", "_", "_".join(path.with_suffix("").parts).strip("_/")) or "video"


def _keyed(videos: list[Video]) -> list[Video]:
    """The videos, those of one key told apart by their names, and long keys cut."""
    count = Counter(video.key for video in videos)
    keyed = []
    for video in videos:
        if count[video.key] > 1 or len(video.key.encode()) > KEY_BYTES:
            ending = hashlib.sha256(video.name.encode()).hexdigest()[:8]
            begun = video.key.encode()[: KEY_BYTES - 9].decode(errors="ignore")
            video = replace(video, key=f"{begun}-{ending}")
        keyed.append(video)
    return keyed


def copy_of(video: Video, folder: Path) -> Path:
    """Where the copy of a video from an address lies, if there is one."""
    return folder / f"{video.key}{PurePosixPath(video.path).suffix}"


def local_copy(video: Video, folder: Path) -> Path:
    """The video as a file: itself, or what was fetched from its address into ``folder``.

    Raises:
        Rejected: if it can't be fetched, which another run may try again.
    """
    if not is_address(video.path):
        return Path(video.path)
    import fsspec

    copy = copy_of(video, folder)
    if not copy.exists():
        try:
            with fsspec.open(video.path, "rb") as there, atomic_path(copy) as partial, partial.open("wb") as here:
                shutil.copyfileobj(there, here, 1 << 20)  # type: ignore[arg-type]
        except (OSError, ValueError, ImportError) as error:
            if disk_is_full(error):
                raise
            raise Rejected("quarantined", f"{video.path} can't be fetched: {error}") from error
    return copy


def stamp_of(video: Video) -> list[Any]:
    """What tells whether a video is the one that was looked at: its path, and of a file its size and when it was
    written; without these, where it is not there."""
    if not is_address(video.path) and (file := Path(video.path)).is_file():
        state = file.stat()
        return [video.path, state.st_size, state.st_mtime_ns]
    return [video.path]


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


def with_licence(videos: Sequence[Video], licence: str | None, recipe: Recipe) -> list[Video]:
    """The videos, those of which no table says a licence with this one.

    Raises:
        UserError: if it is empty, or none that the recipe allows; or nobody says the licence of any video and the
            recipe wants one.
    """
    if licence is not None:
        licence = licence.strip()
        if not licence:
            raise UserError(
                "--licence is empty: give the videos' licence, such as cc-by-4.0, or own of your recordings."
            )
        if not _is_allowed(licence, recipe):
            raise UserError(f"--licence is {licence}, and the recipe allows {join_or(recipe.licences or ('none',))}.")
    videos = [replace(video, licence=video.licence or licence) for video in videos]
    if not recipe.unknown_licence and all(video.licence is None for video in videos):
        raise UserError(
            "Nobody says under which licence the videos are: give --licence, such as cc-by-4.0, or own of your own"
            " recordings; or a column licence in the table of videos."
        )
    return videos


def licence_problem(video: Video, recipe: Recipe) -> str | None:
    """Why a video's licence does not let it pass, ``None`` if it does."""
    if video.licence is None:
        return None if recipe.unknown_licence else "nobody says its licence (--licence does, of all such videos)"
    if _is_allowed(video.licence, recipe):
        return None
    return f"its licence is {video.licence}, and the recipe allows {join_or(recipe.licences or ('none',))}"


def _is_allowed(licence: str, recipe: Recipe) -> bool:
    return recipe.licences is None or _plain(licence) in map(_plain, recipe.licences)


def _plain(licence: str) -> str:
    return re.sub(r"[\s_-]+", "-", licence.strip().lower())
