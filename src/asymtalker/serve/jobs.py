"""Jobs: records in SQLite, files in a folder; fair among clients, kept over a restart, gone after a stated time.

A folder of jobs is one server's at a time. Each job has a folder of its own, named by its id: ``portrait.png`` and
``sound.wav`` until its video is made, ``live.mp4`` and ``video.mp4`` while and after it is.
"""

import contextlib
import fcntl
import json
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from asymtalker.errors import UserError

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
ENDED = ("done", "failed", "cancelled")
UPLOADS = ("portrait.png", "sound.wav")
MOST_ATTEMPTS = 3
"""After so many stops of the server in the middle of it, a job is taken for the reason of them."""
USUAL_SPEED = 20.0
"""Frames a second, until a video was made."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, client TEXT NOT NULL, address TEXT NOT NULL, state TEXT NOT NULL, options TEXT NOT NULL,
    frames_total INTEGER NOT NULL, frames_done INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, started REAL, ended REAL, expires REAL NOT NULL,
    consent REAL NOT NULL, error TEXT, remarks TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX IF NOT EXISTS jobs_of_state ON jobs (state, created);
CREATE TABLE IF NOT EXISTS turns (client TEXT PRIMARY KEY, turn INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job's record; times are seconds since 1970.

    Attributes:
        id: 32 hexadecimal digits, which only those know who were told.
        client: whose turn it takes.
        address: of whom it counts as, a keyed hash.
        options: seed, size and how the face is to move.
        consent: when consent of those seen and heard was declared.
        expires: when it is deleted.
        error: the sentence by which it failed.
        remarks: sentences about its picture and sound.
    """

    id: str
    client: str
    address: str
    state: State
    options: dict[str, Any]
    frames_total: int
    frames_done: int
    attempts: int
    created: float
    started: float | None
    ended: float | None
    expires: float
    consent: float
    error: str | None
    remarks: list[str]


class Jobs:
    """All jobs of a server. Threads may share it.

    Args:
        folder: of records and files.
        keep_seconds: how long a job is kept after it ended.
        upload_seconds: how long one may wait, with its portrait and voice, at most.
        clock: seconds since 1970.

    Raises:
        UserError: if another server uses the folder, or it can't be written.
    """

    def __init__(
        self, folder: Path, keep_seconds: float, upload_seconds: float, clock: Callable[[], float] = time.time
    ):
        self.folder = folder
        self._keep, self._wait, self._clock = keep_seconds, upload_seconds, clock
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = (folder / "lock").open("w")
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another server uses {folder}: give this one its own folder with --data.") from error
        except OSError as error:
            raise UserError(f"The folder {folder} can't be used ({error.strerror}): give another --data.") from error
        self._lock = threading.RLock()
        self._base = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self._base.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON", "busy_timeout=5000"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.executescript(SCHEMA)
        self._speed = USUAL_SPEED
        self.waiting = threading.Condition()
        self._recover()

    def _recover(self) -> None:
        """After a stop of any kind: what was being made is made again, and files without a record go."""
        with self._writing() as base:
            base.execute(
                "UPDATE jobs SET state = 'failed', ended = ?, expires = ?, error = ? WHERE state = 'running' AND"
                " attempts >= ?",
                (
                    self._clock(),
                    self._clock() + self._keep,
                    f"The server stopped {MOST_ATTEMPTS} times while it made this.",
                    MOST_ATTEMPTS,
                ),
            )
            base.execute("UPDATE jobs SET state = 'queued', frames_done = 0, started = NULL WHERE state = 'running'")
            known = {row["id"]: row["state"] for row in base.execute("SELECT id, state FROM jobs")}
        (self.folder / "jobs").mkdir(exist_ok=True)
        for path in (self.folder / "jobs").iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
            elif known[path.name] in ENDED:
                self._forget_uploads(path.name)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    def secret(self, name: str) -> bytes:
        """32 random bytes that stay the same as long as the folder does."""
        with self._writing() as base:
            base.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_bytes(32)))
            return base.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()["value"]

    @staticmethod
    def new_id() -> str:
        """An id that can't be guessed."""
        return secrets.token_hex(16)

    def files(self, id: str) -> Path:
        """The folder of a job's files."""
        return self.folder / "jobs" / id

    def create(
        self,
        id: str,
        *,
        client: str,
        address: str,
        options: dict[str, Any],
        frames_total: int,
        remarks: Sequence[str] = (),
    ) -> Job:
        """Queue a job whose portrait and voice are in its folder already, and to which consent was declared."""
        now = self._clock()
        with self._writing() as base:
            base.execute(
                "INSERT INTO jobs (id, client, address, state, options, frames_total, created, expires, consent,"
                " remarks) VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
                (
                    id,
                    client,
                    address,
                    json.dumps(options),
                    frames_total,
                    now,
                    now + self._wait,
                    now,
                    json.dumps(list(remarks)),
                ),
            )
        with self.waiting:
            self.waiting.notify()
        return self.get(id)

    def find(self, id: str) -> Job | None:
        """The job, if there is one of that id."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", (id,))
        return _job(rows[0]) if rows else None

    def get(self, id: str) -> Job:
        """The job.

        Raises:
            KeyError: if there is none of that id.
        """
        if (job := self.find(id)) is None:
            raise KeyError(id)
        return job

    def take(self) -> Job | None:
        """The next job to make, which is running from now on: of the client whose last turn was longest ago."""
        with self._writing() as base:
            row = base.execute(
                "SELECT jobs.id, jobs.client FROM jobs LEFT JOIN turns ON turns.client = jobs.client WHERE state ="
                " 'queued' ORDER BY coalesce(turn, 0), created, jobs.rowid LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            base.execute(
                "INSERT OR REPLACE INTO turns SELECT ?, coalesce(max(turn), 0) + 1 FROM turns", (row["client"],)
            )
            base.execute(
                "UPDATE jobs SET state = 'running', started = ?, frames_done = 0, attempts = attempts + 1"
                " WHERE id = ?",
                (self._clock(), row["id"]),
            )
        return self.get(row["id"])

    def put_back(self, id: str, excused: bool = True) -> None:
        """Queue a running job again; ``excused``, this was no attempt."""
        with self._writing() as base:
            base.execute(
                "UPDATE jobs SET state = 'queued', started = NULL, frames_done = 0, attempts = attempts - ? WHERE"
                " id = ? AND state = 'running'",
                (int(excused), id),
            )

    def progress(self, id: str, frames_done: int) -> bool:
        """Note how far a running job is. Whether it is still wanted."""
        with self._writing() as base:
            query = "UPDATE jobs SET frames_done = ? WHERE id = ? AND state = 'running'"
            return base.execute(query, (frames_done, id)).rowcount == 1

    def end(self, id: str, state: State, *, error: str | None = None, remarks: Sequence[str] = ()) -> bool:
        """End a job that was queued or running. Its portrait and voice are deleted. Whether it was either."""
        now = self._clock()
        with self._writing() as base:
            row = base.execute("SELECT * FROM jobs WHERE id = ? AND state IN ('queued', 'running')", (id,)).fetchone()
            if row is None:
                return False
            said = [*json.loads(row["remarks"]), *(remark for remark in remarks)]
            done = row["frames_total"] if state == "done" else row["frames_done"]
            base.execute(
                "UPDATE jobs SET state = ?, ended = ?, expires = ?, error = ?, remarks = ?, frames_done = ?"
                " WHERE id = ?",
                (state, now, now + self._keep, error, json.dumps(list(dict.fromkeys(said))), done, id),
            )
        self._forget_uploads(id)
        if state != "done":
            for name in ("video.mp4", "live.mp4"):
                (self.files(id) / name).unlink(missing_ok=True)
        return True

    def _forget_uploads(self, id: str) -> None:
        for name in UPLOADS:
            (self.files(id) / name).unlink(missing_ok=True)

    def delete(self, id: str) -> bool:
        """Forget a job and all its files; one that is running is stopped. Whether there was one."""
        with self._writing() as base:
            there = base.execute("DELETE FROM jobs WHERE id = ?", (id,)).rowcount == 1
        shutil.rmtree(self.files(id), ignore_errors=True)
        return there

    def sweep(self) -> int:
        """Delete what has expired, and fail what waited too long. How many were deleted."""
        now = self._clock()
        for row in self._rows("SELECT id FROM jobs WHERE state = 'queued' AND expires < ?", (now,)):
            self.end(row["id"], "failed", error="It waited too long for its turn: try again when less is asked for.")
        old = self._rows(f"SELECT id FROM jobs WHERE state IN {ENDED} AND expires < ?", (now,))
        for row in old:
            self.delete(row["id"])
        with self._writing() as base:
            base.execute("DELETE FROM turns WHERE client NOT IN (SELECT client FROM jobs)")
        return len(old)

    def count(self, address: str | None = None) -> dict[State, int]:
        """How many jobs there are in each state, in all or of an address."""
        where, values = ("", ()) if address is None else ("WHERE address = ?", (address,))
        rows = self._rows(f"SELECT state, count(*) AS number FROM jobs {where} GROUP BY state", values)
        numbers = {row["state"]: row["number"] for row in rows}
        return {state: numbers.get(state, 0) for state in STATES}

    def measured(self, frames: int, seconds: float) -> None:
        """Note how fast a video was made; what is said of the next ones' time follows that."""
        if seconds > 0:
            self._speed += 0.5 * (frames / seconds - self._speed)

    def place(self, job: Job) -> tuple[int, float] | None:
        """How many jobs are made before this one, and in how many seconds it is likely to be done; ``None`` once it
        has ended."""
        if job.state in ENDED:
            return None
        left = job.frames_total - job.frames_done
        if job.state == "running":
            return 0, left / self._speed
        ahead = self._order()
        before = ahead[: next((at for at, row in enumerate(ahead) if row["id"] == job.id), len(ahead))]
        running = self._rows("SELECT frames_total - frames_done AS left FROM jobs WHERE state = 'running'")
        frames = sum(row["left"] for row in [*before, *running])
        return len(before) + len(running), (frames + left) / self._speed

    def _order(self) -> list[sqlite3.Row]:
        """Queued jobs in the order in which they will be taken: each client's next one in turn."""
        return self._rows(
            "SELECT jobs.id, frames_total AS left, row_number() OVER (PARTITION BY jobs.client ORDER BY created,"
            " jobs.rowid) AS round, coalesce(turn, 0) AS turn, created, jobs.rowid AS number FROM jobs LEFT JOIN turns"
            " ON turns.client = jobs.client WHERE state = 'queued' ORDER BY round, turn, created, number"
        )

    def close(self) -> None:
        """Let another server have the folder."""
        with self._lock:
            self._base.close()
        self._held.close()


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    return Job(**values | {"options": json.loads(values["options"]), "remarks": json.loads(values["remarks"])})
