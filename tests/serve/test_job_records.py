"""Records of jobs: whose turn it is, what a restart finds, what is deleted when. No server is needed."""

import sqlite3

import pytest

from asymtalker.errors import UserError
from asymtalker.serve.jobs import MOST_ATTEMPTS, UPLOADS, Jobs

HOUR = 3600.0


class Clock:
    """Seconds that pass when they are told to."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(tmp_path, clock):
    made = Jobs(tmp_path, keep_seconds=24 * HOUR, upload_seconds=HOUR, clock=clock)
    yield made
    made.close()


def queue(jobs: Jobs, client: str, frames: int = 100, clock: Clock | None = None) -> str:
    id = jobs.new_id()
    jobs.files(id).mkdir()
    for name in UPLOADS:
        (jobs.files(id) / name).write_bytes(b"of a person")
    jobs.create(id, client=client, address=client, options={"seed": 1}, frames_total=frames)
    if clock:
        clock.now += 1
    return id


def files(jobs: Jobs, id: str) -> list[str]:
    return sorted(path.name for path in jobs.files(id).iterdir()) if jobs.files(id).exists() else []


def test_clients_take_turns_however_many_jobs_one_has(jobs, clock):
    greedy = [queue(jobs, "greedy", clock=clock) for _ in range(5)]
    others = [queue(jobs, f"other{number}", clock=clock) for number in range(7)]
    taken = []
    while job := jobs.take():
        taken.append(job.id)
        jobs.end(job.id, "done")
    assert taken[:8] == [greedy[0], *others], "all eight are served before one has a second turn"
    assert taken[8:] == greedy[1:]


def test_turns_alternate_when_both_go_on_asking(jobs, clock):
    order = []
    for client in "aabb":
        queue(jobs, client, clock=clock)
    for _ in range(8):
        job = jobs.take()
        order.append(job.client)
        jobs.end(job.id, "done")
        queue(jobs, job.client, clock=clock)
    assert "".join(order) == "abababab"


def test_place_and_time_follow_the_turns(jobs, clock):
    jobs.measured(1000, 100.0)  # 20 frames a second were assumed, 10 measured: 15
    first = queue(jobs, "a", 150, clock)
    second = queue(jobs, "a", 300, clock)
    other = queue(jobs, "b", 450, clock)
    assert jobs.take().id == first
    assert jobs.progress(first, 75)
    assert jobs.place(jobs.get(first)) == (0, pytest.approx(5))
    assert jobs.place(jobs.get(other)) == (1, pytest.approx(5 + 30))
    assert jobs.place(jobs.get(second)) == (2, pytest.approx(5 + 30 + 20))
    assert [jobs.take().id for _ in range(2)] == [other, second]
    jobs.end(first, "done")
    assert jobs.place(jobs.get(first)) is None


def test_a_restart_queues_what_was_running_and_keeps_the_rest(tmp_path, clock):
    jobs = Jobs(tmp_path, 24 * HOUR, HOUR, clock)
    running, waiting, done = (queue(jobs, "a", clock=clock) for _ in range(3))
    assert jobs.take().id == running
    jobs.progress(running, 40)
    jobs.end(done, "done")
    jobs.files("orphan").mkdir()
    secret = jobs.secret("clients")
    jobs.close()  # as a kill leaves it: nothing was put back
    again = Jobs(tmp_path, 24 * HOUR, HOUR, clock)
    states = {id: again.get(id).state for id in (running, waiting, done)}
    assert states == {running: "queued", waiting: "queued", done: "done"}
    assert again.get(running).frames_done == 0
    assert files(again, running) == ["portrait.png", "sound.wav"]
    assert not again.files("orphan").exists()
    assert again.secret("clients") == secret
    assert again.take().id == running
    again.close()


def test_a_job_that_stops_the_server_again_and_again_is_given_up(tmp_path, clock):
    for attempt in range(MOST_ATTEMPTS):
        jobs = Jobs(tmp_path, 24 * HOUR, HOUR, clock)
        if not attempt:
            id = queue(jobs, "a")
        assert jobs.take().id == id
        jobs.close()
    jobs = Jobs(tmp_path, 24 * HOUR, HOUR, clock)
    assert jobs.get(id).state == "failed"
    assert files(jobs, id) == []
    jobs.close()


def test_a_stop_that_was_asked_for_is_no_attempt(jobs):
    id = queue(jobs, "a")
    for _ in range(MOST_ATTEMPTS + 1):
        assert jobs.take().id == id
        jobs.put_back(id)
    assert jobs.get(id).attempts == 0


def test_portrait_and_voice_go_when_a_job_ends_however_it_does(jobs):
    for state in ("done", "failed", "cancelled"):
        id = queue(jobs, "a")
        (jobs.files(id) / "video.mp4").write_bytes(b"video")
        assert jobs.end(id, state)
        assert files(jobs, id) == (["video.mp4"] if state == "done" else [])
        assert not jobs.end(id, "done"), "it has ended"


def test_what_has_expired_is_deleted_and_nothing_before(jobs, clock):
    done, waiting = queue(jobs, "a"), queue(jobs, "b")
    jobs.end(done, "done")
    clock.now += HOUR - 1
    jobs.sweep()
    assert (jobs.get(done).state, jobs.get(waiting).state) == ("done", "queued")
    clock.now += 2
    jobs.sweep()
    assert jobs.get(waiting).state == "failed"
    assert files(jobs, waiting) == [], "uploads are kept for a shorter time than videos"
    clock.now += 23 * HOUR - 2
    jobs.sweep()
    assert jobs.find(done)
    clock.now += 2
    assert jobs.sweep() == 1
    assert jobs.find(done) is None
    assert not jobs.files(done).exists()


def test_a_running_job_does_not_expire(jobs, clock):
    id = queue(jobs, "a")
    jobs.take()
    clock.now += 100 * HOUR
    jobs.sweep()
    assert jobs.get(id).state == "running"


def test_progress_of_what_is_not_wanted_says_so(jobs):
    cancelled, deleted = queue(jobs, "a"), queue(jobs, "a")
    jobs.take(), jobs.take()
    jobs.end(cancelled, "cancelled")
    jobs.delete(deleted)
    assert not jobs.progress(cancelled, 5)
    assert not jobs.progress(deleted, 5)


def test_nothing_of_a_person_is_left_in_the_records_of_what_was_deleted(tmp_path, clock):
    jobs = Jobs(tmp_path, HOUR, HOUR, clock)
    id = queue(jobs, "client-of-somebody")
    jobs.delete(id)
    jobs.sweep()
    jobs.close()
    for path in tmp_path.iterdir():
        if path.is_file():
            assert b"client-of-somebody" not in path.read_bytes()
    base = sqlite3.connect(tmp_path / "jobs.sqlite")
    assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    base.close()


def test_one_server_has_the_folder(jobs, tmp_path):
    with pytest.raises(UserError, match="Another server uses"):
        Jobs(tmp_path, HOUR, HOUR)
