"""The verb ``inspect``: what a file says of itself, for people or as JSON."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:  # takes seconds to import
    from asymtalker.provenance.credentials import Credentials
    from asymtalker.provenance.inspection import Inspection
    from asymtalker.provenance.origin import Provenance

VERDICTS = {
    "intact": "INTACT: content credentials are there, valid, and the file is as it was signed.",
    "altered": "ALTERED: the file is not as it was signed.",
    "invalid": "NOT VALID: the content credentials don't hold.",
    "stripped": "NO CREDENTIALS, but the file says or shows that AsymTalker made it: it was saved anew since, or as it"
    " was streamed, or they were taken out, and what else was altered can't be told.",
    "unknown": "NOTHING FOUND: the file says nothing of itself, which does not mean that it is real.",
}


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Tell what a file says of itself (content credentials, tags, watermark), and whether it was altered. Exit code 0:
    its content credentials are intact; 1: they are not, or there are none; 2: it can't be read."""

    file: Annotated[Path, tyro.conf.Positional]
    """A video or picture, of AsymTalker or not."""
    json: bool = False
    """Print JSON."""
    trust: Path | None = None
    """Certificates (PEM) of those whose signatures you trust."""
    thorough: bool = True
    """Look for a watermark at any scale; --no-thorough at usual ones alone, which is quicker."""


def inspect(settings: Inspect) -> None:
    """The ``inspect`` verb."""
    from asymtalker.provenance.inspection import inspect_file

    found = inspect_file(settings.file, settings.trust, settings.thorough)
    print(json.dumps(found.as_dict(), indent=2) if settings.json else "\n".join(described(found)))
    if found.verdict != "intact":
        sys.stdout.flush()
        sys.exit(1)


def described(found: "Inspection") -> Iterator[str]:
    """What was found, line by line, for a person."""
    yield VERDICTS[found.verdict]
    if any(found.size):
        height, width = found.size
        yield f"Picture: {height}x{width} (height x width)"
    yield from _credentials(found.credentials)
    if found.tags is not None and found.tags != found.credentials.origin:
        yield "Tags (not signed: anybody can change them)"
        yield from _origin(found.tags)
    if found.watermark is None:
        yield "Watermark: none found"
        return
    mark = found.watermark
    agrees = {True: ", which is that of this file", False: ", which is of ANOTHER video", None: ""}
    yield f"Watermark: made by AsymTalker, number {mark.name}{agrees[found.watermark_agrees]}"


def _credentials(found: "Credentials") -> Iterator[str]:
    if found.state == "none":
        yield "Content credentials: none"
        return
    yield "Content credentials"
    if found.signer:
        worth = "trusted" if found.trusted else "not on a list of those you trust"
        worth = "anybody can make one: it shows that nothing was changed, not who signed" if found.self_made else worth
        yield f"  signed by     {found.signer} ({worth})"
    if found.generator:
        yield f"  made by       {found.generator}{', by AI' if found.by_ai else ''}"
    for problem in found.problems:
        yield f"  problem       {problem}"
    if found.ingredients:
        yield f"  made of       {', '.join(found.ingredients)}"
    if found.complete is False:
        yield f"  stopped early after {found.seconds:.1f} s"
    if found.origin is not None:
        yield from _origin(found.origin)


def _origin(origin: "Provenance") -> Iterator[str]:
    asked = {"asked for": ", ".join(f"{name} {value}" for name, value in origin.options.items())}
    for name, value in {
        "generator": origin.generator,
        "model": f"{origin.model}, version {origin.model_version or 'unknown'}",
        "seed": origin.seed,
        **(asked if origin.options else {}),
        "portrait": f"SHA-256 {origin.portrait_sha256}",
        "sound": f"SHA-256 {origin.audio_sha256}",
        "consent": origin.consent,
        "number": origin.name,
    }.items():
        yield f"  {name:<13} {value}"
