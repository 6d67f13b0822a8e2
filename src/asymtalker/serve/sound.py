"""The sound of a live session on the time axis of its video: pushed as it comes, silent where none has come."""

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from asymtalker.media.sound import window
from asymtalker.timeline import SAMPLE_RATE, SAMPLES_PER_FRAME

QUIET = 10 ** (-50 / 20)
"""Root mean square below which nobody misses a moment of sound, -50 dB."""
KEPT_ARRIVALS = 512
"""Pieces whose coming is remembered: of 10 ms or more, those of five seconds."""


@dataclass(frozen=True)
class Piece:
    """Samples ``(n,)`` that wait, when (``time.monotonic``) they came, and when they were to be heard at the soonest:
    what came all at once could be heard no sooner than piece after piece."""

    samples: np.ndarray
    came: float
    due: float

    def rest(self, first: int) -> "Piece":
        """What is left of it without its first samples."""
        return replace(self, samples=self.samples[first:], due=self.due + first / SAMPLE_RATE)


class LiveSound:
    """Sound that grows; a :class:`~asymtalker.models.audio.SampleSource`.

    What is pushed waits until :meth:`advance` gives it its place on the time axis, which never changes after. So much
    of the past is kept as :meth:`forget` leaves. It is not for several threads at once.

    Attributes:
        placed: samples on the time axis; silence follows once it has :attr:`ended`.
        waiting: samples that have no place yet.
        said: where the last of what was pushed ends on the time axis.
        ended: whether no more will be pushed.
    """

    def __init__(self) -> None:
        self.placed = self.waiting = self.said = 0
        self.ended = False
        self._pieces = deque[Piece]()
        self._held = np.zeros(0, np.float32)
        self._first = 0  # sample of the time axis that is held first
        self._due = 0.0  # when what comes next is to be heard at the soonest
        self._idle = True  # whether silence was put in last
        self._came = deque[tuple[int, int, float]](maxlen=KEPT_ARRIVALS)  # places of pieces, and when they came

    @property
    def num_samples(self) -> int | None:
        """Length in all, once it is known."""
        return self.placed + self.waiting if self.ended else None

    def push(self, samples: np.ndarray, came: float) -> None:
        """Let samples ``(n,)``, float32 in [-1, 1] at 16 kHz, wait for their place."""
        if len(samples):
            due = max(came, self._due)
            self._due = due + len(samples) / SAMPLE_RATE
            self._pieces.append(Piece(samples.astype(np.float32), came, due))
            self.waiting += len(samples)

    def advance(self, stop: int, reserve: int = 0) -> None:
        """Let the time axis reach sample ``stop``: by what waits, and where that is too little, by silence, unless it
        has ended.

        After silence, sound begins as late as it can, so that it goes on unbroken; ``reserve`` samples of it then go
        on waiting, for what comes unevenly.
        """
        missing = stop - self.placed
        if missing <= 0:
            return
        lacking = missing - self.waiting
        if lacking > 0 and self._idle and not self.ended:
            self._place(np.zeros(min(missing, lacking + reserve), np.float32))
        while self.placed < stop and self._pieces:
            piece = self._pieces.popleft()
            fits = min(len(piece.samples), stop - self.placed)
            if fits < len(piece.samples):
                self._pieces.appendleft(piece.rest(fits))
            self._came.append((self.placed, self.placed + fits, piece.came))
            self._place(piece.samples[:fits])
            self.waiting -= fits
            self.said, self._idle = self.placed, False
        if self.placed < stop and not self.ended:
            self._place(np.zeros(stop - self.placed, np.float32))
            self._idle = True

    def _place(self, samples: np.ndarray) -> None:
        self._held = np.concatenate([self._held, samples])
        self.placed += len(samples)

    def cut(self, place: int) -> None:
        """Take back what has its place from sample ``place`` on, and drop what waits."""
        self._pieces.clear()
        self.waiting, self._due = 0, 0.0
        self._held = self._held[: max(0, place - self._first)]
        self.placed = min(self.placed, place)
        self._came = deque(
            ((first, min(last, place), came) for first, last, came in self._came if first < place), KEPT_ARRIVALS
        )
        self._idle = True

    def skip_late(self, due: float) -> int:
        """Drop what was to be heard before ``due`` and still waits. Returns how many samples."""
        dropped = 0
        while self._pieces and self._pieces[0].due < due:
            piece = self._pieces.popleft()
            late = min(len(piece.samples), math.ceil((due - piece.due) * SAMPLE_RATE))
            if late < len(piece.samples):
                self._pieces.appendleft(piece.rest(late))
            dropped += late
        self.waiting -= dropped
        return dropped

    def skip_quiet(self, most: int) -> int:
        """Drop up to ``most`` of the samples that wait longest, while they are :data:`QUIET`. Returns how many."""
        dropped = 0
        while self._pieces and dropped < most:
            samples = self._pieces[0].samples[: most - dropped]
            if float(np.square(samples).mean()) ** 0.5 > QUIET:
                break
            piece = self._pieces.popleft()
            if len(samples) < len(piece.samples):
                self._pieces.appendleft(piece.rest(len(samples)))
            dropped += len(samples)
        self.waiting -= dropped
        return dropped

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``[start, stop)`` of the time axis, zeros outside what is held."""
        return window(self._held, start - self._first, stop - self._first)

    def forget(self, before: int) -> None:
        """Let go of all before sample ``before``."""
        drop = min(max(0, before - self._first), len(self._held))
        self._held = self._held[drop:].copy()
        self._first += drop

    def came(self, frame: int) -> float | None:
        """When the first sample of a frame was pushed; ``None`` where that was silence put in, or is long past."""
        place = frame * SAMPLES_PER_FRAME
        return next((came for first, last, came in self._came if first <= place < last), None)

    @property
    def seconds_waiting(self) -> float:
        """Length of what waits."""
        return self.waiting / SAMPLE_RATE
