"""Which frames of a corpus training sees: integers and names alone, nothing is read of a clip.

Chunks begin at fixed frames of a clip and identity references are fixed frames too, so that what a frozen network
makes of them can be kept (:mod:`asymtalker.dataset.cache`).
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from asymtalker.dataset.corpus import Clip, read_clips

START_STRIDE = 40  # frames between the starts of encoded chunks of a clip
REFERENCES = 4  # identity references per clip, beside the first frames of its chunks
AUDIO_MARGIN = 8  # frames of features kept on both sides of a clip, for the context of its first and last chunk


def usable_clips(folder: Path, min_frames: int, split: str) -> list[Clip]:
    """Kept clips of ``split`` with at least ``min_frames`` frames, in order of key.

    Raises:
        UserError: if the folder is no corpus.
    """
    kept = [clip for clip in read_clips(folder) if clip.row.split == split and not clip.row.rejected_by]
    return [clip for clip in kept if clip.num_frames >= min_frames]


def chunk_starts(num_frames: int, chunk_frames: int) -> list[int]:
    """First frames of the encoded chunks of a clip: every ``START_STRIDE`` frames, and the last possible one where
    that shows a few frames more."""
    last = num_frames - chunk_frames
    starts = list(range(0, last + 1, START_STRIDE))
    return starts + [last] * (last - max(starts, default=last) >= START_STRIDE // 8)


def reference_frames(key: str, num_frames: int, chunk_frames: int) -> list[int]:
    """Frames of a clip that serve as identity references: those at :func:`chunk_starts`, in that order, then one from
    each of ``REFERENCES`` equal parts of the clip, fixed by its key."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    edges = np.linspace(0, num_frames, REFERENCES + 1).astype(int)
    anywhere = [int(generator.integers(low, max(high, low + 1))) for low, high in pairwise(edges)]
    return chunk_starts(num_frames, chunk_frames) + anywhere


@dataclass(frozen=True)
class Choice:
    """A chunk and its identity reference (eq. 24).

    Attributes:
        clip: of the chunk.
        chunk: its number among the clip's :func:`chunk_starts`.
        start: its first frame.
        portrait: the clip of the reference.
        reference: its number among that clip's :func:`reference_frames`.
    """

    clip: Clip
    chunk: int
    start: int
    portrait: Clip
    reference: int


class Chooser:
    """Random chunks of clips that are interchangeable in a batch.

    Args:
        clips: to choose from, all of one size.
        chunk_frames: frames of a chunk.
        lead: frames that must lie before a chunk in its clip.
    """

    def __init__(self, clips: Sequence[Clip], chunk_frames: int, lead: int):
        self.clips, self.chunk_frames, self.lead = clips, chunk_frames, lead
        self._people: dict[str, list[Clip]] = {}
        for clip in clips:
            self._people.setdefault(clip.row.identity_id, []).append(clip)

    def choose(self, clip: Clip, generator: torch.Generator, elapsed: int | None = None) -> Choice:
        """A chunk of a clip, each as likely as any other, with a reference of the same identity: the portrait.

        Args:
            clip: one of the clips.
            generator: source of the draws.
            elapsed: frames of the video before the chunk. A video begins with its portrait, so this is the frame of
                the clip that lies so far back, 0 the chunk's own first one, or the next reference before it. By
                default the portrait is taken at another time: from another of the person's clips, where there is
                one, else from outside the chunk, where the clip has a frame there.
        """
        starts = chunk_starts(clip.num_frames, self.chunk_frames)
        possible = [index for index, start in enumerate(starts) if start >= self.lead]
        index = possible[draw_index(len(possible), generator)]
        if elapsed is not None:
            first = max((i for i, start in enumerate(starts) if start <= starts[index] - elapsed), default=0)
            return Choice(clip, index, starts[index], clip, first)
        others = [other for other in self._people[clip.row.identity_id] if other.key != clip.key]
        portrait = others[draw_index(len(others), generator)] if others else clip
        frames = reference_frames(portrait.key, portrait.num_frames, self.chunk_frames)
        seen = range(0) if others else range(starts[index], starts[index] + self.chunk_frames)
        elsewhere = [i for i, frame in enumerate(frames) if frame not in seen] or list(range(len(frames)))
        return Choice(clip, index, starts[index], portrait, elsewhere[draw_index(len(elsewhere), generator)])


def clip_weights(clips: Sequence[Clip]) -> list[float]:
    """How often each clip is drawn, up to a factor. A person counts as the root of the number of their clips, or one
    speaker of whom there are hundreds would be all that is learned."""
    people = Counter(clip.row.identity_id for clip in clips)
    return [people[clip.row.identity_id] ** -0.5 for clip in clips]


def draw_clip(clips: Sequence[Clip], generator: torch.Generator) -> Clip:
    """A random clip, by :func:`clip_weights`."""
    weights = clip_weights(clips)
    if len(set(weights)) == 1:
        return clips[draw_index(len(clips), generator)]
    return clips[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))]


def draw_index(length: int, generator: torch.Generator) -> int:
    """A random index into ``length`` things."""
    return int(torch.randint(length, (), generator=generator))
