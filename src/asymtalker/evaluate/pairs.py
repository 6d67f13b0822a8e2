"""``pairs.tsv``: of every video to be made, the picture and the recording it is made of."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asymtalker.errors import UserError
from asymtalker.media.atomic import write_atomic
from asymtalker.media.read import check_file

PAIRS = "pairs.tsv"
COLUMNS = ("name", "image", "audio")


@dataclass(frozen=True)
class Pair:
    """One video to be made."""

    name: str
    """Of the video, without ending."""
    image: Path
    audio: Path


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a manifest (TSV with a header; columns other than name, image and audio are left alone).

    Raises:
        UserError: if it is missing or no such table, a name is no file name or occurs twice, or a file is missing.
    """
    path = check_file(path, "manifest")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise UserError(
                    f"The manifest {path} has no column {' and no column '.join(missing)}: its first line must name "
                    f"the columns {', '.join(COLUMNS)}, with tabs between."
                )
            rows = [(table.line_num, [row[column] for column in COLUMNS]) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The manifest {path} is not a text file of tab-separated columns ({error}).") from error
    for line, cells in rows:
        if not all(cells):
            raise UserError(
                f"Line {line} of the manifest {path} has an empty or missing cell: give name, image, audio."
            )
    pairs = [
        Pair(name, path.parent.absolute() / image, path.parent.absolute() / audio) for _, (name, image, audio) in rows
    ]
    _check_names([pair.name for pair in pairs], path)
    for pair in pairs:
        check_file(pair.image, "picture")
        check_file(pair.audio, "audio file")
    return pairs


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a manifest; files beside or below it are named relative to it, so that the folder can move.

    Raises:
        UserError: if a name is no file name or occurs twice, a path holds a tab or line break, or the disk refuses.
    """
    _check_names([pair.name for pair in pairs], path)
    folder = path.parent.absolute()
    lines = ["\t".join(COLUMNS)]
    for pair in pairs:
        files = [file.absolute() for file in (pair.image, pair.audio)]
        cells = [str(file.relative_to(folder) if file.is_relative_to(folder) else file) for file in files]
        if any(mark in cell for cell in cells for mark in "\t\r\n"):
            raise UserError(f"A path of {pair.name} holds a tab or a line break, which a manifest cannot: rename it.")
        lines.append("\t".join([pair.name, *cells]))
    write_atomic(path, "\n".join(lines) + "\n")


def _check_names(names: Sequence[str], path: Path) -> None:
    if not names:
        raise UserError(f"The manifest {path} names no pair: give at least one.")
    for name in names:
        if not name or name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name:
            raise UserError(
                f"The name {name!r} in the manifest {path} is no file name: use no slash and no leading dot."
            )
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise UserError(f"The name {doubled[0]} occurs twice in the manifest {path}: each video needs its own.")
