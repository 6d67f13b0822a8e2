"""Known arrays in, known metrics out."""

import numpy as np
import pytest

from asymtalker.evaluate.measure import summary
from asymtalker.evaluate.measure.features import Measured
from asymtalker.evaluate.measure.metrics import METRICS
from asymtalker.evaluate.measure.readings import READINGS, Truth
from asymtalker.evaluate.measure.summary import not_measured, summarize
from asymtalker.models.sync import sync_score
from asymtalker.timeline import FPS

MOVING = ("lip_aperture", "yaw", "pitch", "roll", "jawOpen", "lidsRight", "lidsLeft")


def speaking(seed: int, seconds: float = 12.0) -> np.ndarray:
    """Readings of a face that talks, turns and blinks."""
    rng = np.random.default_rng(seed)
    count = round(seconds * FPS)
    smooth = [np.convolve(rng.normal(size=count + 8), np.ones(9) / 9, mode="valid") for _ in range(5)]
    lids = np.full(count, 0.3)
    lids[30:34] = 0.05
    columns = [np.abs(smooth[0]), 5 * smooth[1], 5 * smooth[2], smooth[3], np.abs(smooth[0]), lids, lids]
    readings = np.zeros((count, len(READINGS)), np.float32)
    readings[:, [READINGS.index(name) for name in MOVING]] = np.stack(columns, 1)
    return readings


def clip(seed: int, seconds: float = 12.0, **more: np.ndarray) -> Measured:
    rng = np.random.default_rng(seed)
    count = round(seconds * FPS)
    arrays = {
        "frames": np.array(count),
        "found": np.ones(count, bool),
        "change": 1 + 0.1 * rng.random(count).astype(np.float32),
        "lab": (50 + rng.random((count, 6))).astype(np.float32),
        "readings": speaking(seed, seconds),
        "delay": np.array(0.0),
        "expressions": rng.normal(size=(-(-count // 5), 6)).astype(np.float32),
    }
    return Measured(arrays | more, [])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_readings_that_are_the_truth_score_full_marks_and_those_of_others_none():
    clips = {f"c{seed}": clip(seed) for seed in range(6)}
    truths = {name: Truth(READINGS, measured.arrays["readings"]) for name, measured in clips.items()}
    found = summarize(clips, None, truths, [5])
    assert found.values["lip_correlation"].value == pytest.approx(1)
    assert found.values["blendshape_error"].value == pytest.approx(0)
    assert found.values["pose_error"].value == pytest.approx(0)
    assert found.values["lip_amplitude"].value == pytest.approx(1)
    assert abs(found.values["lip_correlation_shuffled"].value) < 0.4
    assert found.values["blinks"].value == pytest.approx(5)  # one in twelve seconds
    assert found.values["head_diversity"].value > 1
    assert found.values["lip_correlation"].samples == 6
    assert found.clips["c0"]["seconds"] == 12


def test_a_late_mouth_a_turned_head_and_another_face_move_their_own_metric_alone():
    clips = {f"c{seed}": clip(seed) for seed in range(4)}
    truths = {name: Truth(READINGS, measured.arrays["readings"]) for name, measured in clips.items()}
    late = {name: clip(int(name[1:]), readings=np.roll(truths[name].values, 5, axis=0)) for name in clips}
    found = summarize(late, None, truths, [5])
    assert found.values["lip_lag"].value == 5
    assert found.values["lip_correlation"].value == pytest.approx(1)
    swing = np.zeros((300, len(READINGS)))
    swing[:, [READINGS.index("yaw"), READINGS.index("pitch")]] = np.where(np.arange(300) % 2, 1, -1)[:, None] * (3, 4)
    turned = {name: clip(int(name[1:]), readings=truths[name].values + swing) for name in clips}
    found = summarize(turned, None, truths, [5])
    assert found.values["pose_error"].value == pytest.approx(5, rel=1e-4)
    assert found.values["lip_correlation"].value == pytest.approx(1)


def test_lips_that_move_half_as_far_and_never_shut_are_seen():
    mumbling = speaking(0)
    mumbling[:, 0] = 0.5 * mumbling[:, 0] + 0.1
    truth = Truth(READINGS, speaking(0), [("p", 1.0, 1.1), ("a", 1.1, 1.2), ("m", 3.0, 3.1)])
    row = summarize({"c": clip(0, readings=mumbling)}, None, {"c": truth}, [5]).clips["c"]
    assert row["lip_correlation"] == pytest.approx(1)
    assert row["lip_amplitude"] == pytest.approx(0.5)
    assert row["lip_closures"] == 0
    mumbling[[26, 76], 0] = 0
    assert summarize({"c": clip(0, readings=mumbling)}, None, {"c": truth}, [5]).clips["c"]["lip_closures"] == 1


def test_sharpness_is_that_of_most_frames_over_the_portraits():
    sharp = {"sharpness": np.array([8.0, 6.0, np.nan, 6.0, 1.0]), "portrait_sharpness": np.array(12.0)}
    found = summarize({"c": clip(0, **sharp), "without": clip(1)}, None, {}, [5]).values["sharpness"]
    assert (found.value, found.samples) == (0.5, 1)


def test_lips_are_timed_by_the_sound_beside_them():
    clips = {f"c{seed}": clip(seed) for seed in range(3)}
    truths = {name: Truth(READINGS, measured.arrays["readings"]) for name, measured in clips.items()}
    late_sound = {name: clip(int(name[1:]), delay=np.array(0.2)) for name in clips}
    found = summarize(late_sound, None, truths, [5])
    assert found.values["lip_lag"].value == -5  # the lips are 200 ms early
    both_late = {
        name: clip(int(name[1:]), delay=np.array(0.2), readings=np.roll(truths[name].values, 5, axis=0))
        for name in clips
    }
    found = summarize(both_late, None, truths, [5])
    assert found.values["lip_lag"].value == 0
    assert found.values["lip_correlation"].value == pytest.approx(1)


def test_identity_that_is_lost_halfway_is_seen_in_every_number_of_it():
    rng = np.random.default_rng(0)
    portrait, stranger = unit(rng.normal(size=(2, 512)))
    frames = np.arange(0, 300, 5)
    kept = np.tile(portrait, (60, 1))
    swapped = kept.copy()
    swapped[30:] = stranger
    clips = {
        "kept": clip(0, identity=kept, identity_frames=frames, portrait=portrait),
        "swapped": clip(1, identity=swapped, identity_frames=frames, portrait=portrait),
    }
    found = summarize(clips, None, {}, [5])
    assert found.values["identity_lost"].value == 0.5
    assert found.clips["swapped"]["identity_first_lost"] == 6
    assert found.clips["kept"]["identity_first_lost"] is None
    assert found.clips["swapped"]["identity_drift"] < -3
    assert found.curves["identity"]["x"] == list(range(12))
    assert found.curves["identity"]["y"][0] == pytest.approx(1)
    assert found.curves["identity"]["y"][-1] == pytest.approx(0.5, abs=0.05)


def test_a_person_who_is_never_seen_is_lost():
    portrait = unit(np.random.default_rng(0).normal(size=512))
    nothing = {"identity": np.zeros((0, 512)), "identity_frames": np.zeros(0, int), "portrait": portrait}
    kept = {"identity": np.tile(portrait, (60, 1)), "identity_frames": np.arange(0, 300, 5), "portrait": portrait}
    clips = {"kept": clip(0, **kept), "never": clip(1, found=np.zeros(1, bool), **nothing)}
    found = summarize(clips, None, {}, [5])
    assert found.values["identity_lost"].value == 0.5
    assert found.values["identity_lost"].samples == 2
    assert found.clips["never"]["identity_first_lost"] == 0
    assert found.values["identity"].samples == 1


def test_a_short_neighbour_takes_nothing_from_a_clip():
    clips = {"long": clip(0), "short": clip(1, seconds=0.4)}
    truths = {name: Truth(READINGS, measured.arrays["readings"]) for name, measured in clips.items()}
    found = summarize(clips, None, truths, [5])
    assert found.clips["long"]["lip_correlation"] == pytest.approx(1)
    assert "lip_correlation_shuffled" not in found.clips["long"]
    assert "not held against the real clip" in found.clips["short"]["notes"][0]


def test_a_clip_in_which_no_blendshape_moves_has_no_error_of_them():
    clips = {f"c{seed}": clip(seed) for seed in range(2)}
    truths = {name: Truth(READINGS, measured.arrays["readings"]) for name, measured in clips.items()}
    still = truths["c1"].values.copy()
    still[:, READINGS.index("jawOpen")] = 0
    found = summarize(clips, None, truths | {"c1": Truth(READINGS, still)}, [5])
    assert found.values["blendshape_error"].samples == 1
    assert found.values["lip_correlation"].samples == 2


def test_distance_from_the_portrait_is_lost_upwards():
    portrait, stranger = np.zeros(128), np.full(128, 0.8 / 128**0.5)
    frames = np.arange(0, 250, 25)
    moved = np.stack([portrait] * 6 + [stranger] * 4)
    clips = {
        "kept": clip(0, face=np.stack([portrait] * 10), face_frames=frames, portrait_face=portrait),
        "swapped": clip(1, face=moved, face_frames=frames, portrait_face=portrait),
    }
    found = summarize(clips, None, {}, [5])
    assert found.values["face_distance"].value == pytest.approx(0.16)
    assert found.values["face_distance_lost"].value == 0.5
    assert found.clips["swapped"]["face_distance_first_lost"] == 6
    assert found.clips["kept"]["face_distance_drift"] == 0
    assert found.clips["swapped"]["face_distance_drift"] == pytest.approx(
        60 * np.polyfit(range(1, 10), [0] * 5 + [0.8] * 4, 1)[0]
    )
    assert found.curves["face_distance"]["y"] == pytest.approx([0] * 6 + [0.4] * 4)


def test_a_face_that_vanishes_for_a_second_is_lost():
    rng = np.random.default_rng(0)
    portrait = unit(rng.normal(size=512))
    found = np.ones(300, bool)
    found[110:160] = False  # the sixth second, whole, and parts of its neighbours
    frames = np.flatnonzero(found)[::5]
    known = {"identity": np.tile(portrait, (len(frames), 1)), "identity_frames": frames, "portrait": portrait}
    values = summarize({"c": clip(0, found=found, **known)}, None, {}, [5])
    assert values.values["identity_lost"].value == 1
    assert values.clips["c"]["identity_first_lost"] == 5
    assert values.values["face_found"].value == pytest.approx(250 / 300)


def test_sync_of_true_pairs_is_high_and_of_shuffled_pairs_low():
    rng = np.random.default_rng(0)
    clips = {}
    for seed in range(3):
        sound = rng.normal(size=(280, 64)).astype(np.float32)
        lips = np.roll(sound, 2, axis=0) + 0.3 * rng.normal(size=sound.shape).astype(np.float32)
        score = sync_score(lips, sound)
        scores = np.array([score.confidence, score.distance, score.offset])
        clips[f"c{seed}"] = clip(seed, sync=scores, lips=lips, sound=sound)
    values = summarize(clips, None, {}, [5]).values
    assert values["sync_offset"].value == 2  # the picture is two frames late
    assert values["sync_c"].value > 5 * values["sync_c_shuffled"].value
    assert values["sync_d"].value < 0.5 * values["sync_d_shuffled"].value


def test_distances_follow_windows_over_time_and_say_when_samples_are_few():
    real = {f"r{seed}": clip(seed, 30) for seed in range(4)}
    reference = summary.ReferenceStatistics(real)
    same = summarize(real, reference, {}, [5, 10, 30, 60])
    assert same.values["fd_face"].value == pytest.approx(0, abs=1e-6)
    assert same.warnings == []
    drifting = {}
    for seed in range(4):
        features = real[f"r{seed}"].arrays["expressions"] + np.linspace(0, 3, 150, dtype=np.float32)[:, None]
        drifting[f"d{seed}"] = clip(seed, 30, expressions=features)
    curve = summarize(drifting, reference, {}, [5, 10, 30, 60]).curves["fd_face"]
    assert curve["x"] == [5, 10, 30]  # no clip lasts a minute
    assert curve["y"] == sorted(curve["y"])
    assert curve["y"][-1] > 20
    few = {"one": clip(9, 0.6)}
    of_value, of_curve = summarize(few, reference, {}, [0.6]).warnings
    assert (of_value.metric, of_value.curve) == ("fd_face", None)
    assert (of_curve.metric, of_curve.curve) == (None, "fd_face")
    assert "fewer than its 6 features" in of_value.text
    assert "3 frames or more a point" in of_curve.text


def test_seams_need_to_know_the_chunks():
    change = np.ones(300, np.float32)
    change[[81, 157, 233]] = 3
    eyes = np.column_stack([np.arange(300), np.zeros(300), np.full(300, 50)]).astype(np.float32)
    eyes[81:, 0] += 5
    clips = {"c": clip(0, change=change, eyes=eyes)}
    found = summarize(clips, None, {}, [5], (81, 233)).values
    assert found["seam_motion"].value == pytest.approx(3)
    assert found["seam_head"].value == pytest.approx(2), "ten pixels there in five frames, five elsewhere"
    assert not {"seam_motion", "seam_head"} & set(summarize(clips, None, {}, [5]).values)
    assert "seam_head" not in summarize({"c": clip(0, change=change)}, None, {}, [5], (81, 76)).values


def test_what_is_not_measured_has_its_reason():
    found = summarize({"c": clip(0)}, None, {}, [5])
    reasons = not_measured({"inception": "no connection", "arcface": "no room"}, [found])
    assert set(reasons) | set(found.values) == set(METRICS)
    assert reasons["fid"] == "inception: no connection"
    assert reasons["identity"] == "arcface: no room"
    assert "the sound of a real clip" in reasons["lip_correlation"]
    assert "synthetic corpus" in reasons["lip_closures"]
    assert "blinks" not in reasons


def test_a_clip_without_a_face_keeps_what_needs_none():
    arrays = clip(0).arrays
    bare = Measured({key: arrays[key] for key in ("frames", "found", "change", "lab")}, ["no face found"])
    found = summarize({"bare": bare, "c": clip(1)}, None, {}, [5])
    assert found.values["colour_drift"].samples == 2
    assert found.values["head_motion"].samples == 1
    assert found.clips["bare"]["notes"] == ["no face found"]
