"""Recordings of real people: sound, phonemes and, for the audio encoder, a teacher's outputs, one file each.

``runs/speech.py`` makes such a folder; ``index.tsv`` lists what is in it.
"""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path, write_atomic
from asymtalker.synth.phonemes import SILENCE
from asymtalker.synth.speech import Speech, Split, cut, join, split_of
from asymtalker.timeline import SAMPLE_RATE

INDEX = "index.tsv"
TRAINED_GRID = ("grid-s1", "grid-s4")
"""Of GRID's few speakers these alone are trained on, the second with every other clip; all others are held out."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording with what the encoder is to find in it."""

    samples: np.ndarray
    """``(n,)`` float32 in [-1, 1] at 16 kHz."""
    phonemes: list[tuple[str, float, float]]
    """``(class, start, end)`` in seconds."""
    targets: np.ndarray
    """``(N, D)``: the teacher's outputs, number ``k`` centred on ``k / 50`` s."""

    def save(self, path: Path, speaker: str) -> None:
        """Write the file, which then is whole or not there."""
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                speaker=np.array(speaker),
                samples=np.round(self.samples.clip(-1, 1) * 32767).astype(np.int16),
                symbols=np.array([symbol for symbol, _, _ in self.phonemes]),
                times=np.array([times for _, *times in self.phonemes], np.float32).reshape(-1, 2),
                targets=self.targets.astype(np.float16),
            )

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Read what :meth:`save` wrote."""
        with np.load(path) as file:
            times = file["times"].tolist()
            return cls(
                samples=file["samples"].astype(np.float32) / 32767,
                phonemes=[(str(name), *ends) for name, ends in zip(file["symbols"], times, strict=True)],
                targets=file["targets"].astype(np.float32),
            )


def write_index(folder: Path) -> None:
    """List the folder's recordings: file, speaker, split, seconds."""
    rows = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            speaker, count = str(file["speaker"]), len(file["samples"])
        rows.append(f"{path.name}\t{speaker}\t{split_of_recording(path.stem, speaker)}\t{count / SAMPLE_RATE:.2f}\n")
    write_atomic(folder / INDEX, "file\tspeaker\tsplit\tseconds\n" + "".join(rows))


def split_of_recording(name: str, speaker: str) -> Split:
    """Which split a recording belongs to: by its speaker's hash, and for GRID as said above."""
    if not speaker.startswith("grid-"):
        return split_of(speaker)
    if speaker not in TRAINED_GRID:
        return "test"
    return "train" if speaker == TRAINED_GRID[0] else _half(name)


def _half(name: str) -> Split:
    return "test" if sum(name.encode()) % 2 else "train"


def read_index(folder: Path) -> list[dict[str, str]]:
    """Rows of the folder's list.

    Raises:
        UserError: if there is none.
    """
    path = folder / INDEX
    if not path.exists():
        raise UserError(f"{folder}: has no {INDEX}; make the folder by runs/speech.py")
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


class Recordings:
    """Those of a folder, to speak in.

    Raises:
        UserError: if the folder has no list, or no recording for training.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._of: dict[str, dict[str, list[str]]] = {}
        for row in read_index(folder):
            self._of.setdefault(row["split"], {}).setdefault(row["speaker"], []).append(row["file"])
        if "train" not in self._of:
            raise UserError(f"{folder}: has no recording of the split train; add some by runs/speech.py")

    @property
    def splits(self) -> Collection[str]:
        """Those that there are recordings of."""
        return self._of.keys()

    def speak(self, rng: np.random.Generator, seconds: float, split: Split) -> Speech:
        """Exactly ``round(seconds * 16000)`` samples of one speaker's recordings, with pauses between them, from
        anywhere in the first."""
        speakers = self._of[split]
        name = list(speakers)[rng.integers(len(speakers))]
        total = round(seconds * SAMPLE_RATE)
        parts: list[Speech] = []
        skip = 0
        while not parts or sum(len(part.samples) for part in parts) < skip + total:
            said = Recording.load(self.folder / speakers[name][rng.integers(len(speakers[name]))])
            if not parts:
                skip = int(rng.integers(max(len(said.samples) - total, 0) + 1))
            pause = np.zeros(int(rng.uniform(0.2, 0.8) * SAMPLE_RATE), np.float32)
            parts += [_speech(said.samples, said.phonemes, name), _speech(pause, [], name)]
        return cut(join(parts), skip, skip + total)


def _speech(samples: np.ndarray, phonemes: list[tuple[str, float, float]], voice: str) -> Speech:
    end = len(samples) / SAMPLE_RATE
    phonemes = [(symbol, start, min(stop, end)) for symbol, start, stop in phonemes if start < end]
    spoken = phonemes[-1][2] if phonemes else 0.0
    rest = [(SILENCE, spoken, end)] if spoken < end else []
    return Speech(samples=samples, phonemes=[*phonemes, *rest], words=[], text="", language="en", voice_id=voice)
