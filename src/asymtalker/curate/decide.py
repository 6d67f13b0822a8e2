"""Which clips are kept: the recipe's limits, applied to stored scores. Nothing is measured here."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from asymtalker.curate.recipe import Recipe, score_meanings


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A clip, or a video or span that gave none, and what became of it.

    Attributes:
        key: of the clip; of the video or span, where there is none.
        video: its key.
        source_id: the video's name.
        kind: what it is.
        start: frame of the video, and ``stop`` one past its last.
        scores: all that was measured.
        rejected_by: filter, ``None`` if it is kept.
        why: in words.
        seconds: that each stage took.
        identity: whose face it is, once people are told apart.
    """

    key: str
    video: str
    source_id: str
    kind: Literal["video", "span", "clip"] = "clip"
    start: int = 0
    stop: int = 0
    face: int = 0
    size: int = 0
    crop: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    rejected_by: str | None = None
    why: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    identity: str = ""
    split: str = ""
    licence: str | None = None
    source: str | None = None

    @property
    def span(self) -> str:
        """Key of a clip's span."""
        return self.key.removesuffix(f"-face{self.face}") if self.face else self.key

    @property
    def scores_text(self) -> str:
        """The scores as JSON, null where one can't be told."""
        told = {name: None if value != value else value for name, value in self.scores.items()}
        return json.dumps(told, sort_keys=True)

    def row(self) -> dict[str, Any]:
        """As the table of all clips has it."""
        return asdict(self) | {"scores": self.scores_text, "seconds": json.dumps(self.seconds, sort_keys=True)}


def failed_limit(scores: Mapping[str, float], recipe: Recipe, names: Iterable[str] | None = None) -> tuple[str, str]:
    """The first limit that scores fail, and how, in words; empty where they fail none.

    Args:
        scores: what was measured; a limit of what was not measured holds.
        recipe: its limits are looked at in its order.
        names: of the scores to look at, by default all.
    """
    for name, side, limit in recipe.limits():
        value = scores.get(name)
        if value is None or (names is not None and name not in names):
            continue
        if np.isnan(value):
            return name, f"{name.replace('_', ' ')} can't be told ({score_meanings()[name]})"
        if value < limit if side == "least" else value > limit:
            said = f"{name.replace('_', ' ')} is {value:.3g}, and at {side} {limit:.3g} is allowed"
            return name, f"{said} ({score_meanings()[name]})"
    return "", ""


def speaking_margins(fits: Mapping[str, float]) -> dict[str, float]:
    """How much better each of the clips of one span fits the sound than the best of the others; no entry for one who
    is alone."""
    if len(fits) < 2:
        return {}
    return {key: value - max(other for name, other in fits.items() if name != key) for key, value in fits.items()}


def span_key(video: str, start: int, stop: int, frames: int) -> str:
    """What a span is called: as its video, if it is all of it, else with its first frame and where it ends."""
    return video if (start, stop) == (0, frames) else f"{video}-{start:06d}-{stop:06d}"


def plain(name: str) -> str:
    """A name as a part of a key or identity."""
    return re.sub(r"[^\w-]+", "_", name)
