"""Measure the filters of curation alone, on clips with one known fault each: what each catches and wrongly catches.

python benchmarks/faults.py OUT --clips FOLDER [--mesh FILE] [--every 9] [--faults frozen,clipped,...] [--out JSON]

FOLDER holds videos of one person each, as ``asymtalker curate`` reads them. OUT gets ``scores.jsonl``, a line for each
clip and fault: the same command goes on where it was stopped, and several with other clips or faults may share it.
MESH (arrays ``<clip>.P``) has the meshes of the clips as they are, by which their faults are read too. The summary
is printed, and written to JSON.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.bench.machine import describe_machine, load_average
from asymtalker.curate.collect import list_videos
from asymtalker.curate.corruption import sound_faults
from asymtalker.curate.cuts import ChangeScores, cut_frames
from asymtalker.curate.faces import crop_frames, crop_path, face_boxes
from asymtalker.curate.hands import hand_scores
from asymtalker.curate.picture import picture_scores
from asymtalker.curate.recipe import Recipe, read_recipe
from asymtalker.flow import hashed_seed
from asymtalker.media.face_mesh import track
from asymtalker.media.video import read_video
from films import FAULTS, Clip

SOUND = {"clipped": "clipped", "noisy": "snr", "dropouts": "dropout", "silent": "silence"}
PICTURE = {
    "frozen": ("frozen",),
    "jump cut": ("jump", "cut"),
    "blurred": ("sharpness",),
    "hidden face": ("hidden", "hands", "jump"),
    "hand over face": ("hands", "hidden", "jump"),
}
"""Scores that may catch a fault; a jump in the picture comes with what appears in it."""
SIDE = 256


class Framed:
    """A clip in memory, as stage 4 leaves it."""

    def __init__(self, frames: np.ndarray, points: np.ndarray):
        path = crop_path(face_boxes(points), 0.35)
        side = min(SIDE, round(float(path[0, 2]) / 0.5) // 2 * 2)
        cut = list(crop_frames(frames, path, side))
        self._frames = [picture for picture, _ in cut]
        self.filled = np.stack([place.seen(mesh, (side, side)) for mesh, (_, place) in zip(points, cut, strict=True)])

    def frames(self) -> Iterator[np.ndarray]:
        return iter(self._frames)


def picture(frames: np.ndarray, points: np.ndarray, recipe: Recipe) -> dict[str, float]:
    """Scores of pictures and hands; ``cut`` is how many cuts stage 3 sees."""
    clip, changes = Framed(frames, points), ChangeScores()
    for frame in frames:
        changes.add(frame)
    scores = picture_scores(clip) | hand_scores(clip)  # type: ignore[arg-type]
    return scores | {"cut": float(len(cut_frames(changes.finish(), recipe)))}


def rows(given: Any, recipe: Recipe, done: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """A row for every clip and fault that has none."""
    meshes = dict(np.load(given.mesh)) if given.mesh and given.mesh.exists() else {}
    wanted = given.faults.split(",") if given.faults else [*SOUND, *PICTURE]
    for video in list_videos(str(given.clips))[:: given.every]:
        todo = [fault for fault in ("clean", *wanted) if (video.key, fault) not in done]
        if not todo:
            continue
        frames, sound = read_video(Path(video.path))
        points = meshes.get(f"{video.key}.P")
        if points is None and set(wanted) & PICTURE.keys():
            points = np.stack([face.points for face in track(frames) if face])
        rng = np.random.default_rng(hashed_seed(0, video.key))
        for fault in todo:
            clip = Clip(frames, sound, "")
            clip = clip if fault == "clean" else FAULTS[fault](clip, rng)
            scores = sound_faults(clip.sound) if fault == "clean" or fault in SOUND else {}
            if points is not None and len(points) == len(frames) and (fault == "clean" or fault in PICTURE):
                scores |= picture(clip.frames, points, recipe)
            yield {"clip": video.key, "fault": fault, "scores": scores}


def summary(found: list[dict[str, Any]], recipe: Recipe) -> dict[str, Any]:
    """Of every fault how many clips of those that have it are caught, and of clean ones how many are not."""
    limits = {name: (side, limit) for name, side, limit in recipe.limits()} | {"cut": ("most", 0.5)}

    def fails(row: dict[str, Any], names: tuple[str, ...]) -> bool:
        values = [(row["scores"][name], *limits[name]) for name in names if name in row["scores"] and name in limits]
        return any(value < limit if side == "least" else value > limit for value, side, limit in values)

    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        groups[row["fault"]].append(row)
    result: dict[str, Any] = {}
    for fault, names in ({fault: (name,) for fault, name in SOUND.items()} | PICTURE).items():
        own = names[0]
        spoilt = [row for row in groups[fault] if own in row["scores"]]
        clean = [row for row in groups["clean"] if own in row["scores"]]
        if not spoilt or not clean:
            continue
        caught, wrong = sum(fails(row, names) for row in spoilt), sum(fails(row, names) for row in clean)
        result[fault] = {
            "score": own,
            "limit": limits[own][1],
            "spoilt": len(spoilt),
            "recall": round(caught / len(spoilt), 3),
            "clean": len(clean),
            "clean_kept": round(1 - wrong / len(clean), 3),
            "precision": round(caught / max(1, caught + wrong), 3),
            "spoilt_values": _spread([row["scores"][own] for row in spoilt]),
            "clean_values": _spread([row["scores"][own] for row in clean]),
        }
    return result


def _spread(values: list[float]) -> list[float]:
    """Least, median and largest."""
    return [round(float(value), 4) for value in np.percentile(values, (0, 50, 100))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--mesh", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--faults", default="")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe, log = read_recipe(given.recipe), given.folder / "scores.jsonl"
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if given.clips:
        with log.open("a") as file:
            for row in rows(given, recipe, {(row["clip"], row["fault"]) for row in found}):
                file.write(json.dumps(row) + "\n")
                file.flush()
                found.append(row)
    result = {"machine": describe_machine("cpu"), "load": load_average(), "recipe": given.recipe}
    text = json.dumps(result | {"faults": summary(found, recipe)}, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
