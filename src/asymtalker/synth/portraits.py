"""Photographs that heads are made of: their face-mesh points, identities, and those kept for tests."""

import csv
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.read import PICTURE_SUFFIXES


@dataclass(frozen=True)
class Portrait:
    """A picture with its face-mesh points."""

    name: str
    """Its path below the portraits' folder."""
    path: Path
    landmarks: np.ndarray
    """``(478, 3)`` in pixels."""


def find_portraits(folder: Path, landmarks: Path | None = None) -> list[Portrait]:
    """The pictures below ``folder`` that have face-mesh points, in order of name; says what it leaves out.

    Names in the landmarks' file are paths below that file's own folder, or below ``folder`` if that lies elsewhere.
    Without ``landmarks`` the file is ``landmarks478.npz`` in ``folder`` or the folder above. Rows of an
    ``index.tsv`` in ``folder`` with a value under ``same_as_test_portrait`` are left out.

    Raises:
        UserError: if the folder, the points or usable pictures are missing.
    """
    from asymtalker.synth.photo import read_landmarks

    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise UserError(f"there is no folder of portraits {folder}; give one that exists")
    places = [landmarks] if landmarks else [folder / "landmarks478.npz", folder.parent / "landmarks478.npz"]
    table = next((Path(place).resolve() for place in places if place.is_file()), None)
    if table is None:
        raise UserError(
            f"photo heads need the face-mesh points of the portraits, but there is no {' nor '.join(map(str, places))}"
            "; give the file with --landmarks"
        )
    points = read_landmarks(table)
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    tests = reserved_portraits(folder)
    portraits, without, reserved = [], 0, 0
    for path in pictures:
        name = path.relative_to(folder).as_posix()
        below = path.relative_to(table.parent).as_posix() if path.is_relative_to(table.parent) else name
        if name in tests:
            reserved += 1
        elif below not in points:
            without += 1
        else:
            portraits.append(Portrait(name, path, points[below]))
    if without:
        left = f"{without} of {len(pictures)} pictures below {folder} have no points in {table} and are left out"
        print(left, file=sys.stderr, flush=True)
    if reserved:
        left = f"{reserved} pictures below {folder} are test portraits too and are left out"
        print(left, file=sys.stderr, flush=True)
    if not portraits:
        raise UserError(f"none of the {len(pictures)} pictures below {folder} has points in {table}; make them first")
    return portraits


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
