"""Fit the directions in which lips and sound go together, for ``asymtalker curate``.

python runs/lip_sync.py OUT CORPUS... [--late SECONDS]

CORPUS are folders that asymtalker curate or synth made; the clips of their split ``train`` are fitted, those of
``test`` measured. LATE is by how much the sound of curated clips comes after the picture, if that was not put right.
"""

import argparse
from pathlib import Path

import numpy as np

from asymtalker.curate.lips import (
    LIPS_AROUND,
    SOUND_AROUND,
    LipSync,
    around,
    find_offset,
    heard,
    lip_shapes,
    project,
)
from asymtalker.dataset.corpus import read_clips
from asymtalker.media.face_mesh import track
from asymtalker.timeline import SAMPLE_RATE

DIRECTIONS = 8
HOLD = 0.02
"""Ridge, as a share of the variables' mean square."""
KEPT = 96
"""Principal components of either side that directions are looked for in."""


def principal(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and the first components of ``(N, D)`` scaled to variance 1."""
    mean = values.mean(0)
    spread = (values - mean).T @ (values - mean) / len(values)
    variances, axes = np.linalg.eigh(spread)
    order = np.argsort(-variances)[:KEPT]
    floor = HOLD * variances.max() / KEPT
    return mean, axes[:, order] / np.sqrt(variances[order] + floor)


def fit(lips: np.ndarray, sound: np.ndarray) -> LipSync:
    """Canonical correlation analysis of ``(N, A)`` and ``(N, B)``."""
    lips_mean, lips_axes = principal(lips)
    sound_mean, sound_axes = principal(sound)
    u, v = (lips - lips_mean) @ lips_axes, (sound - sound_mean) @ sound_axes
    left, strength, right = np.linalg.svd(u.T @ v / len(u))
    return LipSync(
        lips_mean,
        lips_axes @ left[:, :DIRECTIONS],
        sound_mean,
        sound_axes @ right[:DIRECTIONS].T,
        strength[:DIRECTIONS],
    )


def read(folders: list[Path], late: float) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Points and sound of all clips, by split."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"train": [], "test": []}
    for folder in folders:
        for clip in read_clips(folder):
            faces = list(track(clip.frames()))
            if all(face is not None for face in faces):
                shift = round(late * SAMPLE_RATE) if clip.row.kind == "real" else 0
                sound = np.pad(clip.audio()[shift:], (0, 640 * len(faces)))[: 640 * len(faces)]
                found[clip.row.split].append((np.stack([face.points for face in faces if face]), sound))
    return found


def variables(clips: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """What the directions are fitted on, of all frames."""
    lips = [around(lip_shapes(points), LIPS_AROUND) for points, _ in clips]
    sound = [around(heard(samples, len(points)), SOUND_AROUND) for points, samples in clips]
    return np.concatenate(lips), np.concatenate(sound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("corpora", type=Path, nargs="+")
    parser.add_argument("--late", type=float, default=0.0)
    given = parser.parse_args()
    clips = read(given.corpora, given.late)
    model = fit(*variables(clips["train"]))
    np.savez_compressed(given.out, **{name: value.astype(np.float16) for name, value in vars(model).items()})
    for split, those in clips.items():
        found = [find_offset(*project(model, *clip)) for clip in those]
        near = np.mean([abs(one.offset) <= 1 for one in found])
        sync = np.mean([one.sync for one in found])
        print(f"{split}: {len(found)} clips, offset within a frame in {near:.0%}, sync {sync:.3f}")


if __name__ == "__main__":
    main()
