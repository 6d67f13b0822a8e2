"""Sound that is pushed gets its place on the time axis whole, in order, and as late as it must."""

import numpy as np
import pytest

from asymtalker.serve.latency import Latency
from asymtalker.serve.sound import LiveSound

FRAME = 640


def ramp(count: int, first: int = 1) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32) / 2**20


@pytest.fixture
def sound() -> LiveSound:
    return LiveSound()


def test_silence_is_put_in_where_nothing_has_come(sound):
    sound.advance(3 * FRAME)
    assert sound.placed == 3 * FRAME
    assert not sound.read(0, 3 * FRAME).any()
    assert sound.num_samples is None


def test_after_silence_sound_begins_late_and_then_goes_on_unbroken(sound):
    sound.push(ramp(1_000), 0.0)
    sound.advance(2_000, reserve=100)  # 1,000 are missing and 100 are held back
    assert not sound.read(0, 1_100).any()
    assert np.array_equal(sound.read(1_100, 2_000), ramp(900))
    assert sound.waiting == 100
    sound.push(ramp(400, 1_001), 1.0)
    sound.advance(2_300)
    assert np.array_equal(sound.read(2_000, 2_300), ramp(300, 901))
    sound.advance(2_900)
    assert np.array_equal(sound.read(2_300, 2_500), ramp(200, 1_201))
    assert not sound.read(2_500, 2_900).any(), "what has not come by then is silence"
    assert sound.said == 2_500


def test_it_ends_without_silence(sound):
    sound.push(ramp(1_000), 0.0)
    sound.ended = True
    sound.advance(5_000)
    assert sound.placed == sound.num_samples == 1_000
    assert np.array_equal(sound.read(0, 1_000), ramp(1_000))


def test_what_is_cut_is_gone(sound):
    sound.push(ramp(3_000), 0.0)
    sound.advance(2_000)
    sound.cut(1_500)
    assert (sound.placed, sound.waiting) == (1_500, 0)
    sound.push(ramp(500, 9_000), 1.0)
    sound.advance(2_500)
    assert np.array_equal(sound.read(0, 1_500), ramp(1_500))
    assert not sound.read(1_500, 2_000).any()
    assert np.array_equal(sound.read(2_000, 2_500), ramp(500, 9_000))


def test_what_is_forgotten_is_silent_and_the_rest_stays(sound):
    sound.push(ramp(3_000), 0.0)
    sound.advance(3_000)
    sound.forget(1_000)
    assert len(sound._held) == 2_000
    assert np.array_equal(sound.read(900, 1_100), np.concatenate([np.zeros(100, np.float32), ramp(100, 1_001)]))
    sound.push(ramp(100, 3_001), 0.0)
    sound.advance(3_100)
    assert np.array_equal(sound.read(2_900, 3_100), ramp(200, 2_901))


def test_quiet_moments_are_left_out_and_loud_ones_are_not(sound):
    sound.push(np.zeros(1_000, np.float32), 0.0)
    sound.push(np.full(1_000, 0.5, np.float32), 0.0)
    assert sound.skip_quiet(640) == 640
    assert sound.skip_quiet(640) == 360
    assert sound.skip_quiet(640) == 0
    assert sound.waiting == 1_000
    sound.advance(1_000)
    assert (sound.read(0, 1_000) == 0.5).all()


def test_what_should_long_have_been_heard_is_left_out_and_what_came_early_is_not(sound):
    for number in range(10):  # as it is spoken
        sound.push(ramp(1_600, 1 + 1_600 * number), 100 + number / 10)
    assert sound.skip_late(100.0) == 0
    assert sound.skip_late(100.25) == 4_000
    assert sound.skip_late(100.25) == 0
    assert sound.waiting == 12_000
    sound.advance(2_000)
    assert np.array_equal(sound.read(0, 2_000), ramp(2_000, 4_001))
    assert sound.skip_late(200.0) == 10_000
    assert sound.waiting == 0
    sound.push(ramp(160_000), 300.0)  # all at once
    assert sound.skip_late(305.0) == 80_000, "the rest could not have been heard by then"
    sound.cut(0)
    sound.push(ramp(1_600), 301.0)
    assert sound.skip_late(301.05) == pytest.approx(800, abs=1), "what was cut is not waited for"


def test_when_a_frame_came_is_known(sound):
    sound.push(ramp(FRAME + 10), 5.0)
    sound.push(ramp(FRAME), 6.0)
    sound.advance(4 * FRAME)  # silence first
    first = 4 * FRAME - (2 * FRAME + 10)
    assert sound.came(0) is None
    assert sound.came(-(-first // FRAME)) == 5.0
    assert sound.came(3) == 6.0


def test_latency_counts_from_when_a_frame_could_be_shown():
    latency = Latency()
    for number in range(100):
        latency.shown(10.0, 10.5 + number / 25)  # all came at once
    assert latency.report().median == pytest.approx(0.5)
    latency.shown(None, 20.0)
    for number in range(300):
        latency.shown(30 + number / 25, 30.3 + number / 25)  # came as it was spoken
    report = latency.report()
    assert report.median == pytest.approx(0.3)
    assert report.p95 == pytest.approx(0.5)
    assert report.plain()["median"] == 300
