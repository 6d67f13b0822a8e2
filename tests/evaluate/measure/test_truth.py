"""The lip measure: known curves in, known scores out."""

import numpy as np
import pytest

from asymtalker.evaluate.measure.readings import READINGS, Truth
from asymtalker.evaluate.measure.truth import closures, lip_score, sound_delay, truth_score
from asymtalker.media.sound import read_audio
from asymtalker.media.video import write_video
from asymtalker.timeline import SAMPLE_RATE

NAMES = ("lip_aperture", "yaw", "pitch", "roll", "jawOpen", "cheekPuff", "lidsLeft", "gazeUp")


def curve(length=120, seed=0):
    rng = np.random.default_rng(seed)
    return np.convolve(rng.random(length + 8), np.ones(5) / 5, mode="valid")[:length].astype(np.float32)


def speech(seconds=4.0, seed=0):
    """Noise whose loudness comes and goes as in speech."""
    rng = np.random.default_rng(seed)
    count = round(seconds * SAMPLE_RATE)
    syllables = np.interp(np.arange(count), np.arange(0, count, 2000), rng.random(-(-count // 2000)))
    return (0.3 * syllables * rng.normal(size=count)).astype(np.float32).clip(-1, 1)


@pytest.mark.parametrize("lag", [-5, 0, 3])
def test_a_shifted_curve_is_found_where_it_is(lag):
    truth = curve()
    score = lip_score(truth, np.roll(truth, lag) * 0.3 + 0.1)
    assert score.lag == lag
    assert score.correlation == pytest.approx(1)
    assert score.amplitude == pytest.approx(0.3)


def test_lips_that_do_not_move_score_nothing():
    still = np.zeros(120, np.float32)
    score = lip_score(curve(), still)
    assert (score.correlation, score.lag, score.amplitude) == (0, 0, 0)
    assert lip_score(still, curve()).amplitude is None


def test_curves_of_other_clips_are_refused():
    with pytest.raises(ValueError, match="one length"):
        lip_score(curve(100), curve(90))


def test_readings_are_compared_by_name_over_common_frames():
    truth = np.stack([curve(seed=seed) for seed in range(8)], 1)
    truth[:, NAMES.index("cheekPuff")] = 0
    read = np.zeros((100, len(READINGS)), np.float32)
    read[:, [READINGS.index(name) for name in NAMES]] = truth[:100]
    turns = np.where(np.arange(100) % 2, 1, -1)
    read[:, READINGS.index("jawOpen")] += 0.3 + 0.1 * turns  # the constant is not counted
    for name in ("cheekPuff", "lidsLeft", "gazeUp"):  # nor what never moves in the truth, and what is no blendshape
        read[:, READINGS.index(name)] += 0.5 * turns
    read[:, READINGS.index("roll")] += 2 * turns - 7
    score = truth_score(read, Truth(NAMES, truth))
    assert score.lips.correlation == pytest.approx(1)
    assert score.blendshape_error == pytest.approx(0.1, rel=1e-5)
    assert score.pose_error == pytest.approx(2, rel=1e-5)
    assert score.closures is None
    with pytest.raises(ValueError, match="yaw is not known"):
        truth_score(read, Truth(NAMES[:1], truth[:, :1]))


def test_lips_shut_at_the_phonemes_that_need_it():
    aperture = np.full(50, 0.1)
    aperture[[10, 22, 40]] = 0.01
    phonemes = [("p", 0.36, 0.40), ("ˈm", 0.92, 1.0), ("b", 1.2, 1.3), ("a", 1.56, 1.64), ("b", 9.0, 9.1)]
    assert closures(aperture, phonemes) == pytest.approx(2 / 3)  # the vowel needs none, the last is not in the clip
    assert closures(aperture, phonemes, delay=0.4) == pytest.approx(1 / 3)
    assert closures(aperture, [("a", 0, 1)]) is None


@pytest.mark.parametrize("delay", [-0.3, 0.0, 0.2])
def test_the_delay_of_a_sound_is_found_through_lossy_coding(tmp_path, delay):
    real = speech()
    shift = round(abs(delay) * SAMPLE_RATE)
    heard = np.concatenate([np.zeros(shift, np.float32), real]) if delay > 0 else real[shift:]
    write_video(tmp_path / "a.mp4", np.zeros((120, 64, 64, 3), np.uint8), heard)
    assert sound_delay(read_audio(tmp_path / "a.mp4"), real) == pytest.approx(delay, abs=0.005)


def test_other_sounds_and_silence_have_no_delay():
    assert sound_delay(speech(seed=1), speech(seed=2)) is None
    assert sound_delay(np.zeros(16_000, np.float32), speech()) is None
    assert sound_delay(np.zeros(0, np.float32), speech()) is None
