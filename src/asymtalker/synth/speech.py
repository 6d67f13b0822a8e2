"""Speech with phoneme times from espeak-ng, in many voices, eight languages and twelve accents, and from Pico in six.

espeak-ng is driven through its shared library: its synthesis callback reports every phoneme with the sample at which
it starts, a hundred times faster than real time. The library keeps state from one text to the next (phases, flutter),
so it is loaded anew for each one: the same text and voice then give the same samples. It is not thread-safe.
"""

import _ctypes
import ctypes
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import soxr

from asymtalker.errors import UserError
from asymtalker.synth.align import moved_times
from asymtalker.synth.phonemes import SILENCE, phoneme_class, phoneme_letters
from asymtalker.synth.pico import LANGUAGES as PICO_LANGUAGES
from asymtalker.synth.pico import read_aloud
from asymtalker.synth.text import SENTENCES
from asymtalker.timeline import SAMPLE_RATE

Split = Literal["train", "test"]
TEST_SHARE = 0.1
PICO_RATE = 170
"""Words per minute at which Pico speaks by itself."""
VOICELESS_STOPS = ("p", "t", "k", "tʃ", "ts")

# espeak-ng variants that sound like people (no robots, no croaks) and give the same samples every time, which Reed and
# caleb do not; one variant is one speaker.
_VARIANT_NAMES = """
    Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike
    Nguyen RicishayMax Storm adam anika announcer antonio aunty belinda benjamin boris david ed edward edward2
    f1 f2 f3 f4 f5 grandma grandpa gustave ian iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3
    klatt4 klatt5 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel mike2 norbert pablo paul
    pedro quincy rob robert sandro shelby steph steph2 steph3 travis victor whisper whisperf zac
"""
VARIANTS = tuple(_VARIANT_NAMES.split())


def split_of(name: str) -> Split:
    """``"test"`` for about a tenth of all identity or voice ids, by a hash that never changes; ``"train"`` else."""
    digest = hashlib.sha256(name.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64 else "train"


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A speaker and the way of speaking in one clip."""

    language: str
    """An espeak-ng language, a key of ``SENTENCES``."""
    variant: str
    """An espeak-ng voice variant: the speaker; with Pico the voice whose reading gives the phoneme times."""
    pico: bool = False
    """Spoken by Pico's voice of the language."""
    rate: int = 170
    """Words per minute."""
    pitch: int = 50
    """espeak-ng pitch, 0 to 99."""
    pitch_range: int = 50
    """espeak-ng intonation, 0 (flat) to 99."""
    tract: float = 1.0
    """Factor on all formants and on the pitch: under 1 a longer vocal tract, over 1 a shorter one."""

    @property
    def voice_id(self) -> str:
        """The speaker, whatever the language and manner; what train and test voices are told apart by."""
        return f"pico-{self.language}" if self.pico else f"espeak-{self.variant}"


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A recording with everything known about it."""

    samples: np.ndarray
    """``(N,)`` float32 in [-1, 1] at 16 kHz."""
    phonemes: list[tuple[str, float, float]]
    """``(IPA symbol with stress, start, end)`` in seconds; silence is ``"sil"``; no gaps from 0 to the end."""
    words: list[tuple[str, float, float]]
    text: str
    language: str
    voice_id: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_void_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of ``speak_lib.h``."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_WORD, _PHONEME = 1, 7
_SYNCHRONOUS, _PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT = 2, 0x1, 0x2, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Engine:
    """The espeak-ng library, initialised."""

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "synthetic speech needs the package espeakng-loader, which is not installed; run: "
                "pip install 'asymtalker[synth]'"
            ) from None
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.waves: list[np.ndarray] = []
        self.events: list[tuple[int, int, str, int, int]] = []
        flags = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
        self.sample_rate = self.library.espeak_Initialize(
            _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), flags
        )
        if self.sample_rate <= 0:
            raise UserError(
                f"espeak-ng found no voice data in {espeakng_loader.get_data_path()}; install espeakng-loader again, "
                "in a folder whose path is shorter than 150 characters"
            )
        self._callback = _CALLBACK(self._collect)  # kept: the library holds only the pointer
        self.library.espeak_SetSynthCallback(self._callback)
        self.library.espeak_ng_SetRandSeed(1)

    def close(self) -> None:
        """Unload the library and with it all its state."""
        self.library.espeak_Terminate()
        unload = _ctypes.FreeLibrary if sys.platform == "win32" else _ctypes.dlclose
        unload(self.library._handle)

    def _collect(self, wave, count, events) -> int:
        if wave and count > 0:
            self.waves.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type:
            event = events[index]
            symbol = ""
            if event.type == _PHONEME:
                # eight bytes without a closing zero when the symbol fills them
                raw = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0]
                symbol = raw.decode("utf-8", errors="ignore")
            self.events.append((event.type, event.sample, symbol, event.text_position, event.length))
            index += 1
        return 0

    def run(self, text: str, voice: Voice, rate: int):
        name = f"{voice.language}+{voice.variant}"
        if self.library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {name!r}; languages are {', '.join(SENTENCES)}")
        for parameter, value in ((_RATE, rate), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            self.library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        self.library.espeak_Synchronize()
        wave = np.concatenate(self.waves) if self.waves else np.zeros(0, np.int16)
        return wave.astype(np.float32) / 32768, self.events


def _closure_start(wave: np.ndarray, burst: int, earliest: int, rate: int) -> int:
    """Where the silent closure before a voiceless stop begins.

    espeak-ng reports such a phoneme at its burst; the closure before it, which the lips show, is digital silence.
    """
    reach = max(earliest, burst - int(0.12 * rate))
    loud = np.flatnonzero(np.abs(wave[reach:burst]) > 0.003)
    return reach + int(loud[-1]) + 1 if len(loud) else reach


def synthesize(text: str, voice: Voice) -> Speech:
    """Speak ``text``.

    Raises:
        UserError: if espeak-ng, Pico or the voice is missing.
    """
    return _with_pico(text, voice) if voice.pico else _with_espeak(text, voice)


def _with_pico(text: str, voice: Voice) -> Speech:
    speed = round(100 * voice.rate / PICO_RATE / voice.tract)
    wave = read_aloud(text, voice.language, speed, pitch=round(100 + 0.6 * (voice.pitch - 50)))
    samples = soxr.resample(wave, SAMPLE_RATE * voice.tract, SAMPLE_RATE, quality="HQ").astype(np.float32).clip(-1, 1)
    reading = _with_espeak(text, replace(voice, tract=1.0, rate=PICO_RATE))
    if not len(samples) or not len(reading.samples):
        return cut(reading, 0, 0)
    parts = [*reading.phonemes, *reading.words]
    times = np.array([time for _, *ends in parts for time in ends])
    ends = moved_times(times, reading.samples, samples).reshape(-1, 2).tolist()
    moved = [(name, start, end) for (name, _, _), (start, end) in zip(parts, ends, strict=True)]
    phonemes, words = moved[: len(reading.phonemes)], moved[len(reading.phonemes) :]
    before, after = (SILENCE, 0.0, phonemes[0][1]), (SILENCE, phonemes[-1][2], len(samples) / SAMPLE_RATE)
    return replace(
        reading,
        samples=samples,
        phonemes=_joined([before, *phonemes, after]),
        words=[word for word in words if word[2] > word[1]],
    )


def _with_espeak(text: str, voice: Voice) -> Speech:
    engine = _Engine()
    try:
        # a shifted tract is a resampling, which speeds speech up by the same factor: ask for that much slower speech
        wave, events = engine.run(text, voice, max(80, min(449, round(voice.rate / voice.tract))))
    finally:
        engine.close()
    rate = engine.sample_rate * voice.tract
    if not len(wave):
        return Speech(
            samples=np.zeros(0, np.float32),
            phonemes=[],
            words=[],
            text=text,
            language=voice.language,
            voice_id=voice.voice_id,
        )
    samples = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ").astype(np.float32)
    duration = len(samples) / SAMPLE_RATE

    starts: list[tuple[str, int]] = []
    for kind, sample, symbol, _, _ in events:
        if kind != _PHONEME or symbol.startswith("("):  # "(en)" announces a word in another language
            continue
        symbol = symbol if phoneme_class(symbol) != SILENCE else SILENCE
        if phoneme_class(symbol) in VOICELESS_STOPS and starts:
            sample = _closure_start(wave, sample, starts[-1][1] + 1, engine.sample_rate)
        starts.append((symbol, sample))
    words: list[tuple[str, float]] = []
    positions = set()
    for kind, sample, _, position, length in events:
        if kind == _WORD and length and position not in positions:  # a number is several words at one position
            positions.add(position)
            words.append((text[position - 1 : position - 1 + length].strip(), min(sample / rate, duration)))
    word_ends = [start for _, start in words[1:]] + [duration]
    return Speech(
        samples=np.clip(samples, -1, 1),
        phonemes=_intervals(starts, rate, duration),
        words=[
            (word, start, end) for (word, start), end in zip(words, word_ends, strict=True) if word and end > start
        ],
        text=text,
        language=voice.language,
        voice_id=voice.voice_id,
    )


def _intervals(starts: Sequence[tuple[str, int]], rate: float, duration: float) -> list[tuple[str, float, float]]:
    """Starts in samples to intervals in seconds that cover ``[0, duration]``; neighbouring silences become one."""
    times = [(SILENCE, 0.0)] + [(symbol, min(sample / rate, duration)) for symbol, sample in starts]
    ends = [time for _, time in times[1:]] + [duration]
    parts = []
    for (symbol, start), end in zip(times, ends, strict=True):
        # "ɛɹ" and "əl" are reported as one phoneme; the mouth makes two shapes
        if symbol != SILENCE and symbol[-1] in "ɹl" and len(phoneme_letters(symbol)) > 1:
            middle = start + 0.6 * (end - start)
            parts += [(symbol[:-1], start, middle), (symbol[-1], middle, end)]
        else:
            parts.append((symbol, start, end))
    return _joined(parts)


def _joined(phonemes: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    joined: list[tuple[str, float, float]] = []
    for symbol, start, end in phonemes:
        if end <= start:
            continue
        if joined and symbol == SILENCE and joined[-1][0] == SILENCE:
            joined[-1] = (SILENCE, joined[-1][1], end)
        else:
            joined.append((symbol, start, end))
    return joined


def random_voice(rng: np.random.Generator, split: Split | None = None, pico_share: float = 0.0) -> Voice:
    """A random voice; of ``split`` only, when given (by :func:`split_of` of its ``voice_id``).

    ``pico_share`` of the voices are Pico's, where it has one in the split.
    """
    variants = [v for v in VARIANTS if split is None or split_of(f"espeak-{v}") == split]
    weights = {"en-us": 0.3, "en-gb-x-rp": 0.1, "en-gb-scotland": 0.05}
    languages = list(SENTENCES)
    spoken = [language for language in PICO_LANGUAGES if split is None or split_of(f"pico-{language}") == split]
    if spoken and pico_share and rng.random() < pico_share:
        return Voice(
            language=str(rng.choice(spoken)),
            variant=str(rng.choice(variants)),
            pico=True,
            rate=int(rng.integers(130, 221)),
            pitch=int(rng.integers(10, 91)),
            tract=float(np.exp(rng.normal(0, 0.1)).clip(0.8, 1.2)),
        )
    rest = (1 - sum(weights.values())) / (len(languages) - len(weights))
    return Voice(
        language=str(rng.choice(languages, p=[weights.get(language, rest) for language in languages])),
        variant=str(rng.choice(variants)),
        rate=int(rng.integers(120, 221)),
        pitch=int(rng.integers(25, 76)),
        pitch_range=int(rng.integers(20, 90)),
        tract=float(np.exp(rng.normal(0, 0.07)).clip(0.86, 1.16)),
    )


def random_text(rng: np.random.Generator, language: str) -> str:
    """A sentence of the language; now and then its words shuffled, or figures, so that more phoneme pairs occur."""
    sentences = SENTENCES[language]
    draw = rng.random()
    if draw < 0.08:
        return ", ".join(str(rng.integers(0, 10 ** int(rng.integers(1, 5)))) for _ in range(rng.integers(2, 6)))
    if draw < 0.3:
        words = " ".join(str(rng.choice(sentences)) for _ in range(2)).split()
        rng.shuffle(words)
        return " ".join(words)
    return str(rng.choice(sentences))


def speak(rng: np.random.Generator, seconds: float, split: Split | None = None, pico_share: float = 0.0) -> Speech:
    """A clip of speech of exactly ``round(seconds * 16000)`` samples in one random voice.

    Sentences follow each other with natural pauses and now and then a second or more of silence; some clips start in
    silence, some in the middle of a word, one in fifty is silent throughout.
    """
    voice = random_voice(rng, split, pico_share)
    total = round(seconds * SAMPLE_RATE)
    skip = int(rng.uniform(0, 2) * SAMPLE_RATE) if rng.random() < 0.5 else 0
    silent = rng.random() < 0.02
    gap = 0.0 if skip else rng.uniform(0.0, 0.6)
    parts: list[Speech] = []
    length = 0
    while length < skip + total:
        pause = round((seconds if silent else gap) * SAMPLE_RATE)
        parts.append(_silence(pause, voice))
        if not silent:
            spoken = synthesize(random_text(rng, voice.language), voice)
            # the pause espeak-ng leaves after a sentence is its own; ours comes next, so keep a breath of it
            parts.append(cut(spoken, 0, min(len(spoken.samples), _last_sound(spoken) + SAMPLE_RATE // 20)))
            gap = rng.uniform(1.0, 2.2) if rng.random() < 0.15 else rng.gamma(3.0, 0.12)
        length = sum(len(part.samples) for part in parts)
    return cut(join(parts), skip, skip + total)


def _last_sound(speech: Speech) -> int:
    ends = [end for symbol, _, end in speech.phonemes if symbol != SILENCE]
    return int(ends[-1] * SAMPLE_RATE) if ends else 0


def _silence(samples: int, voice: Voice) -> Speech:
    return Speech(
        samples=np.zeros(samples, np.float32),
        phonemes=[(SILENCE, 0.0, samples / SAMPLE_RATE)] if samples else [],
        words=[],
        text="",
        language=voice.language,
        voice_id=voice.voice_id,
    )


def join(parts: Sequence[Speech]) -> Speech:
    """The parts one after another; language and voice are the first's."""
    phonemes, words, offset = [], [], 0.0
    for part in parts:
        phonemes += [(symbol, start + offset, end + offset) for symbol, start, end in part.phonemes]
        words += [(word, start + offset, end + offset) for word, start, end in part.words]
        offset += part.seconds
    return replace(
        parts[0],
        samples=np.concatenate([part.samples for part in parts]),
        phonemes=_joined(phonemes),
        words=words,
        text=" ".join(part.text for part in parts if part.text),
    )


def cut(speech: Speech, start: int, stop: int) -> Speech:
    """Samples ``[start, stop)`` with the times moved along; ``text`` becomes the words that are left.

    A cut through sound is faded over 5 ms so that it does not click.
    """
    samples = speech.samples[start:stop].copy()
    fade = np.linspace(0, 1, min(80, len(samples)), dtype=np.float32)
    if start > 0 and len(samples):
        samples[: len(fade)] *= fade
    if stop < len(speech.samples) and len(samples):
        samples[len(samples) - len(fade) :] *= fade[::-1]
    low, high = start / SAMPLE_RATE, (start + len(samples)) / SAMPLE_RATE

    def inside(intervals):
        kept = ((name, max(a, low) - low, min(b, high) - low) for name, a, b in intervals)
        return [(name, a, b) for name, a, b in kept if b > a]

    words = inside(speech.words)
    text = speech.text if start == 0 and stop >= len(speech.samples) else " ".join(word for word, _, _ in words)
    return replace(speech, samples=samples, phonemes=inside(speech.phonemes), words=words, text=text)
