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
"""Distance of dlib's embeddings up to which two clips are of one person; its makers say 0.6, at which people who look
alike are taken for one."""


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
) -> list[str]:
    """A name for the person of each clip.

    Args:
        embeddings: ``(128,)`` of each clip, in an order that does not change from run to run.
        known: who it is, where somebody said so: those names hold, and are not given to others.
        videos: the clip's video and face, which names a person whom no embedding tells.
    """
    centres: list[np.ndarray] = []
    counts: list[int] = []
    names: list[str] = []
    of_clip: list[str] = []
    for embedding, name, video in zip(embeddings, known, videos, strict=True):
        if name is not None:
            of_clip.append(name)
            continue
        if embedding is None:
            of_clip.append(video)
            continue
        if centres:
            distances = np.linalg.norm(np.stack(centres) - embedding, axis=1)
            nearest = int(distances.argmin())
            if distances[nearest] <= SAME_PERSON:
                counts[nearest] += 1
                centres[nearest] = centres[nearest] + (embedding - centres[nearest]) / counts[nearest]
                of_clip.append(names[nearest])
                continue
        centres.append(np.asarray(embedding, np.float64))
        counts.append(1)
        names.append(video)
        of_clip.append(video)
    return of_clip


def held_out_people(people: Sequence[str]) -> set[str]:
    """Who is never trained on: a tenth of them, three at least, those of the fewest clips; never all."""
    clips = Counter(people)
    rarest = sorted(clips, key=lambda person: (clips[person], person))
    return set(rarest[: min(max(3, round(0.1 * len(rarest))), len(rarest) - 1)])
