"""Several live sessions on one model: whether the machine can hold one more is tried out, not assumed."""

import gc
import threading
import time
from collections.abc import Callable

import numpy as np

from asymtalker.config import LiveConfig
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.serve.session import Mark, Portrait, Session
from asymtalker.timeline import FPS, SAMPLES_PER_FRAME

REHEARSED = FPS
"""Frames that are made to see how quickly."""
SPARE = 1.15
"""How much quicker than they are shown frames have to be made: sending them takes time too."""
RECENT = 10.0
"""Seconds for which a session that could not keep up speaks against another."""
SETTLED = 2.0
"""Seconds shown from which on a session is taken to run."""


class FullError(UserError):
    """The machine can't hold real time for one more session; the text says what was found."""


class Stage:
    """Opens sessions on a pipeline while the machine can hold real time for all.

    Before a session is opened a second of its video is made beside the sessions that run, less urgently than they
    make theirs; that has to be quicker than it would be shown.

    Args:
        pipeline: shared by all.
        live: how sessions hear.
        marks: makes, for a session, what is done to its pictures, see :class:`~asymtalker.serve.session.Session`.
    """

    def __init__(
        self, pipeline: AsymTalkerPipeline, live: LiveConfig | None = None, marks: Callable[[], Mark] = lambda: np.copy
    ):
        self.pipeline, self.live, self._marks = pipeline, live or LiveConfig(), marks
        self._opening = threading.Lock()
        self._open: dict[Session, float] = {}
        gc.collect()
        gc.freeze()  # going through all that libraries hold takes a quarter of a second, and every head stands still

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return [session for session in list(self._open) if not session.over]

    def open(self, portrait: Portrait, *, keeps_up: bool = False) -> Session:
        """A paced session; close it when it is not needed any more.

        Raises:
            FullError: if the machine can't hold real time for it beside the others.
            UserError: if the picture can't be used.
        """
        with self._opening:
            self._open = {session: takes for session, takes in self._open.items() if not session.over}
            behind = [session for session in self._open if session.latency.seconds_since_late() < RECENT]
            if behind:
                of = f"{len(behind)} of the {_count(len(self._open))} open here"
                raise FullError(f"{of} can't keep up already: try again when one has been closed.")
            speed = self.rehearse(portrait)
            begun = sum(takes for session, takes in self._open.items() if session.seconds < SETTLED)
            left = speed * max(0.0, 1 - begun)
            if left < SPARE:
                beside = f"Beside the {_count(len(self._open))} open here" if self._open else "Alone on this machine"
                raise FullError(
                    f"{beside} this picture can be moved at {left * FPS:.0f} frames a second. {SPARE * FPS:.0f} are"
                    f" needed, {FPS} to be shown and some to spare: ask for a smaller one, or wait."
                )
            session = Session(self.pipeline, portrait, self.live, keeps_up=keeps_up, mark=self._marks())
            self._open[session] = 1 / speed
            return session

    def rehearse(self, portrait: Portrait) -> float:
        """How many seconds of video are made in a second, beside what runs.

        Raises:
            UserError: if the picture can't be used.
        """
        with Session(self.pipeline, portrait, self.live, paced=False, mark=self._marks()) as session:
            session.push(np.zeros(3 * REHEARSED * SAMPLES_PER_FRAME, np.float32))
            session.take()  # what is done once for a portrait is done by then
            first, begun = session.made, time.monotonic()
            while session.made < first + REHEARSED and session.take() is not None:
                pass
            return (session.made - first) / FPS / (time.monotonic() - begun)

    def close(self) -> None:
        """Close all sessions."""
        for session in self.sessions:
            session.close()


def _count(sessions: int) -> str:
    return f"{sessions} session{'s' if sessions != 1 else ''}"
