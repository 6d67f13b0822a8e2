"""How a video is to say what it is."""

from dataclasses import dataclass
from pathlib import Path

NO_STATEMENT = "No statement of consent was given; it is up to whoever made this video to have it."


@dataclass(frozen=True, kw_only=True)
class Disclosure:
    """How a video is to say what it is, besides that every file is signed and tagged."""

    consent: str | None = None
    """What the video says of the consent of whoever is seen and heard, such as "signed form 12 of 2026-11-03"."""
    label: str | None = None
    """Text that is to be seen in a corner of the whole video, such as "AI-generated"."""
    label_font: Path | None = None
    """A font (TTF, OTF) for a label in other letters than Latin ones."""
    watermark: bool = True
    """Mark the frames invisibly, so that a copy that has lost its tags can be told; --no-watermark does not."""
    certificate: Path | None = None
    """Certificates (PEM, your own first) to sign with; by default one that is made on this machine."""
    key: Path | None = None
    """The private key (PEM, without a password) of that certificate."""


AS_USUAL = Disclosure()
