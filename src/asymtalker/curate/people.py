"""Stage 8: who is who, by embeddings of faces, so that nobody is in both training and validation."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from asymtalker.curate.framed import FramedClip
from asymtalker.errors import UserError
from asymtalker.media.portrait import box_of
from asymtalker.media.registry import fetch_file
from asymtalker.models.recognition import embed_face, load_dlib

SAMPLES = 3
"""Frames of a clip that are embedded."""
SAME_PERSON = 0.45
"""Distance of dlib's embeddings up to which two clips are of one person."""
PERHAPS_SAME = 0.5
"""Distance up to which two may be one person. Its makers say 0.6, at which people who look alike are taken for one."""


@cache
def _networks() -> tuple[Any, Any] | None:
    """dlib's two, ``None`` where its package or their files are not there."""
    try:
        files = fetch_file("dlib_points", offline=True), fetch_file("dlib_face", offline=True)
        return load_dlib("shape_predictor", files[0]), load_dlib("face_recognition_model_v1", files[1])
    except (UserError, ImportError):
        return None


def has_recognition() -> bool:
    """Whether people can be told apart by their faces."""
    return _networks() is not None


def embed_person(clip: FramedClip) -> dict[str, Any]:
    """``embedding`` (128 numbers) of a clip's face, none without dlib."""
    networks = _networks()
    if networks is None:
        return {}
    count = len(clip.points)
    wanted = {round((place + 0.5) * count / SAMPLES - 0.5) for place in range(SAMPLES)}
    found = [
        embed_face(*networks, frame, box_of(points))
        for number, (frame, points) in enumerate(zip(clip.frames(), clip.filled, strict=True))
        if number in wanted
    ]
    return {"embedding": [round(float(value), 5) for value in np.mean(found, axis=0)]}


def tell_apart(
    embeddings: Sequence[np.ndarray | None], known: Sequence[str | None], videos: Sequence[str]
) -> tuple[list[str], list[set[str]]]:
    """A name for the person of each clip, and who of them may be one person.

    Args:
        embeddings: ``(128,)`` of each clip, in an order that does not change from run to run.
        known: who it is, where somebody said so: those names hold, and who looks like one of them is given it.
        videos: the clip's video and face, which names who is seen there first, and everyone whom no embedding tells.

    Returns:
        The names, and sets of those that nobody should be trained on beside one who is held out: their faces are
        nearer than :data:`PERHAPS_SAME`.
    """
    centres = _Centres()
    for embedding, name in zip(embeddings, known, strict=True):
        if embedding is not None and name is not None:
            centres.add(embedding, name)
    names = []
    for embedding, name, video in zip(embeddings, known, videos, strict=True):
        if name is None and embedding is not None:
            name = centres.nearest(embedding)
            if name is None:
                name = centres.add_new(embedding, video)
            else:
                centres.add(embedding, name)
        names.append(name or video)
    return names, centres.alike()


class _Centres:
    """Means of embeddings by name."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._from: Counter[str] = Counter()
        self._sums, self._counts = np.zeros((16, 128)), np.zeros(16)

    def add(self, embedding: np.ndarray, name: str) -> None:
        place = self._places.setdefault(name, len(self._places))
        if place == len(self._counts):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._sums[place] += embedding
        self._counts[place] += 1

    def add_new(self, embedding: np.ndarray, video: str) -> str:
        """Take in someone whom nobody has named: the first of a video has its name."""
        self._from[video] += 1
        name = f"{video}-person{self._from[video]}" if self._from[video] > 1 else video
        self.add(embedding, name)
        return name

    def _means(self) -> np.ndarray:
        count = len(self._places)
        return self._sums[:count] / self._counts[:count, None]

    def nearest(self, embedding: np.ndarray) -> str | None:
        if not self._places:
            return None
        distances = np.linalg.norm(self._means() - embedding, axis=1)
        nearest = int(distances.argmin())
        return list(self._places)[nearest] if distances[nearest] <= SAME_PERSON else None

    def alike(self) -> list[set[str]]:
        """Sets of names each of which is near another of its set, those of one alone too."""
        names, means, groups = list(self._places), self._means(), list[set[str]]()
        left = set(range(len(means)))
        while left:
            group, look = set[int](), [min(left)]
            while look:
                index = look.pop()
                left.discard(index)
                group.add(index)
                near = np.flatnonzero(np.linalg.norm(means - means[index], axis=1) <= PERHAPS_SAME).tolist()
                look += [one for one in near if one in left and one not in look]
            groups.append({names[index] for index in group})
        return groups


def held_out_people(people: Sequence[str], alike: Sequence[set[str]] = ()) -> set[str]:
    """Who is never trained on: a tenth of them, three at least, those of the fewest clips, and who may be one of them;
    never all.

    Args:
        people: of each clip.
        alike: see :func:`tell_apart`.
    """
    clips = Counter(people)
    groups = [group & clips.keys() for group in alike if group & clips.keys()]
    groups += [{person} for person in clips.keys() - set().union(*groups)]
    if len(groups) == 1:
        groups = [{person} for person in clips]
    groups.sort(key=lambda group: (sum(clips[person] for person in group), min(group)))
    wanted, held_out = max(3, round(0.1 * len(clips))), set[str]()
    for group in groups[:-1]:
        if len(held_out) < wanted:
            held_out |= group
    return held_out
