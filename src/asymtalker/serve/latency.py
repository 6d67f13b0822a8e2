"""What is measured of a live session: from sound in to picture out, and how often it was late."""

import math
import time
from collections import deque
from dataclasses import asdict, dataclass
from statistics import median, quantiles

from asymtalker.timeline import FPS

KEPT = 60 * FPS
NEWEST = 0.2
"""Weight of the newest chunk in what chunks are taken to need."""


@dataclass(frozen=True)
class Report:
    """Figures of a session.

    Attributes:
        median, p95: seconds from sound in to picture out, over the last minute of speech; ``None`` before any.
        frames: shown in all.
        stalls: how often a frame was more than one frame late.
        stalled: seconds lost by that.
        needs: seconds from the beginning of a chunk to its first frame.
        lost: seconds of speech left out, as the video had fallen too far behind.
    """

    median: float | None
    p95: float | None
    frames: int
    stalls: int
    stalled: float
    needs: float
    lost: float

    def plain(self) -> dict[str, float | int | None]:
        """As plain values, times in milliseconds."""
        return {
            name: round(1000 * value) if isinstance(value, float) else value for name, value in asdict(self).items()
        }


class Latency:
    """Keeps them; the session calls it."""

    def __init__(self) -> None:
        self._seconds = deque[float](maxlen=KEPT)
        self._earliest = 0.0
        self._frames = self._stalls = 0
        self._stalled, self._last_late = 0.0, -math.inf
        self.needs = self._lost = 0.0

    def shown(self, came: float | None, now: float) -> None:
        """A frame was shown, whose sound ``came``, if it has any. Sound that came all at once could be shown no sooner
        than frame after frame."""
        self._frames += 1
        if came is None:
            self._earliest = 0.0
            return
        self._earliest = max(came, self._earliest + 1 / FPS) if self._earliest else came
        self._seconds.append(now - self._earliest)

    def late(self, seconds: float) -> None:
        """A frame was so late that the video stood still."""
        self._stalls += 1
        self._stalled += seconds
        self._last_late = time.monotonic()

    def seconds_since_late(self) -> float:
        """How long ago that was."""
        return time.monotonic() - self._last_late

    def left_out(self, seconds: float) -> None:
        """So much speech was left out."""
        self._lost += seconds

    def needed(self, seconds: float) -> None:
        """A chunk took so long to its first frame; rises at once and falls slowly."""
        self.needs = max(seconds, (1 - NEWEST) * self.needs + NEWEST * seconds)

    def report(self) -> Report:
        """The figures so far."""
        seconds = list(self._seconds)
        p95 = quantiles(seconds, n=20)[-1] if len(seconds) > 1 else None
        middle = median(seconds) if seconds else None
        return Report(middle, p95, self._frames, self._stalls, self._stalled, self.needs, self._lost)
