"""Speech from SVOX Pico: six voices made from recordings of people, with phoneme times taken over from espeak-ng.

Pico (Apache-2.0, the package ``ttspico``) sounds closer to a real voice than espeak-ng's formants do, but tells no
times; :func:`asymtalker.synth.align.moved_times` finds them by an espeak-ng reading of the same text.
"""

from typing import Any

import numpy as np

from asymtalker.errors import UserError
from asymtalker.timeline import SAMPLE_RATE

LANGUAGES = {"en-us": "en-US", "en-gb-x-rp": "en-GB", "de": "de-DE", "es": "es-ES", "fr": "fr-FR", "it": "it-IT"}
"""espeak-ng's names of the languages to Pico's."""


def check_share(share: float) -> None:
    """Check the share of Pico's voices that a command asks for, before hours of work.

    Raises:
        UserError: if it is no share, or not 0 without the package.
    """
    if not 0 <= share <= 1:
        raise UserError(f"pico_share is {share}, but a share is from 0 to 1")
    if share:
        _engine("en-us")


def _engine(language: str) -> Any:
    """A new engine: one that has spoken before would go on with other noise."""
    try:
        from ttspico import TtsEngine  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "Pico's voices need the package ttspico, which is not installed; run: pip install 'asymtalker[voices]' "
            "(it is compiled on installation), or set pico_share to 0"
        ) from None
    return TtsEngine(LANGUAGES[language])


def read_aloud(text: str, language: str, speed: int = 100, pitch: int = 100) -> np.ndarray:
    """Speak ``text``.

    Args:
        text: plain text; Pico's markup is taken out.
        language: a key of :data:`LANGUAGES`.
        speed: percent of the voice's own, 20 to 500.
        pitch: percent of the voice's own, 50 to 200.

    Returns:
        ``(N,)`` float32 in [-1, 1] at 16 kHz.

    Raises:
        UserError: if the package is missing.
    """
    plain = text.replace("<", " ").replace(">", " ")
    data = _engine(language).speak(f'<speed level="{speed}"><pitch level="{pitch}">{plain}</pitch></speed>')
    return np.frombuffer(data or b"", np.int16).astype(np.float32) / 32768


assert SAMPLE_RATE == 16_000  # Pico's own rate
