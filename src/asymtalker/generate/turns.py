"""Who works next: a lock that many threads ask for, held by one at a time."""

import contextlib
import heapq
import threading
from collections.abc import Iterator
from math import inf


class Turns:
    """A lock that a thread gets in the order of when its work is due, then of asking; a thread that holds it may
    take it again. A context manager.

    A plain lock goes to whoever happens to be awake, often to the thread that has just let go of it. Work that is not
    due at any time (a file's) waits while somebody works :meth:`beside`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int]] = []
        self._asked = 0
        self._holder: int | None = None
        self._depth = self._beside = 0
        self._own = threading.local()

    @contextlib.contextmanager
    def due(self, when: float) -> Iterator[None]:
        """What this thread does inside is due at ``when`` (``time.monotonic``); other work comes last, in the order
        of asking."""
        before = self._due
        self._own.due = when
        try:
            yield
        finally:
            self._own.due = before

    @property
    def _due(self) -> float:
        return getattr(self._own, "due", inf)

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """For work that needs no turn: what is due goes on beside the others', what is not takes a turn all the
        same."""
        if self._due == inf:
            with self:
                yield
            return
        with self._changed:
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    def __enter__(self) -> "Turns":
        me = threading.get_ident()
        with self._changed:
            if self._holder != me:
                ticket = (self._due, self._asked)
                self._asked += 1
                heapq.heappush(self._waiting, ticket)
                try:
                    self._changed.wait_for(lambda: self._free_for(ticket))
                finally:  # by an exception too, such as Ctrl-C, or nobody would have a turn any more
                    self._waiting.remove(ticket)
                    heapq.heapify(self._waiting)
                    self._changed.notify_all()
                self._holder = me
            self._depth += 1
        return self

    def _free_for(self, ticket: tuple[float, int]) -> bool:
        return self._holder is None and self._waiting[0] == ticket and (ticket[0] < inf or not self._beside)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._holder = None
                self._changed.notify_all()
