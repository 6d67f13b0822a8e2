"""Who makes the videos of jobs: threads that take one after another and give it to a maker."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from asymtalker.errors import UserError
from asymtalker.media.video import Follower
from asymtalker.serve.jobs import MOST_ATTEMPTS, UPLOADS, Job, Jobs

log = logging.getLogger("asymtalker.serve")
NOTED_EVERY = 0.2  # seconds between two notes of how far a job is


class StoppedError(Exception):
    """The job is not wanted any more."""


class LostError(Exception):
    """Whoever made the video is gone; another one can make it."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made: plain values, so that another machine can make it.

    Attributes:
        portrait, sound: files of our own making.
        output: the MP4 to write.
        options: see :meth:`asymtalker.serve.service.Options.plain`.
    """

    portrait: Path
    sound: Path
    output: Path
    options: dict[str, Any]


class Maker(Protocol):
    """Makes a video."""

    def __call__(
        self,
        order: Order,
        live: Follower,
        progress: Callable[[int, int], None],
        say: Callable[[str], None],
    ) -> None:
        """Write the video of an order, and to ``live`` the same while it is made.

        Raises:
            UserError: if it can't be made of what was given.
            StoppedError: what ``progress`` raised.
            LostError: if what makes it is lost.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Workers:
    """Threads that make the videos of queued jobs.

    Args:
        jobs: where they are taken from.
        make: what makes one.
        number: how many are made at once.
        first_frame: called with the seconds from a job's creation to the first bytes of its video.
    """

    def __init__(self, jobs: Jobs, make: Maker, number: int, first_frame: Callable[[float], None] = lambda _: None):
        self._jobs, self._make, self._first_frame = jobs, make, first_frame
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{index}", daemon=True) for index in range(number)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Stop what is being made, which stays queued for the next start, and wait for the threads."""
        self._stopping.set()
        with self._jobs.waiting:
            self._jobs.waiting.notify_all()
        for thread in self._threads:
            thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._jobs.waiting:
                job = self._jobs.take()
                if job is None:
                    self._jobs.waiting.wait(1.0)
                    continue
            try:
                self._work(job)
            except Exception:
                log.exception("a worker failed")
                time.sleep(1)

    def _work(self, job: Job) -> None:
        folder, begin, remarks = self._jobs.files(job.id), time.monotonic(), list[str]()
        try:
            self._attempt(job, folder, remarks)
        except StoppedError:
            self._clean(folder)
            if self._stopping.is_set():
                self._jobs.put_back(job.id)
        except LostError:
            self._clean(folder)
            self._try_again(job)
        except UserError as error:
            self._jobs.end(job.id, "failed", error=_without_paths(str(error), folder))
        except Exception:
            if self._jobs.find(job.id) is not None:  # or its files were deleted while they were written
                log.exception("a job failed")
            self._jobs.end(job.id, "failed", error="Something went wrong on the server, which has noted what.")
        else:
            said = [_without_paths(remark, folder) for remark in remarks]
            if self._jobs.end(job.id, "done", remarks=said):
                self._jobs.measured(job.frames_total, time.monotonic() - begin)
            else:
                self._clean(folder)

    def _attempt(self, job: Job, folder: Path, remarks: list[str]) -> None:
        for path in folder.iterdir():
            if path.name not in UPLOADS:  # of an earlier attempt
                path.unlink()
        with (folder / "live.mp4").open("wb", buffering=0) as live:
            order = Order(
                portrait=folder / UPLOADS[0],
                sound=folder / UPLOADS[1],
                output=folder / "video.mp4",
                options=job.options,
            )
            self._make(order, live, self._noting(job), remarks.append)

    def _try_again(self, job: Job) -> None:
        log.warning("what made a video was lost")
        if job.attempts < MOST_ATTEMPTS:
            self._jobs.put_back(job.id, excused=False)
        else:
            self._jobs.end(job.id, "failed", error="What made this was lost again and again.")

    def _clean(self, folder: Path) -> None:
        """What was made of a job that is not wanted any more; of one that a stop of the server interrupted too."""
        with contextlib.suppress(OSError):
            for name in ("video.mp4", "live.mp4"):
                (folder / name).unlink(missing_ok=True)

    def _noting(self, job: Job) -> Callable[[int, int], None]:
        """The progress of a job, told to its record now and then."""
        last = 0.0

        def note(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if self._stopping.is_set():
                raise StoppedError
            if done and not last:
                self._first_frame(time.time() - job.created)
            if now - last < NOTED_EVERY and done < total:
                return
            last = now
            if not self._jobs.progress(job.id, done):
                raise StoppedError

        return note


def _without_paths(sentence: str, folder: Path) -> str:
    """A sentence about files as their sender knows them."""
    sentence = sentence.replace(str(folder / "portrait.png"), "the picture")
    return sentence.replace(str(folder / "sound.wav"), "the sound").replace(str(folder), "the server's folder")
