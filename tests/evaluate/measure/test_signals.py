"""Curves that are made with known drift, seams, motion and blinks give these back."""

import numpy as np
import pytest

from asymtalker.evaluate.measure.signals import (
    blink_times,
    chunk_boundaries,
    colour_drift,
    drift,
    head_motion,
    head_slides,
    motion_diversity,
    per_second,
    seams,
    slide_at_seams,
)


def test_drift_is_the_slope_per_minute_and_finds_the_first_second_below():
    times = np.arange(0, 120, 0.2)
    noise = 0.02 * np.random.default_rng(0).normal(size=len(times))
    found = drift(times, 0.9 - 0.3 * times / 60 + noise, threshold=0.6)
    assert found.per_minute == pytest.approx(-0.3, abs=0.005)
    assert found.mean == pytest.approx(0.6, abs=0.01)
    assert 58 <= found.first_lost <= 62
    late = times >= 1  # a real clip begins with its portrait, which is no drift
    fitted = np.polyfit(times[late] / 60, (0.9 - 0.3 * times / 60 + noise)[late], 1)[0]
    assert fitted == pytest.approx(found.per_minute)
    jump = np.where(late, 0.8, 1.0)
    assert drift(times, jump, threshold=0.6).per_minute == pytest.approx(0)


def test_a_steady_curve_never_falls_below_and_a_short_one_has_no_slope():
    steady = drift(np.arange(0, 10, 0.2), np.full(50, 0.8), threshold=0.4)
    assert steady.per_minute == pytest.approx(0)
    assert np.isnan(steady.first_lost)
    assert np.isnan(drift(np.array([0.0, 0.2]), np.array([0.8, 0.7]), 0.4).per_minute)


def test_per_second_means_are_means_of_what_each_second_has():
    seconds, means = per_second(np.array([0.1, 0.9, 3.2]), np.array([[1.0, 2], [3, 4], [5, 6]]))
    assert seconds.tolist() == [0, 3]
    assert means.tolist() == [[2, 3], [5, 6]]


def test_colour_drift_is_the_distance_in_lab_and_the_ratio_of_contrast():
    lab = np.tile(np.array([50, 0, 0, 3, 4, 0.0]), (75, 1))
    lab[50:, :3] += [3, 4, 0]
    lab[50:, 3:] *= 2
    seconds, distance, contrast = colour_drift(lab)
    assert seconds.tolist() == [0, 1, 2]
    np.testing.assert_allclose(distance, [0, 0, 5])
    np.testing.assert_allclose(contrast, [1, 1, 2])


def test_seams_compare_the_frames_that_begin_a_chunk_with_all_others():
    rng = np.random.default_rng(1)
    change = 1 + 0.1 * rng.random(300)
    lab = np.cumsum(rng.choice([-0.1, 0.1], size=(300, 6)), axis=0)
    boundaries = chunk_boundaries(300, 81, 76)
    assert boundaries == [81, 157, 233]
    found = seams(change, lab, boundaries)
    assert found
    assert found.motion == pytest.approx(1, abs=0.1)
    assert found.colour == pytest.approx(1, abs=0.1)
    change[boundaries] = 4.2
    for frame in boundaries:
        lab[frame:, 0] += 10
    found = seams(change, lab, boundaries)
    assert found
    assert found.motion == pytest.approx(4, abs=0.2)
    assert found.colour > 20


def test_a_head_that_slides_past_a_seam_is_seen_there_and_not_elsewhere():
    """By 12% of the eyes' distance in five frames, in 400 frames of slow sway; no single step is large."""
    boundaries = chunk_boundaries(400, 73, 68)
    eyes = np.zeros((400, 3))
    eyes[:, 0] = 200 + 8 * np.sin(np.arange(400) / 12)
    eyes[:, 2] = 100
    even = head_slides(eyes, boundaries)
    assert even
    assert even[0] / even[1] == pytest.approx(1, abs=0.5)
    still = np.tile([200.0, 100, 100], (400, 1))
    for number, frame in enumerate(boundaries):
        way = 12 * (-1) ** number * np.minimum(np.arange(400 - frame) + 1, 5) / 5
        eyes[frame:, 1] += way
        still[frame:, 1] += way
    slid = head_slides(eyes, boundaries)
    assert slid
    assert slid[0] == pytest.approx(0.12, rel=0.1)
    assert slid[1] == even[1]
    assert head_slides(3 * eyes, boundaries) == pytest.approx(slid), "sizes of pictures count"
    assert head_slides(eyes[:78], boundaries) == pytest.approx(slid, rel=0.5)
    assert head_slides(eyes[:77], boundaries) is None, "too few frames after the only seam"
    assert head_slides(eyes[:12], [4]) is None, "nothing but the seam"
    assert slide_at_seams(eyes, boundaries) == pytest.approx(slid[0] / slid[1])
    assert head_slides(still, boundaries) == (pytest.approx(0.12), 0), "not the frames that begin a chunk to the last"
    assert slide_at_seams(still, boundaries) == pytest.approx(120), "a head that stands still elsewhere"
    still[boundaries[1] :, 1] += 500  # one seam of five is far worse
    still[boundaries[2] :, 1] -= 500
    assert head_slides(still, boundaries)[0] < 1
    first = np.tile([200.0, 100, 100], (60, 1))
    first[1:, 0] += 10
    assert head_slides(first, [1, 40])[0] == pytest.approx(0.05), "a seam after the first frame is one"
    assert head_slides(first, [2, 40])[1] == 0
    grown = still.copy()
    for frame in boundaries:
        grown[frame:, 2] += 1
    assert head_slides(grown, boundaries)[0] == pytest.approx(head_slides(still, boundaries)[0], rel=0.1)
    found = seams(np.ones(400), np.zeros((400, 6)), boundaries, eyes)
    assert found
    assert found.head == slide_at_seams(eyes, boundaries)


def test_chunks_of_another_frame_rate_do_not_wander_off():
    """Of a system that makes 24 frames a second: 21, then 32 at a time."""
    boundaries = chunk_boundaries(15_000, 21 * 25 / 24, 32 * 25 / 24)
    assert boundaries[:3] == [22, 55, 89]
    last = len(boundaries) - 1
    assert abs(boundaries[-1] - (21 + 32 * last) * 25 / 24) <= 0.5
    assert chunk_boundaries(50, 81, 76) == []


def test_a_clip_of_one_chunk_or_one_that_stands_still_has_no_seam():
    lab = np.random.default_rng(2).random((50, 6))
    assert seams(np.ones(50), lab, chunk_boundaries(50, 81, 76)) is None
    assert seams(np.zeros(100), np.zeros((100, 6)), chunk_boundaries(100, 81, 76)) is None


def test_a_picture_that_freezes_between_its_seams_has_the_worst_ones():
    boundaries = chunk_boundaries(400, 81, 76)
    change = np.zeros(400)
    change[boundaries] = 6
    found = seams(change, np.zeros((400, 6)), boundaries)
    assert found
    assert found.motion
    assert found.motion > 100
    assert found.colour is None


def test_head_motion_is_in_degrees_and_diversity_tells_copies_from_others():
    time = np.arange(500) / 25
    nod = np.stack([0 * time, 10 * np.sin(2 * np.pi * time), 0 * time], 1)
    shake = nod[:, [1, 0, 2]]
    assert head_motion(nod) == pytest.approx(10 / np.sqrt(2), rel=1e-3)
    assert head_motion(nod + np.array([5, 0, 0])) == pytest.approx(head_motion(nod))
    assert motion_diversity([nod, nod[:400]]) == pytest.approx(0, abs=1e-6)
    assert motion_diversity([nod, shake]) == pytest.approx(10, rel=1e-3)
    assert np.isnan(motion_diversity([nod]))


def test_blinks_are_counted_and_a_long_look_down_is_none():
    opening = np.full(500, 0.30)
    for start in (50, 200, 333):
        opening[start : start + 6] = [0.20, 0.10, 0.04, 0.04, 0.10, 0.17]
    opening[400:450] = 0.1
    assert blink_times(opening).tolist() == [51 / 25, 201 / 25, 334 / 25]  # 0.20 is not yet under 0.6 of 0.30
    assert len(blink_times(np.full(100, 0.05))) == 0
