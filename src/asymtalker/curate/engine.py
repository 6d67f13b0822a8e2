"""Run a chain of functions over many items: in processes of this machine, or as a Ray Data plan on a cluster.

Work is done in other processes, so that one that is killed, by a decoder or for its memory, takes nothing with it: its
item is tried once more, and then put aside. What was tried is noted in a folder that all processes see.
"""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from asymtalker.errors import UserError
from asymtalker.media.atomic import disk_is_full

TRIES = 2
"""Of an item whose process died, before it is put aside."""
HANGS = 4 * 3600.0
"""Seconds after which a process of this machine that does not end with an item is killed."""
LOOK_SECONDS = 10.0
"""After so many it is seen that one hangs."""
Stage = Callable[[Any], Any]
"""Takes an item and returns what the next stage takes; of what goes over to a cluster, so made by :func:`partial` of
functions of modules."""


class NetworkStage(partial):
    """A stage that runs a large network: on a cluster in actors, which keep it, with a GPU each if there are."""


@dataclass(frozen=True)
class Problem:
    """Why an item has no result."""

    item: Any
    reason: str


@dataclass(frozen=True)
class Engine:
    """Where stages run.

    Attributes:
        notes: folder that all processes see, for what was tried in this run.
        workers: processes of this machine; 0 is this process alone, which then dies of what kills it.
        ray_address: of a cluster; ``"local"`` starts Ray on this machine, ``None`` does without.
        run: its name in the notes.
    """

    notes: Path
    workers: int = 1
    ray_address: str | None = None
    run: str = ""

    @classmethod
    def begun(cls, notes: Path, workers: int, ray_address: str | None) -> "Engine":
        """An engine for a new run.

        Raises:
            UserError: if Ray is wanted and is not installed or can't be reached.
        """
        if ray_address is not None:
            _connect(ray_address, workers)
        notes.mkdir(parents=True, exist_ok=True)
        for note in notes.iterdir():
            note.unlink(missing_ok=True)
        return cls(notes, workers, ray_address, secrets.token_hex(4))

    def run_stages(
        self, stages: Sequence[Stage], items: Sequence[Any], name: Callable[[Any], str]
    ) -> Iterator[tuple[str, Any]]:
        """``(name, result)`` of each item after all stages, in the order in which they are done; a result is a
        :class:`Problem` where one failed.

        Args:
            stages: called one after the other.
            items: what the first takes.
            name: of an item; no two have the same.

        Raises:
            UserError: if the disk is full.
        """
        guarded: list[Stage] = [
            (NetworkStage if isinstance(stage, NetworkStage) else partial)(
                _guarded, self.notes, self.run, number, stage
            )
            for number, stage in enumerate(stages)
        ]
        rows = [(name(item), item) for item in items]
        results = _by_ray(guarded, rows) if self.ray_address else _by_processes(guarded, rows, self.workers)
        for key, result in results:
            if isinstance(result, Problem) and result.reason.startswith(FULL):
                raise UserError(result.reason)
            yield key, result


FULL = "The disk is full"


def _guarded(notes: Path, run: str, number: int, stage: Stage, row: tuple[str, Any]) -> tuple[str, Any]:
    """A stage's result for one row, a :class:`Problem` where it fails or its process has died of it before."""
    key, item = row
    if isinstance(item, Problem):
        return row
    note = notes / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}-{number}"
    tried = note.read_text().split() if note.exists() else []
    if tried.count(run) >= TRIES:
        return key, Problem(item, f"a process died of it, {TRIES} times")
    note.write_text(" ".join([*tried, run]))
    try:
        result = stage(item)
    except Exception as error:
        if disk_is_full(error):
            result = Problem(item, f"{FULL}: make room and give the same command again.")
        else:
            result = Problem(item, _said(error))
    note.unlink(missing_ok=True)
    return key, result


def _said(error: Exception) -> str:
    """An exception with the place that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


def _by_processes(stages: Sequence[Stage], rows: Sequence[tuple[str, Any]], workers: int) -> Iterator[tuple[str, Any]]:
    """Each row through all stages, in processes of this machine; a row whose process dies is given to another. Without
    workers all is done in this process."""
    if not workers:
        for row in rows:
            for stage in stages:
                row = stage(row)
            yield row
        return
    left, deaths = list(reversed(rows)), Counter[str]()
    pool: dict[Any, _Worker] = {}
    try:
        while left or any(worker.row for worker in pool.values()):
            _hand_out(left, pool, stages, workers)
            ready = wait([connection for connection, worker in pool.items() if worker.row], timeout=LOOK_SECONDS)
            hanging = [one for one, worker in pool.items() if worker.row and worker.since < time.monotonic() - HANGS]
            for connection in {*ready, *hanging}:
                worker = pool[connection]
                assert worker.row is not None
                key, item = row = worker.row
                if (result := _received(connection)) is not None:
                    worker.row = None
                    yield result
                    continue
                worker.process.kill()
                worker.process.join()
                del pool[connection]
                deaths[key] += 1
                if deaths[key] <= 2 * TRIES:
                    left.append(row)
                else:  # it dies before it can note what it tries
                    yield key, Problem(item, f"a process died before it began with it, {deaths[key]} times")
    finally:
        for connection, worker in pool.items():
            connection.close()
            if worker.row is not None:
                worker.process.kill()
            worker.process.join()


def _received(connection: Connection) -> tuple[str, Any] | None:
    """What a process gives back, ``None`` if it has died or hangs."""
    try:
        return connection.recv() if connection.poll() else None
    except (EOFError, OSError):
        return None


@dataclass
class _Worker:
    """A process, the row it has, and since when."""

    process: Any
    row: tuple[str, Any] | None = None
    since: float = 0.0


def _hand_out(left: list[tuple[str, Any]], pool: dict[Any, _Worker], stages: Sequence[Stage], workers: int) -> None:
    """Give rows to processes that have none, of which there are as many as are needed."""
    busy = sum(worker.row is not None for worker in pool.values())
    while left and len(pool) < workers and len(pool) < len(left) + busy:
        connection, process = _start(stages)
        pool[connection] = _Worker(process)
    for connection, worker in pool.items():
        if worker.row is None and left:
            worker.row, worker.since = left.pop(), time.monotonic()
            with contextlib.suppress(OSError):  # it has just died, which is seen when it is waited for
                connection.send(worker.row)


def _start(stages: Sequence[Stage]) -> tuple[Connection, Any]:
    context = multiprocessing.get_context("spawn")  # a fork would share the networks' threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, list(stages), os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _work(connection: Connection, stages: Sequence[Stage], parent: int) -> None:
    """What a process does: rows in, results out, until nobody sends any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends us
    logging.disable(logging.WARNING)  # what libraries warn developers of while they are imported
    _end_with(parent)
    with contextlib.suppress(EOFError, OSError):
        while True:
            row = connection.recv()
            for stage in stages:
                row = stage(row)
            connection.send(row)


def _end_with(parent: int) -> None:
    """Be killed when the command is, where the system can do that, so that nobody writes beside its next run."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _connect(address: str, workers: int) -> None:
    try:
        import ray
    except ImportError:
        raise UserError("--ray-address needs Ray: pip install asymtalker[cluster].") from None
    if ray.is_initialized():
        return
    where: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **where)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)  # Ray's would end the process in the middle of a file
    except Exception as error:  # Ray's own are of many kinds, down to this one
        raise UserError(f"No Ray cluster is reached at {address}: {error}.") from error


def _by_ray(stages: Sequence[Stage], rows: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The same as a Ray Data plan: a map for each stage, of which Ray makes tasks; networks are held by actors."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if not rows:
        return
    gpus = int(ray.cluster_resources().get("GPU", 0))
    plan = ray.data.from_items([{"row": row} for row in rows], override_num_blocks=len(rows))
    for stage in stages:
        if isinstance(stage, NetworkStage):
            # beside the tasks, which need a core each
            resources: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 0.5}
            actor: Any = _Actor
            plan = plan.map(actor, fn_constructor_args=(stage,), concurrency=max(1, gpus), **resources)
        else:
            plan = plan.map(partial(_in_row, stage))
    for found in plan.iter_rows():
        yield found["row"]


def _in_row(stage: Stage, row: dict[str, Any]) -> dict[str, Any]:
    return {"row": stage(row["row"])}


class _Actor:
    """A stage in a process that stays, and with it the network."""

    def __init__(self, stage: Stage):
        self.stage = stage

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _in_row(self.stage, row)
