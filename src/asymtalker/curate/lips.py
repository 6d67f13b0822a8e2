"""Stage 5, sync: do lips and sound belong together, and how far apart are they; where no SyncNet is at hand.

What SyncNet learns from pictures is done here in closed form: the shape of the lips by the face mesh, what the bundled
audio encoder hears, and between the two the directions in which they go together most (canonical correlation analysis,
Hotelling 1936), fitted by ``runs/lip_sync.py`` on clips of real people. SyncNet's scores are stored beside these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from asymtalker.curate.framed import FramedClip
from asymtalker.media.face_mesh import CHIN
from asymtalker.media.face_readings import head_pose

LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324)
MOUTH = np.array([*LIPS, *INNER_LIPS, CHIN, 199, 18])
LIPS_AROUND, SOUND_AROUND = 2, 4
"""Frames before and after that a direction of lips and of sound sees."""
MAX_OFFSET = 15
"""Frames to both sides at which the two are compared, as SyncNet's authors do."""
SHORTEST = 3 * MAX_OFFSET
"""Frames below which too few are left to compare at the largest offset."""
NEAR = 3
"""Frames around the best offset that are no chance."""
SURE_SYNC = 0.38
"""Sync from which on an offset is believed: of 62 clips of 3 s of eight people who were not fitted 5% have less than
0.37, with sound a second late 95%."""


@dataclass(frozen=True)
class LipSync:
    """Directions in which lips and sound go together: ``lips`` (A, K) and ``sound`` (B, K) take frames less
    ``lips_mean`` (A,) and ``sound_mean`` (B,) to K numbers, of which ``weights`` (K,) tells how well they agree."""

    lips_mean: np.ndarray
    lips: np.ndarray
    sound_mean: np.ndarray
    sound: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Sync:
    """How well lips and sound of a clip go together.

    Attributes:
        sync: agreement at the best offset above what chance gives at others, -1 to 1.
        fit: agreement at the best offset itself.
        offset: frames by which the sound comes after the picture, negative if before; between frames by a parabola.
    """

    sync: float
    fit: float
    offset: float


@cache
def load_lip_sync() -> LipSync:
    """The bundled directions."""
    with (
        resources.files("asymtalker").joinpath("assets", "lip_sync", "lip_sync.npz").open("rb") as file,
        np.load(file) as table,
    ):
        return LipSync(**{name: table[name].astype(np.float64) for name in LipSync.__dataclass_fields__})


def sync_scores(clip: FramedClip) -> dict[str, Any]:
    """Scores ``sync``, ``fit`` and ``offset_found`` of a clip; see :class:`Sync`. None of one that is too short."""
    if len(clip.filled) < SHORTEST:
        return {}
    found = find_offset(*project(load_lip_sync(), clip.filled, clip.sound))
    return {"sync": found.sync, "fit": found.fit, "offset_found": found.offset}


def video_offset(spans: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[float, float]:
    """Frames by which the sound of a video is late, and its sync: medians, the first of what is sure, 0 where nothing
    is.

    Args:
        spans: scores of each face that is seen in a span, of spans that can tell; whose lips fit best speaks.
    """
    speakers = [max(faces, key=lambda scores: scores["fit"]) for faces in spans]
    sure = [scores["offset_found"] for scores in speakers if scores["sync"] >= SURE_SYNC]
    return (float(np.median(sure)) if sure else 0.0), float(np.median([scores["sync"] for scores in speakers]))


def project(model: LipSync, points: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lips and sound ``(F, K)`` along the directions, weighted.

    Args:
        model: the directions.
        points: mesh ``(F, 478, 3)``, finite.
        samples: ``(640 F,)`` at 16 kHz.
    """
    lips = around(lip_shapes(points), LIPS_AROUND) - model.lips_mean
    sound = around(heard(samples, len(points)), SOUND_AROUND) - model.sound_mean
    return lips @ model.lips * model.weights, sound @ model.sound * model.weights


def lip_shapes(points: np.ndarray) -> np.ndarray:
    """The mouth's points ``(F, 2 P)`` as the head's own axes see them from the front, in its own unit, less their mean
    over the clip: speech is what changes."""
    pose = head_pose(points)
    away = (points[:, MOUTH].astype(np.float64) - pose.origin[:, None]) * (1, -1, -1)
    own = np.einsum("fpi,fij->fpj", away, pose.rotation) / pose.scale[:, None, None]
    flat = own[..., :2].reshape(len(points), -1)
    return flat - flat.mean(0)


def heard(samples: np.ndarray, frames: int) -> np.ndarray:
    """What the bundled audio encoder hears ``(F, 384)``, less its mean over the clip."""
    from asymtalker.models.audio import ArraySource, AudioFeatures

    features = AudioFeatures(*_encoder(), ArraySource(samples)).frames(0, frames)[0].numpy().astype(np.float64)
    return features - features.mean(0)


@cache
def _encoder() -> Any:
    """The bundled encoder and its feature extractor."""
    from transformers import Wav2Vec2FeatureExtractor

    from asymtalker.models.audio import load_audio_encoder

    with resources.as_file(resources.files("asymtalker").joinpath("assets", "tiny")) as folder:
        encoder = load_audio_encoder(folder / "audio_encoder").eval().requires_grad_(False)
        return encoder, Wav2Vec2FeatureExtractor.from_pretrained(folder / "feature_extractor")


def around(values: np.ndarray, reach: int) -> np.ndarray:
    """``(F, D)`` to ``(F, (2 reach + 1) D)``: each frame with those around it, the ends repeated."""
    places = np.arange(len(values))[:, None] + np.arange(-reach, reach + 1)
    return values[places.clip(0, len(values) - 1)].reshape(len(values), -1)


def find_offset(lips: np.ndarray, sound: np.ndarray, most: int = MAX_OFFSET) -> Sync:
    """At which offset lips and sound ``(F, K)`` agree best, and by how much more than elsewhere."""
    offsets = np.arange(-most, most + 1)
    agreement = np.array([_agreement(lips, sound, offset) for offset in offsets.tolist()])
    best = int(agreement.argmax())
    chance = agreement[np.abs(offsets - offsets[best]) > NEAR]
    offset = float(offsets[best])
    if 0 < best < len(offsets) - 1:
        before, top, after = agreement[best - 1 : best + 2]
        bend = before + after - 2 * top
        offset += float((before - after) / (2 * bend)) if bend < 0 else 0.0
    return Sync(float(agreement[best] - np.median(chance)), float(agreement[best]), offset)


def _agreement(lips: np.ndarray, sound: np.ndarray, offset: int) -> float:
    """Correlation over all numbers of what is seen at ``t`` with what is heard at ``t + offset``."""
    count = len(lips) - abs(offset)
    if count < 2 * MAX_OFFSET:
        return 0.0
    seen, said = lips[max(0, -offset) :][:count], sound[max(0, offset) :][:count]
    seen, said = seen - seen.mean(0), said - said.mean(0)
    return float((seen * said).sum() / max(1e-9, np.sqrt((seen**2).sum() * (said**2).sum())))
