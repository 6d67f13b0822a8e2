"""Voices that a typed text can be spoken in, as far as their packages are installed."""

from importlib.util import find_spec

from asymtalker.synth.pico import LANGUAGES as PICO_LANGUAGES

NAMES = {
    "en-us": "English (US)",
    "en-gb-x-rp": "English (UK)",
    "en-gb-scotland": "English (Scotland)",
    "de": "Deutsch",
    "es": "Español",
    "es-419": "Español (Latinoamérica)",
    "fr": "Français",
    "it": "Italiano",
    "nl": "Nederlands",
    "pl": "Polski",
    "pt": "Português",
    "pt-br": "Português (Brasil)",
}
SPEAKERS = {"f2": "higher voice", "m3": "lower voice"}
"""Variants of espeak-ng."""


def voices() -> dict[str, str]:
    """Ids of voices, as :func:`asymtalker.serve.decoding.speak_text` takes them, and what to call them; the first is
    the default."""
    pico = {f"pico:{language}": f"{NAMES[language]}, Pico" for language in PICO_LANGUAGES}
    espeak = {
        f"{language}+{variant}": f"{name}, {speaker} (espeak-ng)"
        for language, name in NAMES.items()
        for variant, speaker in SPEAKERS.items()
    }
    return (pico if find_spec("ttspico") else {}) | (espeak if find_spec("espeakng_loader") else {})
