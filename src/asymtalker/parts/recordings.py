"""Recordings of real people for the audio encoder: sound, phonemes and a teacher's outputs, one file each.

``runs/speech.py`` makes such a folder; ``index.tsv`` lists what is in it.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path, write_atomic
from asymtalker.synth.speech import Split, split_of
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
