"""What a file says of itself, whether that is true as far as can be told, and what its frames say."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.read import check_file
from asymtalker.media.video import picture_of, probe_video, timed_frames
from asymtalker.provenance.credentials import Credentials, read_credentials
from asymtalker.provenance.origin import Provenance, name_of, read_provenance
from asymtalker.provenance.watermark import Found, find_watermark

WINDOWS, FRAMES, STRIDE = 4, 6, 5
"""The watermark is looked for in so many places of a video, in so many frames of each, one of so many."""
Verdict = Literal["intact", "altered", "invalid", "stripped", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a file."""

    path: Path
    verdict: Verdict
    """"intact", "altered", "invalid": of its content credentials; "stripped": it has none, but tags or a watermark
    of AsymTalker; "unknown": nothing at all."""
    credentials: Credentials
    tags: Provenance | None
    watermark: Found | None
    seconds: float
    size: tuple[int, int]
    """Height and width of the picture."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self) | {"path": str(self.path), "size": list(self.size)}
        for holder in (self.credentials.origin, self.tags):
            if holder is not None:
                target = values["tags"] if holder is self.tags else values["credentials"]["origin"]
                target["number"] = holder.name
        if self.watermark is not None:
            values["watermark"]["number"] = name_of(self.watermark.number)
        return values

    @property
    def watermark_agrees(self) -> bool | None:
        """Whether the watermark holds the number of what the file says it was made of; ``None`` if one is missing."""
        origin = self.credentials.origin or self.tags
        return None if origin is None or self.watermark is None else origin.number == self.watermark.number


def inspect_file(path: Path, trusted: Path | None = None, thorough: bool = True) -> Inspection:
    """Look into a video or picture of any origin.

    Args:
        path: the file.
        trusted: certificates (PEM) of those whose signatures are to be trusted.
        thorough: look for a watermark at any scale, which takes some seconds more.

    Raises:
        UserError: if it is neither a video nor a picture.
    """
    path = check_file(path, "file")
    if not path.is_file():
        raise UserError(f"The file {path} is a pipe or a device: give the name of a file.")
    credentials = read_credentials(path, trusted)
    try:
        info = probe_video(path)
        frames = list(_some_frames(path, info.seconds))
    except UserError as error:
        if credentials.state == "none":
            raise UserError(f"The file {path} is neither a video nor a picture, or is damaged: give one.") from error
        frames, info = [], None  # what can't be played may still have been signed
    try:
        tags = read_provenance(path)
    except UserError:
        tags = None
    watermark = find_watermark(frames, thorough)
    traces = tags is not None or watermark is not None
    verdict: Verdict = "stripped" if traces else "unknown"
    if credentials.state != "none":
        verdict = credentials.state
    return Inspection(
        path=path,
        verdict=verdict,
        credentials=credentials,
        tags=tags,
        watermark=watermark,
        seconds=info.seconds if info else 0.0,
        size=(info.height, info.width) if info else (0, 0),
    )


def _some_frames(path: Path, seconds: float) -> Iterator[np.ndarray]:
    """Frames from several places of a video; where it is damaged, those up to there."""
    found = 0
    for window in range(WINDOWS if seconds > WINDOWS else 1):
        start = seconds * window / WINDOWS
        try:
            after = (frame for time, frame in timed_frames(path, start) if time >= start - 1e-6)
            for frame in islice(after, 0, FRAMES * STRIDE, STRIDE):
                yield picture_of(frame)
                found += 1
        except UserError:
            if not found:
                raise
            return
