import cv2
import numpy as np
import pytest

from asymtalker.dataset.corpus import open_clip
from asymtalker.evaluate.measure.readings import READINGS, MeshReadings, readings_of
from drawn_face import background, drawn_clip


def column(readings: np.ndarray, name: str) -> np.ndarray:
    return readings[:, READINGS.index(name)]


def test_a_drawn_face_is_read_in_blocks_as_at_once():
    frames = np.asarray(drawn_clip(0).frames)
    whole, parts = MeshReadings(), MeshReadings()
    whole.add(frames)
    for start in range(0, len(frames), 7):
        parts.add(frames[start : start + 7])
    readings = whole.finish()["readings"]
    for name, values in parts.finish().items():
        np.testing.assert_array_equal(values, whole.finish()[name], err_msg=name)
    assert readings.shape == (60, len(READINGS))
    assert readings.dtype == np.float32
    assert np.isfinite(readings).all()
    assert (column(readings, "jawOpen") >= 0).all()


def test_eyes_are_where_the_picture_has_them():
    frame = np.asarray(drawn_clip(0).frames)[0]
    measured = MeshReadings()
    measured.add(
        np.stack([frame, np.roll(frame, (6, 10), (0, 1)), cv2.resize(frame, None, fx=2, fy=2)[80:240, 80:240]])
    )
    eyes = measured.finish()["eyes"]
    assert eyes[1] - eyes[0] == pytest.approx([10, 6, 0], abs=1)
    assert eyes[2, :2] == pytest.approx(2 * eyes[0, :2] - 80, abs=2)
    assert eyes[2, 2] == pytest.approx(2 * eyes[0, 2], rel=0.03)


def test_where_no_face_is_found_readings_go_on():
    frames = np.asarray(drawn_clip(0).frames)[:8].copy()
    frames[[0, 4, 7]] = background(160, 160)
    measured = MeshReadings()
    measured.add(frames)
    readings = measured.finish()["readings"]
    np.testing.assert_array_equal(readings[0], readings[1])
    np.testing.assert_array_equal(readings[7], readings[6])
    assert readings[4] == pytest.approx((readings[3] + readings[5]) / 2, abs=1e-4)
    nothing = MeshReadings()
    nothing.add(frames[:1])
    assert nothing.finish() == {}


def test_ground_truth_has_the_names_of_readings(drawn_corpus):
    about = open_clip(drawn_corpus, "drawn0").info["ground_truth"]
    truth = readings_of(about)
    assert truth.values.shape == (60, len(truth.names))
    assert set(truth.names) < set(READINGS)
    assert truth.phonemes == []
    assert readings_of(about | {"phonemes": [["p", 0, 0.08]]}).phonemes == [("p", 0.0, 0.08)]
