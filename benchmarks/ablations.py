"""What choices of the method do to the bundled model, by the motion that it makes:

    python benchmarks/ablations.py --clips FOLDER --speech FILE... [--seconds 600] --out FILE.json NAME=MODEL,... ...

Each MODEL is a checkpoint with a codec of motion, the several of a NAME the same training with other seeds; of
NAME=MODEL+reuse the tail latents of a chunk are the head of the next as they are, not encoded again. Motion is read
off the latents as it would be off the frames (what codec and renderer do to these is the same for all).

Beginnings: for every clip of real video in CLIPS its first frame and sound, by two seeds of noise; lips and head are
held against the clip's. Long videos: the first frames of the first clips, and SPEECH over and over; each minute hears
the same, so that lips that follow it are alike. Faces of some frames are held against the portrait by dlib's network.
Joins: how far heads come in 0.2 s where chunks meet, over how far elsewhere.

Beside FILE.json a table of it is written, FILE.md: means, and 95% intervals of 1,000 draws of seeds and clips with
replacement.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asymtalker.bench.machine import describe_machine
from asymtalker.codec import to_frames, to_pixels
from asymtalker.evaluate.measure.faces import mesh_faces
from asymtalker.evaluate.measure.features import dlib_embedding
from asymtalker.evaluate.measure.networks import Networks, load_networks
from asymtalker.evaluate.measure.signals import blink_times, chunk_boundaries, head_motion, slide_at_seams
from asymtalker.evaluate.measure.truth import lip_score
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.atomic import write_atomic
from asymtalker.media.face_readings import eyes_place, head_pose, lid_openings, lip_aperture
from asymtalker.media.portrait import crop_frame, find_faces
from asymtalker.media.sound import AudioFile, AudioSamples, AudioSource, read_audio
from asymtalker.media.video import decode_frames
from asymtalker.models.audio import AudioFeatures
from asymtalker.models.identity import encode_identity
from asymtalker.models.motion.codec import MotionCodec, Portrait, read_points
from asymtalker.rollout import rollout
from asymtalker.timeline import FPS, SAMPLE_RATE, chunk_spans, frames_of_samples, latents_of_frames

SIZE = 256
NOISES = 2
LONG_CLIPS = 2
FACES = 12  # frames of a minute whose faces are compared


@dataclass(frozen=True)
class Clip:
    """A real clip, framed: ``first`` its first frame, ``points`` (F, 478, 3) its mesh, ``sound``."""

    name: str
    first: np.ndarray
    points: np.ndarray
    sound: AudioSource


class Reusing(MotionCodec):
    """Tail latents are the next chunk's head as they are."""

    def encode_again(self, latents: Tensor, frames: range, begin: int, decoded: Any) -> Tensor:
        """See :meth:`asymtalker.codec.Codec.encode_again`."""
        return latents[:, :, -latents_of_frames(len(frames)) :]


@dataclass(frozen=True)
class Model:
    """A checkpoint and how its chunks follow one another."""

    pipeline: AsymTalkerPipeline
    reuse: bool

    def motion(self, clip: Clip, sound: AudioSource, seed: int) -> tuple[Tensor, Portrait]:
        """Motion ``(F, components + 6)`` of a video of a clip's first frame."""
        pipeline, chunk = self.pipeline, self.pipeline.settings.chunk
        codec = (Reusing if self.reuse else MotionCodec)(pipeline.vae)
        codec.note_face(clip.first, clip.points[0])
        pixels = to_pixels(clip.first[None])
        basis, made = pipeline.vae.motion, list[Tensor]()
        identity = encode_identity(pipeline.settings.identity, pixels, chunk.frames, codec=codec, image_encoder=None)
        portrait = pipeline.vae.portrait(clip.first, clip.points[0])
        assert identity.latents is not None
        start = basis.to_motion(identity.latents[:, :, :1])[:, 0]
        chunks = rollout(
            pipeline.transformer,
            codec,
            AudioFeatures(pipeline.audio_encoder, pipeline.feature_extractor, sound),
            identity,
            chunk_spans(frames_of_samples(sound.num_samples), chunk.frames, chunk.continuity_frames),
            chunk=chunk,
            size=(SIZE, SIZE),
            sampler=pipeline.settings.sampler,
            seed=seed,
            portrait=pixels,
        )
        for one in chunks:
            new = slice(one.span.new.start - one.span.start, one.span.new.stop - one.span.start)
            motion = basis.without_steps(basis.to_motion(one.latents), new.start)
            made.append(basis.seen_from(motion, start, portrait.motion[None])[0, new])
        return torch.cat(made), portrait

    def mesh(self, portrait: Portrait, motion: Tensor, rest: np.ndarray) -> np.ndarray:
        """Face-mesh points ``(F, 478, 3)`` of a portrait in motion, whose own are ``rest``, as it reads faces: of
        shut eyes it says that they are a little open."""
        vae = self.pipeline.vae
        moved, pose = vae.change(portrait, motion)
        _, start = vae.motion.split(portrait.motion, (SIZE, SIZE))
        own = start.inverse(torch.from_numpy(rest).float())
        expression = moved.expression[:, : vae.motion.components]
        change = torch.einsum("nck,fk->fnc", vae.motion.modes, expression)
        return pose.apply(own + change).numpy()


def read_clips(folder: Path) -> Iterator[Clip]:
    """All clips, framed as the pipeline frames a portrait."""
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".mpg", ".mp4")):
        frames = np.stack(list(decode_frames(path, resample=True)))
        box = find_faces(frames[0])[0]
        framed = np.stack([crop_frame(frame, box, (SIZE, SIZE)).picture for frame in frames])
        yield Clip(path.stem, framed[0], read_points(framed), AudioFile(path))


def beginnings(model: Model, clips: Sequence[Clip]) -> list[dict[str, float]]:
    """What the first seconds are like, a row for each clip and noise."""
    rows = []
    for clip in clips:
        real = clip.points
        for seed in range(NOISES):
            motion, portrait = model.motion(clip, clip.sound, seed)
            mesh = model.mesh(portrait, motion, clip.points[0])
            count = min(len(mesh), len(real))
            lips = lip_score(lip_aperture(real[:count]), lip_aperture(mesh[:count]))
            away = (motion - portrait.motion) / model.pipeline.vae.motion.noise
            rows.append(
                {
                    "lips": lips.correlation,
                    "lag": float(lips.lag),
                    "amplitude": float(lips.amplitude or 0),
                    "head": head_motion(head_pose(mesh).angles()) / head_motion(head_pose(real).angles()),
                    "blinks": _blinks(mesh),
                    "away": float(away.mean(0).abs().mean()),
                }
            )
    return rows


def long_videos(model: Model, clips: Sequence[Clip], speech: np.ndarray, seconds: int) -> list[dict[str, list[float]]]:
    """What each minute of long videos is like, a row for each clip."""
    networks, rows = load_networks(offline=True), list[dict[str, list[float]]]()
    minute = np.resize(speech, 60 * SAMPLE_RATE)
    sound = np.resize(minute, seconds * SAMPLE_RATE).astype(np.float32)
    for seed, clip in enumerate(clips):
        motion, portrait = model.motion(clip, AudioSamples(sound, SAMPLE_RATE), seed)
        away = (motion - portrait.motion) / model.pipeline.vae.motion.noise
        mesh = model.mesh(portrait, motion, clip.points[0])
        own = face_of(networks, clip.first)
        row: dict[str, list[float]] = {name: [] for name in ("lips", "head", "blinks", "away", "face")}
        heard = lip_aperture(mesh[: 60 * FPS])
        chunk = model.pipeline.settings.chunk
        boundaries = chunk_boundaries(len(mesh), chunk.frames, chunk.frames - chunk.continuity_frames)
        if slide := slide_at_seams(eyes_place(mesh), boundaries):
            row["joins"] = [slide]  # of the whole video
        for frames in np.split(np.arange(len(mesh)), range(60 * FPS, len(mesh), 60 * FPS)):
            now = mesh[frames]
            row["lips"].append(lip_score(heard[: len(now)], lip_aperture(now)).correlation)
            row["head"].append(head_motion(head_pose(now).angles()))
            row["blinks"].append(_blinks(now))
            row["away"].append(float(away[frames].mean(0).abs().mean()))
            shown = to_frames(
                model.pipeline.vae.frames(portrait, motion[frames[:: len(frames) // FACES]]).transpose(0, 1)[None]
            )
            distances = [np.linalg.norm(face_of(networks, frame) - own) for frame in shown]
            row["face"].append(float(np.mean(distances)))
        rows.append(row)
    return rows


def face_of(networks: Networks, picture: np.ndarray) -> np.ndarray:
    """dlib's embedding of the largest face."""
    return dlib_embedding(networks, picture, mesh_faces(picture)[0].box)


def _blinks(mesh: np.ndarray) -> float:
    """A minute."""
    return len(blink_times(lid_openings(mesh).mean(-1))) / (len(mesh) / FPS / 60)


def table(models: dict[str, Any]) -> str:
    """Markdown of all that was measured, a row for each name; ``models`` has what was of each seed's, by
    ``NAME/MODEL``."""
    names = dict.fromkeys(key.split("/")[0] for key in models)
    lines = [
        "| | seeds | " + " | ".join(label for label, _, _ in COLUMNS) + " |",
        "| --- " * (2 + len(COLUMNS)) + "|",
    ]
    for name in names:
        seeds = [found for key, found in models.items() if key.split("/")[0] == name]
        cells = []
        for _, part, column in COLUMNS:
            rows = [found[part.split()[0]] for found in seeds]
            # before there was such a column, or of one chunk
            if any(column not in row for seed in rows for row in seed):
                cells.append("–")
                continue
            drawn = [_by_clip([_of(row[column], part) for row in seed], part) for seed in rows]
            low, high = _interval(drawn, np.random.default_rng(0))
            cells.append(f"{np.mean(np.concatenate(drawn)):.3g} ({low:.3g} to {high:.3g})")
        lines.append(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


COLUMNS = (
    ("lips", "first", "lips"),
    ("amplitude", "first", "amplitude"),
    ("head over the real", "first", "head"),
    ("blinks", "first", "blinks"),
    ("away, 3 s", "first", "away"),
    ("away, minute 1", "long first", "away"),
    ("away, last minute", "long last", "away"),
    ("face, minute 1", "long first", "face"),
    ("face, last minute", "long last", "face"),
    ("head, minute 1", "long first", "head"),
    ("head, last minute", "long last", "head"),
    ("lips as in minute 1", "long last", "lips"),
    ("joins", "long first", "joins"),
)
"""Headings, which rows and which of their minutes, and the value."""


def _of(value: float | list[float], part: str) -> float:
    return value[-1 if part.endswith("last") else 0] if isinstance(value, list) else value


def _by_clip(values: list[float], part: str) -> np.ndarray:
    """One for each clip: noises of the same clip are alike, and no draws of their own."""
    return np.reshape(values, (-1, NOISES if part == "first" else 1)).mean(1)


def _interval(seeds: list[np.ndarray], random: np.random.Generator) -> tuple[float, float]:
    draws = []
    for _ in range(1000):
        picked = [seeds[index] for index in random.integers(len(seeds), size=len(seeds))]
        draws.append(np.mean([values[random.integers(len(values), size=len(values))].mean() for values in picked]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL[,MODEL...]")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--speech", type=Path, nargs="+", required=True)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    clips = list(read_clips(arguments.clips))
    speech = np.concatenate([read_audio(path) for path in arguments.speech])
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"machine": describe_machine("cpu")}
    measured = found.setdefault("models", {})
    for named in arguments.models:
        name, folders = named.split("=")
        for folder in folders.split(","):
            key = f"{name}/{Path(folder).name}"
            if key in measured:
                continue
            pipeline = AsymTalkerPipeline.from_pretrained(folder.removesuffix("+reuse"))
            model = Model(pipeline, folder.endswith("+reuse"))
            with torch.inference_mode():
                first = beginnings(model, clips)
                later = long_videos(model, clips[:LONG_CLIPS], speech, arguments.seconds)
            measured[key] = {"sampler": vars(pipeline.settings.sampler), "first": first, "long": later}
            write_atomic(arguments.out, json.dumps(found, indent=1))
            means = {column: round(float(np.mean([row[column] for row in first])), 3) for column in first[0]}
            write_atomic(arguments.out.with_suffix(".md"), table(measured))
            print(key, means, {k: np.mean([r[k] for r in later], 0).round(3).tolist() for k in later[0]}, flush=True)


if __name__ == "__main__":
    main()
