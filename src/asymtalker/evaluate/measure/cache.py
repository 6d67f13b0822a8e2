"""Arrays kept between runs, each file with a key that changes when what they were made of does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from asymtalker.media.atomic import atomic_path

_KEY = "key"


def read_arrays(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The arrays of a file; ``None`` if it is not there, damaged, or of another key."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept[_KEY]) != key:
                return None
            return {name: kept[name] for name in kept.files if name != _KEY}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def write_arrays(path: Path, key: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name into an ``.npz`` file.

    Raises:
        UserError: if it can't be written.
    """
    fields: dict[str, Any] = {_KEY: np.array(key), **arrays}
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, **fields)
