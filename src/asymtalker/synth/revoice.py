"""Photo heads of a corpus that say other things: more speech with faces than there is time to draw.

How lips move to a voice is known by its phonemes (:mod:`asymtalker.synth.motion`), in weights of face units. What a
codec of motion says of lips and chin is nearly linear in those, and is fitted to clips whose weights are known. So a
head keeps its motion, its lips become those of another voice, and the codec moves its picture: no head is drawn anew.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asymtalker.codec import to_frames
from asymtalker.config import SynthConfig
from asymtalker.dataset.chunks import draw_index
from asymtalker.dataset.corpus import Clip, NewClip, ShardWriter, read_clips
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.media.face_readings import lip_aperture
from asymtalker.models.codecs import load_codec_network
from asymtalker.models.motion.basis import MotionBasis
from asymtalker.models.motion.codec import MotionCodecModel, Portrait, read_points
from asymtalker.synth.mesh import BLENDSHAPES
from asymtalker.synth.motion import animate
from asymtalker.synth.pico import check_share
from asymtalker.synth.recordings import Recordings
from asymtalker.synth.run import recorded
from asymtalker.synth.speech import Split, speak
from asymtalker.timeline import FPS
from asymtalker.training.run_folder import tracked

FIRST_SHARD = 300_000
"""So that these clips can be added to a corpus of others."""
SHARD_CLIPS = 8
SPLITS: tuple[Split, ...] = ("train", "test")
SPEAKING = [index for index, name in enumerate(BLENDSHAPES) if name.startswith(("jaw", "mouth", "cheek", "tongue"))]
JAW = BLENDSHAPES.index("jawOpen")
RIDGE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Revoice:
    """Have photo heads of a synthetic corpus say other things, in synthetic voices and those of recordings.

    Test clips are of heads and voices that no training clip shows. The same command goes on where it was stopped.
    """

    corpus: Path
    """Corpus with clips of kind "photo", as synth makes it."""
    model: Path
    """Folder with a codec of motion in vae."""
    output: Path
    """Folder of the corpus; one that holds others' clips, such as the same, gets these added."""
    speech: Path | None = None
    """Folder of recordings that runs/speech.py made: they speak in every other clip, of tests those held out."""
    clips: int = 400
    """How many, a tenth of them for tests."""
    heads: int = 4
    """How many photo heads say it all: a person of many clips is drawn more often in training, and real ones less."""
    pico_share: float = 0.0
    """Share of synthetic voices that are Pico's, in languages that it has."""
    seed: int = 0
    """Who says what."""


def revoice(config: Revoice) -> None:
    """Write the corpus.

    Raises:
        UserError: on settings out of range, if there is no codec of motion, no photo head or no recording, or the
            corpus can't be written.
    """
    check_share(config.pico_share)
    for name in ("clips", "heads"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} is {getattr(config, name)}, but at least 1 is needed.")
    network = load_codec_network(config.model / "vae")
    if not isinstance(network, MotionCodecModel):
        raise UserError(f"{config.model}: its codec makes pixels; give a model with a codec of motion")
    network.eval().requires_grad_(False)
    clips = [clip for clip in read_clips(config.corpus) if clip.row.kind == "photo" and "ground_truth" in clip.info]
    if not clips:
        raise UserError(f"{config.corpus}: has no photo heads whose motion is known; make some by asymtalker synth")
    recordings = Recordings(config.speech) if config.speech else None
    writer = ShardWriter(config.output)
    writer.clear()
    shards = [range(at, min(at + SHARD_CLIPS, config.clips)) for at in range(0, config.clips, SHARD_CLIPS)]
    todo = [(index, shard) for index, shard in enumerate(shards, FIRST_SHARD) if not writer.has(index)]
    if todo:
        film = _Film(config, network, clips, recordings)
        for index, shard in tracked(todo, "moving lips"):
            writer.write(index, (film.clip(number) for number in shard))
    writer.write_manifest()


@dataclass(frozen=True)
class Lips:
    """What a codec says of lips and chin, from weights of face units.

    Attributes:
        basis: the codec's.
        matrix: ``(features, components)``.
    """

    basis: MotionBasis
    matrix: Tensor

    @classmethod
    def fit(cls, basis: MotionBasis, known: Sequence[tuple[Tensor, Tensor]]) -> "Lips":
        """Fit to clips: weights ``(F, 52)`` and motion ``(F, components + 6)`` of each. People differ in how their
        lips rest, so only what changes within a clip is compared."""
        speech = basis.speech().T
        given = torch.cat([_features(weights) - _features(weights).mean(0) for weights, _ in known])
        seen = [motion[:, : basis.components] @ speech for _, motion in known]
        wanted = torch.cat([lips - lips.mean(0) for lips in seen])
        ridge = RIDGE * len(given) * torch.eye(given.shape[1])
        return cls(basis, torch.linalg.solve(given.T @ given + ridge, given.T @ wanted))

    def __call__(self, weights: Tensor) -> Tensor:
        """Expression ``(F, components)`` of lips and chin that face-unit weights ``(F, 52)`` make, from rest."""
        return _features(weights) @ self.matrix

    def say(self, motion: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Motion ``(F, components + 6)`` of a clip whose lips, in place of what the weights ``before`` made, do what
        ``after`` makes, both ``(F, 52)``. A linear fit leaves lips ajar at p, b and m; the codec shows them shut."""
        count = self.basis.components
        expression = motion[:, :count]
        lips = expression @ self.basis.speech().T
        rest = (lips - self(before)).mean(0)
        return torch.cat([expression - lips + rest + self(after), motion[:, count:]], 1)


def _features(weights: Tensor) -> Tensor:
    speaking, jaw = weights[:, SPEAKING], weights[:, JAW : JAW + 1]
    return torch.cat([speaking, speaking * jaw], 1)  # how far lips go depends on how far the jaw is


def _weights(blendshapes: dict[str, Any]) -> Tensor:
    """``(F, 52)`` in the order of ``BLENDSHAPES``, of a clip's ground truth."""
    told = torch.tensor(blendshapes["weights"], dtype=torch.float32)
    weights = torch.zeros(len(told), len(BLENDSHAPES))
    weights[:, [BLENDSHAPES.index(name) for name in blendshapes["names"]]] = told
    return weights


@dataclass(frozen=True)
class _Head:
    clip: Clip
    portrait: Portrait
    weights: Tensor
    motion: Tensor


class _Film:
    def __init__(
        self, config: Revoice, network: MotionCodecModel, clips: Sequence[Clip], recordings: Recordings | None
    ):
        self.config, self.network, self.recordings = config, network, recordings
        known, heads = [], {split: list[_Head]() for split in SPLITS}
        for clip in tracked(clips, "reading photo heads"):
            frames = clip.frames()
            try:
                points = read_points(frames)
            except UserError as error:  # a head that is drawn turned away or cut off
                print(f"{clip.row.key} is left out: {error}", file=sys.stderr, flush=True)
                continue
            motion = network.motion.motion(torch.from_numpy(points), (frames.shape[1], frames.shape[2]))
            weights = _weights(clip.info["ground_truth"]["blendshapes"])
            if clip.row.split == "train":
                known.append((weights, motion))
            if len(heads[clip.row.split]) < config.heads:
                rest = int(np.argmin(lip_aperture(points)))
                portrait = network.portrait(frames[rest], points[rest])
                heads[clip.row.split].append(_Head(clip, portrait, weights, motion))
        if not known:
            raise UserError(f"{config.corpus}: none of its photo heads is for training")
        self.lips, self.heads = Lips.fit(network.motion, known), heads

    def clip(self, number: int) -> NewClip:
        """Clip ``number`` of the corpus."""
        config = self.config
        generator = numbered_generator(config.seed, number, "revoice")
        rng = np.random.default_rng([config.seed, number])
        split = "test" if number % 10 == 9 and self.heads["test"] else "train"
        head = self.heads[split][draw_index(len(self.heads[split]), generator)]
        count = len(head.motion)
        if self.recordings is not None and (number + number // 10) % 2 and split in self.recordings.splits:
            speech = self.recordings.speak(rng, count / FPS, split)
        else:
            speech = speak(rng, count / FPS, split, config.pico_share)
        weights = torch.from_numpy(animate(speech, rng, count).blendshapes)
        return NewClip(
            key=f"revoiced-{number:06d}",
            split=split,
            source_id=head.clip.row.source_id,
            identity_id=head.clip.row.identity_id,
            voice_id=speech.voice_id,
            kind="revoiced",
            frames=self._moved(head.portrait, self.lips.say(head.motion, head.weights, weights)),
            mask=None,
            audio=recorded(speech.samples, rng, split, SynthConfig.recorded_fraction),
        )

    @torch.no_grad()
    def _moved(self, portrait: Portrait, motion: Tensor) -> Iterator[np.ndarray]:
        for part in motion.split(4):
            yield from to_frames(self.network.frames(portrait, part).transpose(0, 1)[None])
