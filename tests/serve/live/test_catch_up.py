"""How far a head comes closer, and when; nothing here waits for the clock."""

import threading
import time

import numpy as np
import pytest

from asymtalker.serve import session as sessions
from asymtalker.serve.session import MARGIN, WATCHED, Session
from asymtalker.serve.sound import Piece
from asymtalker.timeline import SAMPLES_PER_FRAME
from live_calls import LIVE


@pytest.fixture
def still(moving_pipeline, face):
    """A session whose thread has ended, that keeps up; half a second of silence waits, and less than a chunk hears."""
    with Session(moving_pipeline, face, LIVE, keeps_up=True) as session:
        pass
    session._index, session._next, session._needs, session._start = 2, 9, 0.1, time.monotonic() - 9 / 25
    session._early.clear()
    session._sound.placed = session._last_heard(session._next_span()) * SAMPLES_PER_FRAME - 8_000
    session._sound._pieces.clear()
    session._sound.waiting = 0
    session._sound.push(np.zeros(8_000, np.float32), time.monotonic())
    return session


def left_out(session) -> int:
    before = session._sound.waiting
    session._catch_up(session._next_span())
    return before - session._sound.waiting


@pytest.mark.parametrize(
    ("early", "samples"),
    [
        ([0.035] * WATCHED, round((0.035 - (MARGIN - 1) * 0.1) * 16_000)),  # as much as it is early, less the margin
        ([0.5] * (WATCHED - 1) + [0.035], round((0.035 - (MARGIN - 1) * 0.1) * 16_000)),  # the least of them
        ([0.5] * WATCHED, SAMPLES_PER_FRAME),  # a frame at most
        ([0.5] * (WATCHED - 1), 0),  # too few were watched
        ([0.5] * (WATCHED - 1) + [-0.1], 0),  # one was late
        ([0.02] * WATCHED, 0),  # less than is worth it
        ([], 0),
    ],
)
def test_as_much_is_left_out_as_the_last_chunks_were_early(still, early, samples):
    still._early.extend(early)
    assert left_out(still) == samples
    assert len(still._early) == (0 if samples else len(early)), "what was early before says nothing after"


def test_after_a_late_frame_it_stays_where_it_is_for_a_while(still, monkeypatch):
    still._early.extend([0.5] * WATCHED)
    still.latency.late(0.1)
    assert left_out(still) == 0
    monkeypatch.setattr(sessions, "CALM", -1.0)
    assert left_out(still) == SAMPLES_PER_FRAME


def test_where_nothing_is_quiet_nothing_is_forgotten(still):
    still._sound._pieces.clear()
    still._sound._pieces.append(Piece(np.full(8_000, 0.1, np.float32), 0.0, 0.0))
    still._early.extend([0.5] * WATCHED)
    assert left_out(still) == 0
    assert len(still._early) == WATCHED, "the pause that comes is used"


def test_more_sound_than_has_to_wait_makes_a_frame_be_left_out(still):
    still._sound.push(np.zeros(sessions.RESERVE + sessions.BEHIND, np.float32), 0.0)
    assert left_out(still) == 0, "so much may wait"
    still._sound.push(np.zeros(1, np.float32), 0.0)
    assert left_out(still) == SAMPLES_PER_FRAME


def test_what_is_measured_of_a_chunk(still):
    now = time.monotonic()
    still._begun, still._start = now - 0.2, now + 0.3 - still._next / 25
    still._measure()
    assert still._needs == pytest.approx(0.2, abs=0.05)
    assert list(still._early) == [pytest.approx(0.3, abs=0.05)]
    still._index = 1
    still._measure()
    assert len(still._early) == 1, "the first waits for the portrait"
    still._index, still._start = 2, None
    still._measure()
    assert len(still._early) == 1, "nothing is due before anything was shown"


@pytest.mark.parametrize("keeps_up", [True, False])
def test_a_chunk_leaves_out_one_moment_at_most(still, keeps_up):
    still._keeps_up, still._closed = keeps_up, False
    still._sound.push(np.zeros(10 * SAMPLES_PER_FRAME, np.float32), 0.0)
    before = still._sound.waiting + still._sound.placed
    still._ready()
    assert before - still._sound.waiting - still._sound.placed == (SAMPLES_PER_FRAME if keeps_up else 0)


@pytest.mark.parametrize("keeps_up", [True, False])
def test_speech_that_is_far_behind_is_left_out_and_counted(still, keeps_up):
    still._keeps_up, still._closed = keeps_up, False
    still._sound.skip_late(1e9)
    still._sound._due = 0.0
    loud, now = np.full(SAMPLES_PER_FRAME, 0.5, np.float32), time.monotonic()
    for number in range(1_000):  # 40 s, spoken until now
        still._sound.push(loud, now - 40 + number / 25)
    before = still._sound.waiting + still._sound.placed
    still._ready()
    lost = before - still._sound.waiting - still._sound.placed
    assert lost / 16_000 == pytest.approx(35 if keeps_up else 0, abs=0.1)
    assert still.latency.report().lost == pytest.approx(lost / 16_000)


def test_after_a_moment_is_left_out_sound_is_waited_for_again(still):
    still._closed = still._finished = False
    still._start = time.monotonic() + 60
    still._early.extend([0.5] * WATCHED)
    ready = threading.Thread(target=still._ready, daemon=True)
    ready.start()
    ready.join(0.5)
    assert ready.is_alive(), "a frame of what the chunk hears is still to come"
    still.push(np.zeros(SAMPLES_PER_FRAME, np.float32))
    ready.join(5)
    assert not ready.is_alive()
