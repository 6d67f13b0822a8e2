import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import python_speech_features
import torch
from scipy.signal import medfilt

from asymtalker.evaluate.measure.faces import FaceTrack
from asymtalker.media.sound import read_audio
from asymtalker.media.video import read_video
from asymtalker.models.sync import (
    MIN_FRAMES,
    SyncFeatures,
    cepstrum_windows,
    crop_lips,
    smooth_places,
    sync_score,
)
from asymtalker.models.syncnet import SyncNet, load_syncnet

PUBLISHED = os.environ.get("ASYMTALKER_SYNCNET", "")
FRAMES = 24


@pytest.fixture(scope="module")
def syncnet() -> SyncNet:
    """SyncNet with random weights."""
    torch.manual_seed(0)
    return SyncNet().eval().requires_grad_(False)


def track_of(boxes: np.ndarray) -> FaceTrack:
    count = len(boxes)
    return FaceTrack(boxes.astype(np.float32), None, np.ones(count, np.float32), np.ones(count, bool))


def toy_clip(count: int = FRAMES) -> tuple[np.ndarray, FaceTrack, np.ndarray]:
    """Frames of noise, a box that moves, grows and leaves the frame, and sound of noise."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, 90, 120, 3), np.uint8)
    middle = np.stack([30 + 4.3 * np.arange(count), 40 + 2.1 * np.arange(count)], axis=1)
    half = np.stack([15 + 0.4 * np.arange(count), 18 + 0.7 * np.arange(count)], axis=1) + rng.normal(0, 2, (count, 2))
    samples = rng.uniform(-0.9, 0.9, count * 640).astype(np.float32)
    return frames, track_of(np.concatenate([middle - half, middle + half], axis=1)), samples


def published_crops(frames: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """The crops of run_pipeline.py, frame by frame: ``(224, 224, 3)`` uint8 BGR."""
    size = medfilt([max(b[3] - b[1], b[2] - b[0]) / 2 for b in boxes.astype(float)], kernel_size=13)
    middle_y = medfilt([(b[1] + b[3]) / 2 for b in boxes.astype(float)], kernel_size=13)
    middle_x = medfilt([(b[0] + b[2]) / 2 for b in boxes.astype(float)], kernel_size=13)
    crops = []
    for frame, bs, y, x in zip(frames, size, middle_y, middle_x, strict=True):
        pad = int(bs * 1.8)
        big = np.full((frame.shape[0] + 2 * pad, frame.shape[1] + 2 * pad, 3), 110, np.uint8)
        big[pad : pad + frame.shape[0], pad : pad + frame.shape[1]] = frame[:, :, ::-1]
        top, bottom = int(y + pad - bs), int(y + pad + bs * 1.8)
        left, right = int(x + pad - bs * 1.4), int(x + pad + bs * 1.4)
        crops.append(cv2.resize(big[top:bottom, left:right], (224, 224)))
    return crops


def published_windows(samples: np.ndarray, count: int) -> np.ndarray:
    """The windows of SyncNetInstance.py, cut from the coefficients of the whole sound: ``(count, 13, 20)``."""
    whole = python_speech_features.mfcc((samples * 32768).round().astype(np.int16), 16000)
    return np.stack([whole.T[:, 4 * i : 4 * i + 20] for i in range(count)])


def test_crops_are_the_published_ones():
    frames, track, _ = toy_clip()
    places = smooth_places(track.boxes)
    for frame, place, crop in zip(frames, places, published_crops(frames, track.boxes), strict=True):
        np.testing.assert_array_equal(crop_lips(frame, *place), crop)


def test_a_crop_shows_more_below_than_above_and_grey_outside():
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[:50] = (200, 30, 40)
    crop = crop_lips(frame, 50, 50, 40)  # rows 10 to 122, columns -6 to 106
    np.testing.assert_array_equal(crop[5, 112], [40, 30, 200])  # BGR
    assert (crop[:, :10] == 110).all()
    assert (crop[-40:] == 110).all()
    assert crop[78, 112].tolist() == [40, 30, 200]
    assert crop[81, 112].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 19), (1, 4), (7, 9), (18, 1)])
def test_cepstra_are_those_of_the_whole_sound(first, count):
    samples = toy_clip()[2]
    whole = published_windows(samples, FRAMES - 5)
    windows = cepstrum_windows(samples, first, count)
    assert windows.dtype == np.float32
    np.testing.assert_allclose(windows, whole[first : first + count], rtol=1e-5, atol=1e-4)


def test_loud_samples_are_held_at_the_end_of_the_scale():
    samples = toy_clip()[2] * 2
    np.testing.assert_array_equal(
        cepstrum_windows(samples, 0, 3), cepstrum_windows(samples.clip(-1, 32767 / 32768), 0, 3)
    )


@torch.inference_mode()
def test_features_are_the_published_ones(syncnet):
    frames, track, samples = toy_clip()
    features = SyncFeatures(track, samples, syncnet)
    features.add(frames)
    made = features.finish()
    crops = torch.from_numpy(np.stack(published_crops(frames, track.boxes))).float()  # (F, 224, 224, 3)
    for i in range(FRAMES - 5):
        lips = syncnet.netfclip(syncnet.netcnnlip(crops[None, i : i + 5].permute(0, 4, 1, 2, 3)).reshape(1, -1))
        np.testing.assert_allclose(made["lips"][i], lips[0], rtol=1e-3, atol=1e-3)
    cepstra = torch.from_numpy(published_windows(samples, FRAMES - 5)).float()
    sound = syncnet.netfcaud(syncnet.netcnnaud(cepstra[:, None]).reshape(FRAMES - 5, -1))
    np.testing.assert_allclose(made["sound"], sound, rtol=1e-3, atol=1e-4)
    for values in made.values():
        assert values.shape == (FRAMES - 5, 1024)
        assert values.dtype == np.float32
        assert np.abs(np.diff(values, axis=0)).max(axis=1).min() > 0.01  # so that the comparison means something


def test_blocks_of_any_size_give_the_same(syncnet):
    frames, track, samples = toy_clip()
    made = []
    for size in (1, 7, FRAMES):
        features = SyncFeatures(track, samples, syncnet)
        for first in range(0, FRAMES, size):
            features.add(frames[first : first + size])
            assert len(features._crops) < 20
        made.append(features.finish())
    for other in made[1:]:
        np.testing.assert_array_equal(made[0]["lips"], other["lips"])
        np.testing.assert_array_equal(made[0]["sound"], other["sound"])


def test_the_shorter_of_sound_and_picture_counts(syncnet):
    frames, track, samples = toy_clip()
    features = SyncFeatures(track, samples[: 14 * 640 + 639], syncnet)
    features.add(frames)
    assert {name: len(values) for name, values in features.finish().items()} == {"lips": 9, "sound": 9}


def test_clips_too_short_and_frames_too_few_or_many_are_errors(syncnet):
    frames, track, samples = toy_clip()
    with pytest.raises(ValueError, match="needs 13 frames with sound, this one has 12"):
        SyncFeatures(track, samples[: MIN_FRAMES * 640 - 1], syncnet)
    features = SyncFeatures(track, samples, syncnet)
    features.add(frames[:10])
    with pytest.raises(ValueError, match="only 10 frames for a track of 24"):
        features.finish()
    with pytest.raises(ValueError, match="34 frames for a track of 24"):
        features.add(frames)


def naive_score(lips: np.ndarray, sound: np.ndarray, most: int) -> tuple[float, float, int]:
    """Confidence, distance and offset with calc_pdist as a double loop."""
    zeros = np.zeros((most, sound.shape[1]))
    padded = np.concatenate([zeros, sound.astype(float), zeros])
    curve = np.zeros(2 * most + 1)
    for i in range(len(lips)):
        for k in range(2 * most + 1):
            curve[k] += np.sqrt(((lips[i].astype(float) - padded[i + k] + 1e-6) ** 2).sum()) / len(lips)
    return float(np.median(curve) - curve.min()), float(curve.min()), most - int(curve.argmin())


@pytest.mark.parametrize("most", [15, 4])
def test_the_score_is_that_of_a_plain_loop(most):
    rng = np.random.default_rng(0)
    lips, sound = rng.standard_normal((2, 40, 16)).astype(np.float32)
    score = sync_score(lips, sound, most)
    confidence, distance, offset = naive_score(lips, sound, most)
    assert score.confidence == pytest.approx(confidence, abs=1e-5)
    assert score.distance == pytest.approx(distance, abs=1e-5)
    assert score.offset == offset
    lips_t, sound_t = torch.from_numpy(lips), torch.nn.functional.pad(torch.from_numpy(sound), (0, 0, most, most))
    rows = [
        torch.nn.functional.pairwise_distance(lips_t[[i]].repeat(2 * most + 1, 1), sound_t[i : i + 2 * most + 1])
        for i in range(40)
    ]
    curve = torch.stack(rows, 1).mean(1)
    assert score.confidence == pytest.approx(float(curve.median() - curve.min()), abs=1e-5)


@pytest.mark.parametrize("late", [0, 3, 11, -1, -6])
def test_the_offset_is_positive_where_the_picture_is_late(late):
    events = np.random.default_rng(0).standard_normal((120, 32)).astype(np.float32)
    times = np.arange(20, 100)
    sound, lips = events[times], events[times - late]  # what is heard at t is seen at t + late
    score = sync_score(lips, sound)
    assert score.offset == late
    assert score.confidence > 4
    assert score.distance < 2


def test_another_clips_sound_has_no_confidence():
    rng = np.random.default_rng(0)
    lips, sound = rng.standard_normal((80, 32)), rng.standard_normal((95, 32))
    score = sync_score(lips.astype(np.float32), sound.astype(np.float32))
    assert score.confidence < 0.5 * sync_score(lips, lips).confidence


def test_embeddings_that_do_not_go_together_are_an_error():
    with pytest.raises(ValueError, match="one width"):
        sync_score(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="one width"):
        sync_score(np.zeros((0, 3)), np.zeros((5, 3)))


@pytest.mark.skipif(not PUBLISHED, reason="ASYMTALKER_SYNCNET names no folder with syncnet_v2.model and example.avi")
def test_the_published_example_has_the_published_score():
    """The README of github.com/joonson/syncnet_python says what its example gives: offset 3, distance 5.353,
    confidence 10.021. Its frames are crops already and go through a JPEG file there, so the values differ a little."""
    folder = Path(PUBLISHED)
    frames, _ = read_video(folder / "example.avi")
    assert frames.shape[1:] == (224, 224, 3)
    # the box whose crop is the whole frame
    features = SyncFeatures(
        track_of(np.tile([[32.0, 0.0, 192.0, 160.0]], (len(frames), 1))),
        read_audio(folder / "example.avi"),
        load_syncnet(folder / "syncnet_v2.model"),
    )
    features.add(frames)
    made = features.finish()
    score = sync_score(made["lips"], made["sound"])
    assert score.offset == 3
    assert score.distance == pytest.approx(5.353, abs=0.15)
    assert score.confidence == pytest.approx(10.021, abs=0.3)


def test_the_box_whose_crop_is_the_whole_frame():
    frame = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    places = smooth_places(np.tile([[32.0, 0.0, 192.0, 160.0]], (13, 1)))
    for place in places:
        np.testing.assert_array_equal(crop_lips(frame, *place), frame[..., ::-1])
