"""Phoneme classes: what the audio encoder is trained to name and what the mouth's motion is driven by.

The corpus stores phonemes as IPA strings with stress marks, as espeak-ng writes them, and silence as ``"sil"``.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

SILENCE = "sil"

VOWELS = ("i", "ɪ", "e", "ɛ", "æ", "a", "ɑ", "ɔ", "o", "ʊ", "u", "y", "ø", "ʌ", "ə", "ɜ")
DIPHTHONGS = ("aɪ", "aʊ", "eɪ", "oʊ", "ɔɪ")
CONSONANTS = (
    *("p", "b", "m", "f", "v", "w", "θ", "ð", "t", "d", "n", "s", "z", "ts", "l"),
    *("ʃ", "ʒ", "tʃ", "dʒ", "ɹ", "r", "j", "k", "ɡ", "ŋ", "x"),
)
PHONEMES: tuple[str, ...] = (SILENCE, *VOWELS, *DIPHTHONGS, *CONSONANTS)
"""The 48 classes in fixed order; silence is 0."""

# IPA letters that are not classes of their own, by the class nearest in the mouth's shape and then in sound.
_SAME_AS = {
    **dict.fromkeys("ɨᵻ", "ɪ"),
    **dict.fromkeys("ɒ", "ɔ"),
    **dict.fromkeys("œɵɞ", "ø"),
    **dict.fromkeys("ʏ", "y"),
    **dict.fromkeys("ɯʉ", "u"),
    **dict.fromkeys("ɤ", "o"),
    **dict.fromkeys("ɐɘ", "ə"),
    **dict.fromkeys("ɚɝ", "ɜ"),
    **dict.fromkeys("ɶ", "a"),
    **dict.fromkeys("βʋ", "v"),
    **dict.fromkeys("ɸ", "f"),
    **dict.fromkeys("ɱ", "m"),
    **dict.fromkeys("ʍɥ", "w"),
    **dict.fromkeys("ɾ", "d"),
    **dict.fromkeys("ɲɳ", "n"),
    **dict.fromkeys("ʎɫɭ", "l"),
    **dict.fromkeys("ɕʂç", "ʃ"),
    **dict.fromkeys("ʑʐʝ", "ʒ"),
    **dict.fromkeys("ɻ", "ɹ"),
    **dict.fromkeys("ʀʁ", "x"),
    **dict.fromkeys("ɣχħhɦqʔ", "x"),
    **dict.fromkeys("gɟɢ", "ɡ"),
    **dict.fromkeys("c", "k"),
    **dict.fromkeys("ʈ", "t"),
    **dict.fromkeys("ɖ", "d"),
}
_PAIRS = {
    **{pair: pair for pair in (*DIPHTHONGS, "ts", "tʃ", "dʒ")},
    **{"dz": "ts", "tɕ": "tʃ", "tʂ": "tʃ", "dʑ": "dʒ", "dʐ": "dʒ", "pf": "f"},
    **{"əʊ": "oʊ", "ɛɪ": "eɪ", "ɔʏ": "ɔɪ", "ʌɪ": "aɪ", "ɑɪ": "aɪ", "ɑʊ": "aʊ", "æi": "aɪ", "ʌu": "aʊ", "øy": "ɔɪ"},
    **{"ai": "aɪ", "ei": "eɪ", "ɛi": "eɪ", "oi": "ɔɪ", "ɔi": "ɔɪ", "au": "aʊ", "ɑu": "aʊ", "ou": "oʊ", "œy": "ɔɪ"},
    **{"ʌʉ": "aʊ", "ʌʊ": "aʊ", "ɐʊ": "aʊ", "eʊ": "oʊ", "oɪ": "ɔɪ"},
}
_INDEX = {symbol: index for index, symbol in enumerate(PHONEMES)}


def phoneme_letters(symbol: str) -> str:
    """The IPA letters of ``symbol``: without stress, length, nasal and other marks."""
    decomposed = unicodedata.normalize("NFD", symbol.replace("ç", "ʃ"))
    return "".join(c for c in decomposed if c in _INDEX or c in _SAME_AS)


def phoneme_class(symbol: str) -> str:
    """The member of :data:`PHONEMES` that an IPA symbol counts as.

    A symbol longer than one class (a diphthong of another language, a syllabic cluster) counts as its first part; one
    that has no IPA letter at all counts as silence.
    """
    if symbol in _INDEX:
        return symbol
    letters = phoneme_letters(symbol)
    if not letters:
        return SILENCE
    if letters[:2] in _PAIRS:
        return _PAIRS[letters[:2]]
    return _SAME_AS.get(letters[0], letters[0])


def frame_phonemes(phonemes: Sequence[tuple[str, float, float]], num_frames: int, rate: float = 50.0) -> np.ndarray:
    """Class indices ``(num_frames,)`` int64 of the phoneme sounding at the middle of each frame.

    Args:
        phonemes: ``(IPA symbol, start in seconds, end in seconds)`` in order of time; gaps are silence.
        num_frames: frames to label; frame ``k`` is ``[k, k + 1) / rate`` seconds.
        rate: frames per second; 50 is wav2vec's.
    """
    labels = np.full(num_frames, _INDEX[SILENCE], dtype=np.int64)
    for symbol, start, end in phonemes:
        # frame k belongs to the phoneme if its middle (k + 0.5) / rate lies in [start, end)
        first, stop = (max(0, int(np.ceil(t * rate - 0.5))) for t in (start, end))
        labels[first:stop] = _INDEX[phoneme_class(symbol)]
    return labels
