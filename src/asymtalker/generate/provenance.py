"""Every video says in its own tags that it was generated, and from what (appendix K: disclosure)."""

import hashlib
import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

import asymtalker
from asymtalker.errors import UserError
from asymtalker.media.read import array_of
from asymtalker.media.video import probe_video

TITLE = "AI-generated talking head video"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a generated video comes from."""

    generator: str
    """``"AsymTalker <version>"``."""
    model: str
    """Name of the checkpoint; never its path."""
    seed: int
    portrait_sha256: str
    audio_sha256: str

    def tags(self) -> dict[str, str]:
        """MP4 tags: ``title`` and ``comment`` for people, ``description`` (JSON) for :func:`read_provenance`."""
        return {
            "title": TITLE,
            "comment": f"{TITLE} made by {self.generator}: the face and its speech are synthetic.",
            "description": json.dumps(asdict(self)),
        }


def provenance(model: str, seed: int, portrait: object, audio: object) -> Provenance:
    """The provenance of a video about to be made. ``portrait`` and ``audio``: paths, or what holds the values."""
    generator = f"AsymTalker {asymtalker.__version__}"
    return Provenance(
        generator=generator,
        model=model,
        seed=seed,
        portrait_sha256=_sha256(portrait),
        audio_sha256=_sha256(audio),
    )


def _sha256(source: object) -> str:
    """Hash of a file's bytes; of a picture or samples in memory, of the array's bytes."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(source, BytesIO):
        source = source.getvalue()
    values = source[0] if isinstance(source, tuple | list) else source
    held = values if isinstance(values, bytes) else np.ascontiguousarray(array_of(values, "A hash")).tobytes()
    return hashlib.sha256(held).hexdigest()


def read_provenance(path: str | Path) -> Provenance:
    """The provenance written in a video's tags.

    Raises:
        UserError: if the file is no video, or carries none (it was not made by AsymTalker, or its tags were removed).
    """
    try:
        return Provenance(**json.loads(probe_video(path).metadata["description"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} carries no AsymTalker provenance: it was made otherwise or lost its tags.") from error
