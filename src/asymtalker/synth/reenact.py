"""Photographs that move and speak as people in real clips do: long clips with real lips and voices, of any face.

Clips of one person are read by a codec of motion and joined, motion and sound faded over where one ends and the next
begins, silent and with closed lips as clips of sentences do; a photograph is moved by what came of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asymtalker.codec import to_frames
from asymtalker.dataset.chunks import draw_clip, draw_index
from asymtalker.dataset.corpus import Clip, NewClip, ShardWriter, read_clips
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.media.face_readings import head_pose, lid_openings, lip_aperture
from asymtalker.media.picture import read_picture
from asymtalker.media.portrait import LIDS_CLOSED, box_of, crop_frame
from asymtalker.media.registry import named_portraits
from asymtalker.models.codecs import load_codec_network
from asymtalker.models.motion.codec import MotionCodecModel, read_points
from asymtalker.synth.portraits import Portrait, find_portraits, photo_identity
from asymtalker.synth.speech import Split, split_of
from asymtalker.timeline import FPS, SAMPLES_PER_FRAME
from asymtalker.training.run_folder import tracked

FADE = 10  # frames in which one clip goes over into the next
LIPS_CLOSED = 0.03
"""Apertures below this are closed lips, which a photograph has to start from."""
UPRIGHT = 30
"""Degrees that a photograph's head may be turned or tilted by."""
FIRST_SHARD = 200_000
"""So that these clips can be added to a corpus of others."""
SHARD_CLIPS = 8
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Reenact:
    """Make clips of photographs that move and speak as the people of a corpus' real clips do.

    A person's clips are joined to long ones. Test clips are of people and pictures that no training clip shows. The
    same command goes on where it was stopped.
    """

    corpus: Path
    """Corpus with clips of kind "real"."""
    portraits: Path
    """Folder of photographs, or the name of a known collection, such as cc0; those with open mouths or closed eyes
    are left out."""
    model: Path
    """Folder with a codec of motion in vae."""
    output: Path
    """Folder of the corpus; one that holds others' clips gets these added."""
    clips: int = 64
    """How many, a tenth of them for tests."""
    seconds: float = 10.0
    """Their length."""
    size: int = 256
    """Width and height in pixels."""
    seed: int = 0
    """Which photograph speaks as whom."""


def reenact(config: Reenact) -> None:
    """Write the corpus.

    Raises:
        UserError: if there is no codec of motion, no real clip or no usable photograph, or the corpus can't be
            written.
    """
    network = load_codec_network(config.model / "vae")
    if not isinstance(network, MotionCodecModel):
        raise UserError(f"{config.model}: its codec makes pixels; give a model with a codec of motion")
    network.eval().requires_grad_(False)
    real = [clip for clip in read_clips(config.corpus) if clip.row.kind == "real" and not clip.row.rejected_by]
    clips = [clip for clip in real if clip.num_frames > 2 * FADE]
    if not clips:
        raise UserError(
            f"{config.corpus}: has no real clips of more than {2 * FADE} frames that could move a photograph"
        )
    writer = ShardWriter(config.output)
    writer.clear()
    film = _Film(config, network, clips, _portraits(config))
    shards = [range(at, min(at + SHARD_CLIPS, config.clips)) for at in range(0, config.clips, SHARD_CLIPS)]
    todo = [(index, shard) for index, shard in enumerate(shards, FIRST_SHARD) if not writer.has(index)]
    for index, shard in tracked(todo, "moving photographs"):
        writer.write(index, (film.clip(number) for number in shard))
    writer.write_manifest()


def _portraits(config: Reenact) -> list[Portrait]:
    """Photographs of upright heads that start with closed lips and open eyes."""
    usable = [
        portrait
        for portrait in find_portraits(named_portraits(config.portraits), config.output / "portraits.npz")
        if lip_aperture(portrait.landmarks) < LIPS_CLOSED
        and lid_openings(portrait.landmarks).min() > LIDS_CLOSED
        and np.abs(head_pose(portrait.landmarks).angles()).max() < UPRIGHT
    ]
    if not usable:
        raise UserError(f"{config.portraits}: no photograph there has an upright head, closed lips and open eyes")
    return usable


class _Film:
    def __init__(self, config: Reenact, network: MotionCodecModel, clips: Sequence[Clip], portraits: list[Portrait]):
        self.config, self.network = config, network
        self.clips = {split: [clip for clip in clips if clip.row.split == split] for split in SPLITS}
        self.portraits = {
            split: [p for p in portraits if split_of(photo_identity(p.path)) == split] for split in SPLITS
        }
        if not (self.clips["train"] and self.portraits["train"]):
            raise UserError(f"{config.corpus} and {config.portraits}: no clip or no photograph there is for training")
        self._known: dict[str, tuple[Tensor, np.ndarray]] = {}

    def clip(self, number: int) -> NewClip:
        """Clip ``number`` of the corpus."""
        config = self.config
        generator = numbered_generator(config.seed, number, "reenact")
        split = "test" if number % 10 == 9 and self.clips["test"] and self.portraits["test"] else "train"
        portrait = self.portraits[split][draw_index(len(self.portraits[split]), generator)]
        motion, sound, person = self._speech(self.clips[split], generator)
        return NewClip(
            key=f"reenacted-{number:06d}",
            split=split,
            source_id=portrait.path.name,
            identity_id=photo_identity(portrait.path),
            voice_id=person,
            kind="reenacted",
            frames=self._moved(portrait, motion),
            mask=None,
            audio=sound,
        )

    def _speech(self, clips: Sequence[Clip], generator: torch.Generator) -> tuple[Tensor, np.ndarray, str]:
        """Motion ``(F, components + 6)`` as a change from rest, sound, and who speaks: clips of one person, joined."""
        person = draw_clip(clips, generator).row.identity_id
        own = [clip for clip in clips if clip.row.identity_id == person]
        wanted = round(self.config.seconds * FPS)
        motion, sound = None, np.zeros(0, np.float32)
        while motion is None or len(motion) < wanted:
            clip = own[draw_index(len(own), generator)]
            read, heard = self._read(clip)
            motion, sound = (read, heard) if motion is None else joined(motion, sound, read, heard)
        return motion[:wanted], sound[: wanted * SAMPLES_PER_FRAME], person

    def _read(self, clip: Clip) -> tuple[Tensor, np.ndarray]:
        """What moves in a clip, as a change from its frame with the most closed lips, and its sound."""
        if clip.key in self._known:
            return self._known[clip.key]
        frames = clip.frames()
        points = read_points(frames)
        motion = torch.stack(self.network.read_frames(frames, points, range(len(frames))))
        rest = int(np.argmin(lip_aperture(points)))
        sound = np.zeros(len(frames) * SAMPLES_PER_FRAME, np.float32)
        heard = clip.audio()[: len(sound)]
        sound[: len(heard)] = heard
        self._known[clip.key] = motion - motion[rest], sound
        return self._known[clip.key]

    @torch.no_grad()
    def _moved(self, photograph: Portrait, motion: Tensor) -> Iterator[np.ndarray]:
        size = self.config.size, self.config.size
        crop = crop_frame(read_picture(photograph.path, any_size=True), box_of(photograph.landmarks), size)
        portrait = self.network.portrait(crop.picture, crop.placement.seen(photograph.landmarks, size))
        for part in motion.split(4):
            yield from to_frames(self.network.frames(portrait, portrait.motion + part).transpose(0, 1)[None])


def joined(first: Tensor, sound: np.ndarray, second: Tensor, heard: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Motion ``(F, D)`` and sound of two clips as one, ``FADE`` frames shorter: they fade into each other."""
    share = torch.linspace(0, 1, FADE + 2)[1:-1, None]
    share = share * share * (3 - 2 * share)
    motion = torch.cat([first[:-FADE], (1 - share) * first[-FADE:] + share * second[:FADE], second[FADE:]])
    count = FADE * SAMPLES_PER_FRAME
    fade = np.linspace(0, 1, count, dtype=np.float32)
    mixed = (1 - fade) * sound[-count:] + fade * heard[:count]
    return motion, np.concatenate([sound[:-count], mixed, heard[count:]])
