"""A live session shows what generation makes, in order and in time, goes on in silence, and can be interrupted."""

import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from asymtalker.config import LiveConfig
from asymtalker.errors import UserError
from asymtalker.serve import session as sessions
from asymtalker.serve.session import Moment, Session

LIVE = LiveConfig(frames=9, new=4, ahead=2, steps=1)
FRAME = 640


def everything(session: Session) -> list[Moment]:
    return list(session.moments())


def said(pipeline, face, samples, live=LIVE, pieces=(10**9,), **options) -> list[Moment]:
    """All moments of a session that is told samples in pieces, as quickly as they are made."""
    with Session(pipeline, face, live, paced=False, **options) as session:

        def tell():
            at = 0
            while at < len(samples):
                size = pieces[at % len(pieces)]
                session.push(samples[at : at + size])
                at += size
            session.end()

        teller = threading.Thread(target=tell)
        teller.start()
        moments = everything(session)
        teller.join()
    return moments


def pictures(moments) -> np.ndarray:
    return np.stack([moment.picture for moment in moments])


def test_with_a_files_chunks_it_is_the_files_video(moving_pipeline, face, picture, speech):
    options = {"crop": True, "size": (96, 96), "seed": 3}
    offline = np.concatenate(list(moving_pipeline.stream(picture, (speech, 16_000), **options)))
    for pieces in ((10**9,), (1_000, 333, 7_777)):
        moments = said(moving_pipeline, face, speech, live=None, pieces=pieces)
        assert np.array_equal(pictures(moments), offline)
    other = np.concatenate(list(moving_pipeline.stream(picture, (speech, 16_000), **options | {"seed": 4})))
    assert not np.array_equal(other, offline)


def test_live_frames_do_not_depend_on_how_the_sound_comes(moving_pipeline, face, speech):
    whole = said(moving_pipeline, face, speech)
    pieces = said(moving_pipeline, face, speech, pieces=(1_000, 333, 7_777))
    assert np.array_equal(pictures(whole), pictures(pieces))
    assert [moment.number for moment in whole] == list(range(48))
    sound = np.concatenate([moment.sound for moment in whole])
    assert np.array_equal(sound[: len(speech)], speech)
    assert not sound[len(speech) :].any()


@pytest.mark.parametrize("begins", [26, 27])
def test_nothing_is_heard_before_its_time_and_all_of_it_then(moving_pipeline, face, speech, begins):
    """The chunk of frames 21 to 24 hears two frames more, 25 and 26."""
    late = np.concatenate([np.zeros(begins * FRAME, np.float32), speech])
    one, other = (pictures(said(moving_pipeline, face, samples)) for samples in (late, 0 * late))
    first = {26: 21, 27: 25}[begins]
    assert np.array_equal(one[:first], other[:first])
    assert not np.array_equal(one[first : first + 4], other[first : first + 4])
    for frame in (30, 40, 60):
        assert not np.array_equal(one[frame], other[frame])


def test_what_is_shown_is_marked(moving_pipeline, face, speech):
    plain = pictures(said(moving_pipeline, face, speech[:9_600]))
    assert np.array_equal(pictures(said(moving_pipeline, face, speech[:9_600], mark=np.invert)), ~plain)


def paced(pipeline, face, **options) -> Session:
    return Session(pipeline, face, LIVE, **options)


def test_in_silence_it_goes_on_and_keeps_time(moving_pipeline, face):
    with paced(moving_pipeline, face) as session:
        began = time.monotonic()
        times, shown = [], []
        for moment in session.moments():
            times.append(time.monotonic() - began)
            shown.append(moment)
            if len(shown) == 40:
                break
    assert [moment.number for moment in shown] == list(range(40))
    assert not any(moment.sound.any() for moment in shown)
    assert len({moment.picture.tobytes() for moment in shown}) > 30, "it moves"
    late = session.latency.report().stalled
    assert times[-1] - times[0] == pytest.approx(39 / 25 + late, abs=0.1)
    assert min(np.diff(times)[1:]) >= 0


def test_sound_is_played_whole_and_once_with_its_frames(moving_pipeline, face, speech):
    """Pushed at once, as a voice agent does, amid silence."""
    with paced(moving_pipeline, face) as session:
        moments = [session.take() for _ in range(15)]
        session.push(speech)
        while session.speaking:
            moments.append(session.take())
    sound = np.concatenate([moment.sound for moment in moments])
    first = int(np.flatnonzero(sound)[0]) - int(np.flatnonzero(speech)[0])
    assert np.array_equal(sound[first : first + len(speech)], speech)
    assert not sound[:first].any()
    median = session.latency.report().median
    assert median is not None
    assert median > 0


def test_speech_that_comes_as_it_is_spoken_goes_on_unbroken(moving_pipeline, face, speech):
    samples = np.tile(speech, 2)
    with paced(moving_pipeline, face, keeps_up=True) as session:

        def speak():
            start = time.monotonic()
            for at in range(0, len(samples), 320):
                time.sleep(max(0.0, start + at / 16_000 - time.monotonic()))
                session.push(samples[at : at + 320])

        speaker = threading.Thread(target=speak)
        moments = [session.take() for _ in range(10)]
        speaker.start()
        moments += [session.take() for _ in range(110)]
        speaker.join()
    sound = np.concatenate([moment.sound for moment in moments])
    heard = np.flatnonzero(sound)
    expected = np.flatnonzero(samples)
    inside = sound[heard[0] : heard[-1] + 1]
    assert len(heard) == len(expected)
    assert abs(len(inside) - (expected[-1] - expected[0] + 1)) <= (session.latency.report().stalled + 0.1) * 16_000


def test_a_session_that_keeps_up_leaves_out_silence_and_nothing_else(moving_pipeline, face, speech):
    samples = np.concatenate([np.zeros(60 * FRAME, np.float32), speech + 0.01])
    moments = said(moving_pipeline, face, samples, keeps_up=True)
    sound = np.concatenate([moment.sound for moment in moments])
    assert len(moments) < 60 + 48 - 5
    first = int(np.flatnonzero(sound)[0])
    assert np.array_equal(sound[first : first + len(speech)], samples[60 * FRAME :])
    assert len(said(moving_pipeline, face, samples)) == 60 + 48


@pytest.mark.parametrize("keeps_up", [True, False])
def test_a_session_that_began_too_far_behind_comes_closer_in_a_pause(
    moving_pipeline, face, speech, keeps_up, monkeypatch
):
    """Chunks that are taken to need a second begin a second too soon, so that speech is shown a second too late."""
    monkeypatch.setattr(sessions, "FIRST_GUESS", 1.0)
    monkeypatch.setattr(sessions, "WATCHED", 2)
    monkeypatch.setattr(sessions, "CALM", -1.0)  # a busy machine is late now and then
    words = speech[: 10 * FRAME] + np.float32(0.02)
    samples = np.concatenate([words, np.zeros(50 * FRAME, np.float32), words])
    with paced(moving_pipeline, face, keeps_up=keeps_up) as session:
        looked = threading.Thread(target=lambda: moments.extend(session.moments()))
        moments: list[Moment] = []
        looked.start()
        start = time.monotonic()
        for at in range(0, len(samples), 320):
            time.sleep(max(0.0, start + at / 16_000 - time.monotonic()))
            session.push(samples[at : at + 320])
        session.end()
        looked.join()
    sound = np.concatenate([moment.sound for moment in moments])
    heard = np.flatnonzero(sound)
    assert len(heard) == 2 * len(words), "nothing that is said is left out"
    first, second = heard[0], heard[len(words)]
    assert np.array_equal(sound[first : first + len(words)], words)
    assert np.array_equal(sound[second : second + len(words)], words)
    pause = second - first - len(words)
    assert pause <= 47 * FRAME if keeps_up else pause == 50 * FRAME


def test_interrupted_it_falls_silent_at_once_and_goes_on_from_what_is_seen(moving_pipeline, face, speech):
    loud = (0.4 * np.sin(np.arange(160_000) / 15)).astype(np.float32)
    with paced(moving_pipeline, face) as session:
        session.push(loud)
        moments = [session.take() for _ in range(30)]
        session.interrupt()
        moments += [session.take() for _ in range(30)]
        assert not session.speaking
        session.push(speech)
        moments += [session.take() for _ in range(70)]
    assert [moment.number for moment in moments] == list(range(130))
    assert moments[29].sound.any()
    assert not any(moment.sound.any() for moment in moments[31:60]), "a frame fades, then there is silence"
    again = np.concatenate([moment.sound for moment in moments[60:]])
    first = int(np.flatnonzero(again)[0]) - int(np.flatnonzero(speech)[0])
    assert np.array_equal(again[first : first + len(speech)], speech)
    changes = [np.abs(b.picture.astype(int) - a.picture).mean() for a, b in pairwise(moments)]
    assert max(changes[28:45]) < 3 * max(changes[:28]), "nothing jumps"


@pytest.mark.parametrize("shown", [0, 1, 3, 6])
def test_it_can_be_interrupted_at_its_very_beginning(moving_pipeline, face, speech, shown):
    with paced(moving_pipeline, face) as session:
        session.push(speech)
        moments = [session.take() for _ in range(shown)]
        session.interrupt()
        moments += [session.take() for _ in range(25)]
    assert [moment.number for moment in moments] == list(range(25 + shown))
    assert not any(moment.sound.any() for moment in moments[shown + 1 :])


def test_what_is_kept_does_not_grow(moving_pipeline, face, speech):
    with Session(moving_pipeline, face, LIVE, paced=False) as session:
        for _ in range(5):
            session.push(speech)
            for _ in range(44):
                session.take()
        assert len(session._sound._held) < 80 * FRAME
        assert len(session._made) <= 2 * LIVE.new + 9


def test_sound_that_nobody_hears_yet_is_bounded(moving_pipeline, face, monkeypatch):
    monkeypatch.setattr(sessions, "MOST_WAITING", 1.0)
    with paced(moving_pipeline, face) as session:
        session.push(np.zeros(40_000, np.float32))
        assert not session.room()
        began = session.seconds
        teller = threading.Thread(target=session.push, args=(np.zeros(16_000, np.float32),))
        teller.start()
        for _ in session.moments():
            if not teller.is_alive():
                break
        assert session.seconds > began + 0.5
    with pytest.raises(UserError, match="has ended"):
        session.push(np.zeros(10, np.float32))


def test_sessions_share_a_model_fairly(moving_pipeline, face, speech):
    """Three at once show what each shows alone, and none waits until another is done."""
    alone = pictures(said(moving_pipeline, face, speech))
    done, results = [], {}

    def run(name):
        results[name] = pictures(said(moving_pipeline, face, speech))
        done.append(time.monotonic())

    threads = [threading.Thread(target=run, args=(name,)) for name in range(3)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(made, alone) for made in results.values())
    assert min(done) - began > 0.5 * (max(done) - began)


def test_bad_input_is_refused_in_one_sentence(moving_pipeline, face):
    with paced(moving_pipeline, face) as session:
        for bad in (np.zeros((2, 5), np.float32), np.zeros(5, np.int16), np.full(5, np.nan, np.float32)):
            with pytest.raises(UserError, match="finite floats"):
                session.push(bad)
    with pytest.raises(UserError, match="face"):
        Session(moving_pipeline, replace(face, image=np.zeros((128, 128, 3), np.uint8)))


def test_what_goes_wrong_in_its_thread_is_raised_where_it_is_seen(moving_pipeline, face, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(sessions.Session, "frames", fail)
    with paced(moving_pipeline, face) as session, pytest.raises(RuntimeError, match="out of order"):
        session.take()
