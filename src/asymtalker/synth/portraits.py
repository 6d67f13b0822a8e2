"""Photographs that heads are made of: their face-mesh points, identities, and those kept for tests."""

import csv
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path
from asymtalker.media.face_mesh import find_face
from asymtalker.media.picture import PICTURE_SUFFIXES, read_picture


@dataclass(frozen=True)
class Portrait:
    """A picture with its face-mesh points."""

    name: str
    """Its path below the portraits' folder."""
    path: Path
    landmarks: np.ndarray
    """``(478, 3)`` in pixels."""


def find_portraits(folder: Path, kept: Path | None = None, workers: int = 1) -> list[Portrait]:
    """The pictures below ``folder`` that show a face, in order of name; says what it leaves out.

    Rows of an ``index.tsv`` in ``folder`` with a value under ``same_as_test_portrait`` are left out.

    Args:
        folder: of the pictures.
        kept: a file that the points are kept in, by the pictures' contents, so that they are read once.
        workers: threads that read faces.

    Raises:
        UserError: if the folder or usable pictures are missing.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise UserError(f"there is no folder of portraits {folder}; give one that exists")
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    tests = reserved_portraits(folder)
    usable = [path for path in pictures if path.relative_to(folder).as_posix() not in tests]
    points = _points_of(usable, kept, workers)
    portraits = [
        Portrait(path.relative_to(folder).as_posix(), path, found)
        for path, found in zip(usable, points, strict=True)
        if found is not None
    ]
    if without := len(usable) - len(portraits):
        _say(f"{without} of {len(pictures)} pictures below {folder} show no face that is found and are left out")
    if reserved := len(pictures) - len(usable):
        _say(f"{reserved} pictures below {folder} are test portraits too and are left out")
    if not portraits:
        raise UserError(f"none of the {len(pictures)} pictures below {folder} shows a face that is found; give others")
    return portraits


def _points_of(paths: list[Path], kept: Path | None, workers: int) -> list[np.ndarray | None]:
    """Face-mesh points ``(478, 3)`` of pictures, ``None`` where no face is found, of the file ``kept`` or read now."""
    digests = [photo_identity(path) for path in paths]
    known = _read_kept(kept) if kept else {}
    new = {digest: path for digest, path in zip(digests, paths, strict=True) if digest not in known}
    if new:
        _say(f"reading the faces of {len(new)} pictures")
        with ThreadPoolExecutor(workers) as pool:
            known |= dict(zip(new, pool.map(_points, new.values()), strict=True))
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(kept) as partial, partial.open("wb") as file:
                np.savez_compressed(file, pictures=list(known), points=np.stack(list(known.values())))
    return [None if np.isnan(known[digest]).any() else known[digest].astype(np.float64) for digest in digests]


def _points(path: Path) -> np.ndarray:
    """The points ``(478, 3)`` float32 of a picture's face, NaN where none is found or the picture can't be read."""
    try:
        face = find_face(read_picture(path, any_size=True))
    except UserError:
        face = None
    return face.points if face else np.full((478, 3), np.nan, np.float32)


def _read_kept(path: Path) -> dict[str, np.ndarray]:
    """What :func:`_points_of` kept in a file: points by :func:`photo_identity`; nothing if the file can't be used."""
    try:
        with np.load(path, allow_pickle=False) as table:
            return dict(zip(table["pictures"].tolist(), table["points"].reshape(-1, 478, 3), strict=True))
    except (OSError, KeyError, ValueError):
        return {}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def photo_identity(path: Path) -> str:
    """Identity of a photograph, by its bytes; :func:`asymtalker.synth.speech.split_of` says which split it is of."""
    return f"photo-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def reserved_portraits(folder: Path) -> set[str]:
    """Pictures, by path below ``folder``, that its ``index.tsv`` marks as test portraits: never to be trained on."""
    index = folder / "index.tsv"
    if not index.is_file():
        return set()
    with index.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["file"] for row in rows if (row.get("same_as_test_portrait") or "").strip() and "file" in row}
