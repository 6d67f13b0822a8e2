"""What curation keeps on disk while it works: a folder a video, a folder a span of it, a JSON file a stage.

A file appears whole and says which settings it was made by, so that what is there and fits them is done. Folders lie
in 256 others, as no folder may hold millions.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asymtalker.curate.recipe import Recipe
from asymtalker.errors import UserError
from asymtalker.media.atomic import disk_is_full, write_atomic

FOLDER = "curation"
"""Of the corpus folder: what all stages found, from which the corpus can be decided anew."""


class Rejected(UserError):
    """A video or clip that a stage can't go on with; ``by`` is the filter."""

    def __init__(self, by: str, reason: str):
        super().__init__(reason)
        self.by = by


@dataclass(frozen=True)
class Work:
    """The folder of what was found; ``corpus`` is the folder of the corpus."""

    corpus: Path

    @property
    def folder(self) -> Path:
        return self.corpus / FOLDER

    def video(self, key: str) -> Path:
        """The folder of a video."""
        return self._place("videos", key)

    def span(self, key: str) -> Path:
        """The folder of a span of a video."""
        return self._place("spans", key)

    def _place(self, kind: str, key: str) -> Path:
        return self.folder / kind / hashlib.sha256(key.encode()).hexdigest()[:2] / key


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON record, ``None`` if there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON record whole; numbers get six digits after the point."""
    write_atomic(path, json.dumps(_rounded(record), sort_keys=True, ensure_ascii=False))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    return round(value, 6) if isinstance(value, float) else value


def settings_of(recipe: Recipe, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a recipe that a stage's result depends on, as a record holds them."""
    return json.loads(json.dumps({name: getattr(recipe, name) for name in names}))


def done(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record at ``path`` if it was made by these settings."""
    record = read_record(path)
    return record if record is not None and record["settings"] == settings else None


def once(path: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record at ``path``, which is made unless it is there and was made by these settings.

    ``make`` returns its ``scores`` and what else it says; that it rejected is a result too, a full disk is none.
    """
    if (record := done(path, settings)) is not None:
        return record
    began = time.perf_counter()
    try:
        made = make()
    except UserError as error:
        if disk_is_full(error):
            raise
        made = {"scores": {}, "rejected": error.by if isinstance(error, Rejected) else "unreadable", "why": str(error)}
    record = {"scores": {}, **made, "settings": settings, "seconds": time.perf_counter() - began}
    write_record(path, record)
    return _rounded(record)
