"""Real videos, each of one person who speaks, as a corpus to train on."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from asymtalker.dataset.corpus import NewClip, ShardWriter
from asymtalker.errors import UserError
from asymtalker.media.face_mesh import track
from asymtalker.media.face_readings import face_mask
from asymtalker.media.portrait import crop_frame, find_faces
from asymtalker.media.sound import read_audio
from asymtalker.media.video import decode_frames
from asymtalker.timeline import SAMPLE_RATE, SAMPLES_PER_FRAME
from asymtalker.training.run_folder import tracked

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".mpg", ".avi")
SHARD_CLIPS = 32
FIRST_SHARD = 100_000
"""So that real videos can be added to a synthetic corpus."""


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Make a corpus of real videos, each of one person who speaks: framed around the face, 25 FPS, with face masks.

    A table index.tsv in the folder may say in a column speaker who speaks in which file; else each video is of a
    person of its own. A tenth of the people, three at least, is held out, those of the fewest videos. The same command
    goes on where it was stopped.
    """

    input: Path
    """Folder of videos."""
    output: Path
    """Folder of the corpus; one that holds a synthetic corpus gets the real clips added."""
    size: int = 256
    """Width and height in pixels at most; smaller faces are not enlarged."""
    sound_late: float = 0.0
    """Seconds by which the sound of these videos comes after the picture, which is put right; negative if before."""


def curate(config: Curate) -> None:
    """Write the corpus; videos without a face or sound are said and left out.

    Raises:
        UserError: if there is no folder or no usable video, or the corpus can't be written.
    """
    if not config.input.is_dir():
        raise UserError(f"There is no folder of videos {config.input}: give one that exists.")
    videos = sorted(path for path in config.input.rglob("*") if path.suffix.lower() in SUFFIXES)
    table = _speakers(config.input / "index.tsv")
    speakers = [table.get(path.relative_to(config.input).as_posix(), path.stem) for path in videos]
    held_out = held_out_people(speakers)
    writer = ShardWriter(config.output)
    writer.clear()
    known = list(zip(videos, speakers, strict=True))
    shards = [known[start : start + SHARD_CLIPS] for start in range(0, len(known), SHARD_CLIPS)]
    todo = [(index, shard) for index, shard in enumerate(shards, FIRST_SHARD) if not writer.has(index)]
    for index, shard in tracked(todo, "curating videos"):
        writer.write(index, _clips(config, shard, held_out))
    if not writer.write_manifest():
        raise UserError(f"None of the {len(videos)} videos in {config.input} can be used: see above why.")


def _speakers(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["file"]: row["speaker"] for row in rows if row.get("file") and row.get("speaker")}


def held_out_people(speakers: Sequence[str]) -> set[str]:
    """Who is never trained on: see :class:`Curate`."""
    videos = Counter(speakers)
    rarest = sorted(videos, key=lambda speaker: (videos[speaker], speaker))
    return set(rarest[: min(max(3, round(0.1 * len(rarest))), len(rarest) - 1)])


def _clips(config: Curate, videos: Sequence[tuple[Path, str]], held_out: set[str]) -> Iterator[NewClip]:
    for video, speaker in videos:
        name = video.relative_to(config.input).as_posix()
        try:
            yield _clip(config, video, name, speaker, "test" if speaker in held_out else "train")
        except UserError as error:
            print(f"{name} is left out: {error}", file=sys.stderr, flush=True)


def _clip(config: Curate, video: Path, name: str, speaker: str, split: Literal["train", "test"]) -> NewClip:
    frames = np.stack(list(decode_frames(video, resample=True)))
    boxes = [faces[0] for frame in islice(frames, 0, None, 25) if (faces := find_faces(frame))]
    if not boxes:
        raise UserError("no face was found in it.")
    box = sorted(boxes, key=lambda face: face.width)[len(boxes) // 2]
    side = min(config.size, round(max(box.width, box.height) / 0.5) // 2 * 2)
    framed = np.stack([crop_frame(frame, box, (side, side)).picture for frame in frames])
    faces = list(track(framed))
    if any(face is None for face in faces):
        raise UserError("its face is lost in some frames.")
    samples, late = read_audio(video), round(config.sound_late * SAMPLE_RATE)
    samples = samples[late:] if late > 0 else np.pad(samples, (-late, 0))
    wanted = SAMPLES_PER_FRAME * len(framed)
    samples = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
    identity = f"real-{speaker}"
    return NewClip(
        key=video.stem,
        split=split,
        source_id=name,
        identity_id=identity,
        voice_id=identity,
        kind="real",
        frames=framed,
        mask=np.stack([face_mask(face.points, side, side) for face in faces if face]),
        audio=samples.astype(np.float32),
    )
