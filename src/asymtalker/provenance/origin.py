"""What a generated video is made of, and the tags of the file that say so (appendix K: disclosure)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

import asymtalker
from asymtalker.errors import UserError
from asymtalker.media.read import array_of
from asymtalker.media.video import probe_video
from asymtalker.provenance.disclosure import NO_STATEMENT

TITLE = "AI-generated talking head video"
SAMPLED = 1 << 16
"""Bytes of each piece of a file of weights that its version depends on."""
PIECES = 64


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a generated video comes from."""

    generator: str
    """``"AsymTalker <version>"``."""
    model: str
    """Name of the checkpoint; never its path."""
    model_version: str | None = None
    """Of :func:`version_of`; ``None`` of a model that was not loaded from a folder."""
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    """What was asked for otherwise than is usual."""
    portrait_sha256: str
    audio_sha256: str
    consent: str = NO_STATEMENT
    watermarked: bool = False
    """Whether the frames hold :attr:`number`."""
    size: str | None = None
    """Height and width of the frames, ``"720x718"``, which are within what ``options`` ask for; ``None`` of earlier
    versions."""

    @property
    def number(self) -> int:
        """48 bits that say what the video is made of, whatever version of AsymTalker made it."""
        of_the_file = ("generator", "watermarked", "size")
        made_of = {name: value for name, value in asdict(self).items() if name not in of_the_file}
        return int(hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12], 16)

    @property
    def name(self) -> str:
        """:attr:`number` as people read it, ``"1234-5678-9abc"``."""
        return name_of(self.number)

    def tags(self) -> dict[str, str]:
        """MP4 tags: ``title`` and ``comment`` for people, ``description`` (JSON) for :func:`read_provenance`."""
        return {
            "title": TITLE,
            "comment": f"{TITLE} made by {self.generator}: the face and its speech are synthetic.",
            "description": json.dumps(asdict(self)),
        }


def name_of(number: int) -> str:
    """A number of 48 bits as people read it, ``"1234-5678-9abc"``."""
    digits = f"{number:012x}"
    return "-".join(digits[at : at + 4] for at in (0, 4, 8))


def provenance(model: str, seed: int, portrait: object, audio: object, **others: Any) -> Provenance:
    """The provenance of a video about to be made.

    Args:
        model: name of the checkpoint.
        seed: of the video.
        portrait, audio: paths, or what holds the values.
        others: further fields of :class:`Provenance`.
    """
    return Provenance(
        generator=f"AsymTalker {asymtalker.__version__}",
        model=model,
        seed=seed,
        portrait_sha256=sha256_of(portrait),
        audio_sha256=sha256_of(audio),
        **others,
    )


def sha256_of(source: object) -> str:
    """Hash of a file's bytes; of a picture or samples in memory, of the array's bytes."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    values = source[0] if isinstance(source, tuple | list) else source
    return hashlib.sha256(np.ascontiguousarray(array_of(values, "A hash")).tobytes()).hexdigest()


def version_of(checkpoint: Path) -> str:
    """12 hexadecimal digits that are others when a checkpoint's weights or settings are: a hash of its files, of large
    ones of 64 pieces, so that a model of many gigabytes is not read twice."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix not in (".json", ".safetensors") or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(checkpoint).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if size <= PIECES * SAMPLED:
                digest.update(file.read())
                continue
            for piece in range(PIECES):
                file.seek((size - SAMPLED) * piece // (PIECES - 1))
                digest.update(file.read(SAMPLED))
    return digest.hexdigest()[:12]


def of_dict(values: Mapping[str, Any]) -> Provenance:
    """A provenance of plain JSON values; what later versions may add is left out.

    Raises:
        TypeError: if something is missing.
    """
    known = {each.name for each in fields(Provenance)}
    return Provenance(**{name: value for name, value in values.items() if name in known})


def read_provenance(path: str | Path) -> Provenance:
    """The provenance written in a video's tags.

    Raises:
        UserError: if the file is no video, or carries none (it was not made by AsymTalker, or its tags were removed).
    """
    try:
        return of_dict(json.loads(probe_video(path).metadata["description"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} carries no AsymTalker provenance: it was made otherwise or lost its tags.") from error
