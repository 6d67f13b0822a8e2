"""``method.json``: how the videos beside it were made. Generation and baselines write it, measuring reads it."""

import json
from pathlib import Path
from typing import Any

from asymtalker.errors import UserError
from asymtalker.media.atomic import write_atomic
from asymtalker.timeline import FPS

RECORD = "method.json"


def write_record(folder: Path, about: dict[str, Any]) -> None:
    """Write ``method.json`` into a folder of videos."""
    write_atomic(folder / RECORD, json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """What ``method.json`` in a folder of videos says; nothing if there is none.

    Raises:
        UserError: if it is damaged.
    """
    if not (folder / RECORD).is_file():
        return {}
    try:
        return _checked(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder / RECORD} is damaged ({error}): write it again or remove it.") from error


def _checked(about: dict[str, Any]) -> dict[str, Any]:
    """What ``method.json`` says, if its numbers make sense; a ValueError, TypeError or KeyError if they do not."""
    whole = {"chunk": ("first", "step"), "crop": ("left", "top", "width", "height")}
    for part, keys in whole.items():
        for key in keys if about.get(part) else ():
            value, least = about[part][key], 0 if key in ("left", "top") else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{part}: {key} is {value}")
    if not 0 < about.get("fps", FPS) < 1000:
        raise ValueError(f"fps is {about['fps']}")
    for part in ("seconds_per_video", "loaded_seconds_per_video", "first_chunk_seconds"):
        if not all(seconds > 0 for seconds in about.get(part, {}).values()):
            raise ValueError(f"{part} has a time that is none")
    for part in ("peak_rss_mib", "peak_gpu_mib"):
        if (peak := about.get(part)) and not peak > 0:
            raise ValueError(f"{part} is {peak}")
    return about
