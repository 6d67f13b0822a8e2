"""How much of the lips' motion of people never heard lies in an audio encoder's features: ridge regression of 11
frames of features on the lip aperture of GRID clips.

python benchmarks/lips_from_sound.py MESH CLIPS ENCODER...

MESH is an npz of face-mesh points of the clips, ``<clip>.P`` (frames, 478, 3) and ``<clip>.S`` (frames,), the score of
each; CLIPS a folder with the clips and ``index.tsv``; an ENCODER is an ``audio_encoder`` folder, or a folder that
``runs/speech.py`` made, whose targets are then measured instead.

The regression is fitted on four of five clips of speaker s1 and what is trained on of s4; how strongly it is held back
is chosen on the fifth: the strongest hold that costs less than 0.01. ``others`` are all clips of all other speakers.
Each number is the mean over clips of the correlation within a clip.
"""

import csv
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from asymtalker.media.sound import read_audio
from asymtalker.models.audio import ArraySource, AudioEncoder, AudioFeatures, at_frames, load_audio_encoder
from asymtalker.parts.audio import feature_extractor
from asymtalker.synth.recordings import Recording, split_of_recording

REACH = 5
"""Frames before and after."""
STRENGTHS = (1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge, in shares of the features' mean square."""
TIE = 0.01
INNER_LIPS, EYE_CORNERS = (13, 14), (33, 263)


def apertures(mesh: Path) -> dict[str, np.ndarray]:
    """Lip aperture of every clip whose face was found throughout: ``(frames,)``, in distances between eye corners."""
    found = {}
    with np.load(mesh) as file:
        for key in (name[:-2] for name in file.files if name.endswith(".P")):
            points, scores = file[f"{key}.P"], file[f"{key}.S"]
            if len(points) and (scores >= 0.5).all() and not np.isnan(points).any():
                gap, width = (
                    np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in (INNER_LIPS, EYE_CORNERS)
                )
                found[key] = gap / width
    return found


def features(source: Path, clips: Path, name: str, frames: int) -> np.ndarray | None:
    """``(frames, A)`` of one clip, or ``None`` where the folder of targets has none."""
    if (source / "config.json").exists():
        encoder = _encoder(source)
        samples = read_audio(clips / f"{name}.mp4")
        return AudioFeatures(encoder, feature_extractor(), ArraySource(samples)).frames(0, frames)[0].numpy()
    recording = source / f"grid-{name}.npz"
    if not recording.exists():
        return None
    targets = torch.from_numpy(Recording.load(recording).targets)[None]
    return at_frames(targets, 0, frames, centre=0)[0].numpy()


_LOADED: dict[Path, AudioEncoder] = {}


def _encoder(folder: Path) -> AudioEncoder:
    if folder not in _LOADED:
        _LOADED[folder] = load_audio_encoder(folder).eval().requires_grad_(False)
    return _LOADED[folder]


def around(values: np.ndarray) -> np.ndarray:
    """``(frames, A)`` to ``(frames, 11 A)``: each frame with those around it, the ends repeated."""
    places = np.arange(len(values))[:, None] + np.arange(-REACH, REACH + 1)
    return values[places.clip(0, len(values) - 1)].reshape(len(values), -1)


def measure(source: Path, mesh: dict[str, np.ndarray], clips: Path) -> dict[str, float]:
    """Correlations by group of clips."""
    with (clips / "index.tsv").open() as file:
        speakers = {Path(row["file"]).stem: row["speaker"] for row in csv.DictReader(file, delimiter="\t")}
    groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"fit": [], "s1": [], "s4": [], "others": []}
    heard = 0
    for name, aperture in mesh.items():
        speaker = speakers[name]
        values = features(source, clips, name, len(aperture))
        if values is None:
            continue
        heard += speaker == "s1"
        seen = split_of_recording(f"grid-{name}", f"grid-{speaker}") == "train"
        group = speaker if speaker in ("s1", "s4") else "others"
        group = "fit" if seen and (speaker != "s1" or heard % 5) else group
        groups[group].append((values.astype(np.float32), aperture))
    everything = np.concatenate([values for values, _ in groups["fit"]])
    mean, spread = everything.mean(0), everything.std(0) + 1e-6
    width = (2 * REACH + 1) * everything.shape[1]
    gram, product, count = np.zeros((width, width)), np.zeros(width), 0
    level = np.concatenate([aperture for _, aperture in groups["fit"]]).mean()
    for values, aperture in groups["fit"]:
        inputs = around((values - mean) / spread)
        gram += inputs.T @ inputs
        product += inputs.T @ (aperture - level)
        count += len(inputs)
    results: list[dict[str, float]] = []
    for strength in STRENGTHS:
        weights = np.linalg.solve(gram + strength * count * np.eye(width), product)
        found = {group: _correlation(groups[group], mean, spread, weights) for group in ("s1", "s4", "others")}
        results.append(found | {"strength": strength})
    least = max(found["s1"] for found in results) - TIE
    chosen = max((found for found in results if found["s1"] >= least), key=lambda found: found["strength"])
    return chosen | {"clips": len(groups["others"])}


def _correlation(group, mean: np.ndarray, spread: np.ndarray, weights: np.ndarray) -> float:
    found = [
        np.corrcoef(around((values - mean) / spread) @ weights, aperture)[0, 1]
        for values, aperture in group
        if aperture.std() > 0
    ]
    return float(np.mean(found)) if found else float("nan")


def main() -> None:
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    mesh, clips, *sources = map(Path, sys.argv[1:])
    try:
        truth = apertures(mesh)
    except (OSError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{mesh}: {error}") from error
    for source in sources:
        found = measure(source, truth, clips)
        print(f"{source}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
