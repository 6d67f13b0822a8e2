"""Stage 5, published networks: what they say of a clip, where a recipe wants them and their weights are at hand.

They come through :mod:`asymtalker.media.registry`; a clip is scored once by each, and again never.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from asymtalker.curate.framed import FramedClip
from asymtalker.media.portrait import box_of, wider_box
from asymtalker.media.registry import fetch_file

BATCH = 64


@dataclass(frozen=True)
class _Boxes:
    boxes: np.ndarray


@cache
def _syncnet() -> Any:
    import torch

    from asymtalker.models.syncnet import load_syncnet

    return load_syncnet(fetch_file("syncnet", offline=True)).to("cuda" if torch.cuda.is_available() else "cpu")


def syncnet_scores(clip: FramedClip) -> dict[str, Any]:
    """SyncNet's ``sync_confidence``, ``sync_distance`` and ``sync_offset`` (eq. 22), as published."""
    from asymtalker.models.sync import SyncFeatures, sync_score

    features = SyncFeatures(
        _Boxes(np.stack([wider_box(box_of(mesh)) for mesh in clip.filled])), clip.sound, _syncnet()
    )
    batch: list[np.ndarray] = []
    for frame in clip.frames():
        batch.append(frame)
        if len(batch) == BATCH:
            features.add(np.stack(batch))
            batch = []
    if batch:
        features.add(np.stack(batch))
    found = features.finish()
    score = sync_score(found["lips"], found["sound"])
    return {"sync_confidence": score.confidence, "sync_distance": score.distance, "sync_offset": score.offset}
