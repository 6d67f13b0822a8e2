"""Work that goes on in a second thread while the caller makes more of it."""

import contextlib
import threading
from collections.abc import Callable
from queue import Queue
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Calls ``work`` on what it is given, in order, in a thread of its own. A context manager.

    Leaving it waits until all that was given is worked off, also when it is left by an exception such as Ctrl-C; a
    second Ctrl-C meanwhile drops what has not been begun. An error of ``work`` ends the thread and is raised in the
    caller: by the next :meth:`put`, or on leaving.

    Args:
        work: what to do; PyAV and NumPy let other threads run meanwhile.
        ahead: how many things may wait, besides the one being worked on; then :meth:`put` waits.
    """

    def __init__(self, work: Callable[[T], None], ahead: int = 1):
        self._work = work
        self._waiting: Queue[T | None] = Queue(ahead)
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is None and not self._dropped:
                try:
                    self._work(item)
                except BaseException as error:  # kept for the caller; what is still given is taken and left undone
                    self._error = error

    def put(self, item: T) -> None:
        """Have something worked on; waits while too much is waiting.

        Raises:
            BaseException: what went wrong with an earlier one.
        """
        if self._error is None:
            self._waiting.put(item)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "Background[T]":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            self._waiting.put(None)
            self._thread.join()
        except BaseException:
            self._dropped = True
            self._end()
            raise
        if self._error is not None and kind is None:
            raise self._error

    def _end(self) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(KeyboardInterrupt):  # what has been begun must end before its file is closed
                if not self._waiting.full():
                    self._waiting.put(None)
                self._thread.join(0.05)
