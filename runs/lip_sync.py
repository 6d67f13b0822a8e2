"""Fit the directions in which lips and sound go together, for ``asymtalker curate``, and measure them.

python runs/lip_sync.py OUT CORPUS... --people real-s1,real-s26,real-s31 [--most 40] [--mesh FILE]

CORPUS are folders that asymtalker curate made, of sound that is in time. Clips of these people are fitted, at most so
many of each; on those of all others it is measured how well sound that is late by 0, 60, 200 and 1000 ms is told, in
single clips and in videos of four. MESH keeps the meshes from one run to the next.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from asymtalker.curate.lips import (
    LIPS_AROUND,
    SOUND_AROUND,
    LipSync,
    Sync,
    around,
    find_offset,
    heard,
    lip_shapes,
    project,
    video_offset,
)
from asymtalker.dataset.corpus import Clip, read_clips
from asymtalker.media.face_mesh import track
from asymtalker.timeline import FPS, SAMPLE_RATE

DIRECTIONS = 8
HOLD = 0.02
"""Ridge, as a share of the variables' largest variance."""
KEPT = 48
"""Principal components of either side that directions are looked for in."""
DELAYS = (0.0, 0.06, 0.2, 1.0)
VIDEOS = 400


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
    left, right = left[:, :DIRECTIONS], right[:DIRECTIONS].T
    return LipSync(lips_mean, lips_axes @ left, sound_mean, sound_axes @ right, strength[:DIRECTIONS])


def read_points(clips: list[Clip], kept: Path | None) -> dict[str, np.ndarray]:
    """The mesh ``(F, 478, 3)`` of every clip whose face is found throughout, by key."""
    points = dict(np.load(kept)) if kept and kept.exists() else {}
    for clip in clips:
        if clip.key not in points:
            faces = list(track(clip.frames()))
            points[clip.key] = np.stack([face.points for face in faces if face])
    if kept:
        np.savez(kept, **points)
    return {clip.key: points[clip.key] for clip in clips if len(points[clip.key]) == clip.num_frames}


def variables(clips: list[Clip], points: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the directions are fitted on, of all frames."""
    lips = [around(lip_shapes(points[clip.key]), LIPS_AROUND) for clip in clips]
    sound = [around(heard(clip.audio(), clip.num_frames), SOUND_AROUND) for clip in clips]
    return np.concatenate(lips), np.concatenate(sound)


def offsets(model: LipSync, clips: list[Clip], points: dict[str, np.ndarray], late: float) -> list[Sync]:
    """What is said of clips whose sound is made ``late`` by so many seconds."""
    found = []
    for clip in clips:
        sound = np.pad(clip.audio(), (round(late * SAMPLE_RATE), 0))[: 640 * clip.num_frames]
        found.append(find_offset(*project(model, points[clip.key], sound)))
    return found


def measure(model: LipSync, clips: list[Clip], points: dict[str, np.ndarray]) -> None:
    """Print how well delays are told."""
    rng = np.random.default_rng(0)
    videos = [rng.choice(len(clips), min(4, len(clips)), replace=False) for _ in range(VIDEOS)]
    print(f"{len(clips)} clips of {len({clip.row.identity_id for clip in clips})} people who were not fitted")
    for late in DELAYS:
        found = offsets(model, clips, points, late)
        near = np.mean([abs(one.offset - late * FPS) <= 1.25 for one in found])
        scores = [[{"sync": one.sync, "fit": one.fit, "offset_found": one.offset}] for one in found]
        of_videos = [video_offset([scores[index] for index in those]) for those in videos]
        told = np.mean([abs(offset - late * FPS) <= 1 for offset, _ in of_videos])
        sync = np.percentile([one.sync for one in found], (5, 50, 95)).round(3)
        of_video = np.percentile([sync for _, sync in of_videos], (2, 50, 98)).round(3)
        print(f"{late * 1000:.0f} ms: within 1.25 frames in {near:.1%}, sync (5, 50, 95%) {sync}; "
              f"videos of four within a frame in {told:.1%}, sync (2, 50, 98%) {of_video}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("corpora", type=Path, nargs="+")
    parser.add_argument("--people", required=True)
    parser.add_argument("--most", type=int, default=40)
    parser.add_argument("--mesh", type=Path)
    given = parser.parse_args()
    people, taken, fitted, others = set(given.people.split(",")), Counter(), [], []
    for clip in (clip for folder in given.corpora for clip in read_clips(folder)):
        taken[clip.row.identity_id] += 1
        if clip.row.identity_id not in people:
            others.append(clip)
        elif taken[clip.row.identity_id] <= given.most:
            fitted.append(clip)
    points = read_points(fitted + others, given.mesh)
    model = fit(*variables([clip for clip in fitted if clip.key in points], points))
    np.savez_compressed(given.out, **{name: value.astype(np.float16) for name, value in vars(model).items()})
    measure(model, [clip for clip in others if clip.key in points], points)


if __name__ == "__main__":
    main()
