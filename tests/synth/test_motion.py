import numpy as np
import pytest

from asymtalker.synth.mesh import BLENDSHAPES
from asymtalker.synth.motion import Style, animate, closures, random_style
from asymtalker.synth.phonemes import SILENCE, phoneme_class
from asymtalker.synth.speech import Speech, Voice, speak, synthesize

pytest.importorskip("espeakng_loader")


def channel(motion, name):
    return motion.blendshapes[:, BLENDSHAPES.index(name)]


def gap(motion):
    return channel(motion, "jawOpen") - channel(motion, "mouthClose")


def animated(text, seed=0, rate=170, style=None):
    speech = synthesize(text, Voice(language="en-us", variant="m3", rate=rate))
    frames = -(-len(speech.samples) // 640)
    return speech, animate(speech, np.random.default_rng(seed), frames, style)


@pytest.mark.parametrize("rate", [120, 170, 220, 320])
def test_bilabials_close_the_lips_at_any_speed(rate):
    speech, motion = animated("Bob's big black bag bumped my mum's plum pie. Maybe Pam became a puppet.", rate, rate)
    jaw, close = channel(motion, "jawOpen"), channel(motion, "mouthClose")
    instants = [round(25 * (start + stop) / 2) for start, stop in closures(speech.phonemes)]
    assert len(instants) >= 20
    for frame in instants:
        if frame < len(jaw):
            assert close[frame] >= 0.9 * jaw[frame]
            for opener in ("mouthFunnel", "mouthLowerDownLeft", "mouthUpperUpRight"):
                assert channel(motion, opener)[frame] < 0.05


def test_silence_is_closed_and_vowels_are_open():
    speech, motion = animated("Ah! Bob, what a large far car. Ah.", 1)
    opening = gap(motion)
    for symbol, start, end in speech.phonemes:
        frames = np.arange(np.ceil((start + 0.13) * 25), np.floor((end - 0.1) * 25) + 1).astype(int)
        if symbol == SILENCE and end - start > 0.3:
            assert opening[frames[frames < len(opening)]].max() < 0.02
    vowels = [round(12.5 * (a + b)) for p, a, b in speech.phonemes if phoneme_class(p) in ("ɑ", "a") and b - a > 0.08]
    assert len(vowels) >= 4
    assert opening[vowels].min() > 0.15


def test_a_silent_clip_rests_but_lives():
    silent = Speech(
        samples=np.zeros(16000 * 12, np.float32),
        phonemes=[(SILENCE, 0.0, 12.0)],
        words=[],
        text="",
        language="en-us",
        voice_id="v",
    )
    motion = animate(silent, np.random.default_rng(3), 300)
    assert gap(motion).max() < 0.02
    assert channel(motion, "eyeBlinkLeft").max() > 0.8
    assert motion.poses.std(axis=0)[:3].min() > 0


def test_lips_meet_teeth_for_f_and_v():
    speech, motion = animated("five very fine foxes above the valley", 2)
    for symbol, start, end in speech.phonemes:
        if phoneme_class(symbol) in ("f", "v"):
            frame = min(round(12.5 * (start + end)), len(motion.poses) - 1)
            assert channel(motion, "mouthRollLower")[frame] > 0.2
            assert channel(motion, "jawOpen")[frame] < 0.25


def test_rounding_begins_before_the_rounded_vowel():
    speech, motion = animated("I see the stew", 3, 150, Style())
    start = next(a for p, a, _ in speech.phonemes if phoneme_class(p) == "u")
    pucker = channel(motion, "mouthPucker")
    ahead = np.interp([start - 0.12, start - 0.5], np.arange(len(pucker)) / 25, pucker)
    assert ahead[0] > 0.1
    assert ahead[0] > ahead[1] + 0.05


def test_louder_speech_opens_wider():
    speech, _ = animated("Mark saw a large garden and a small yard.")
    quiet_half = speech.samples.copy()
    quiet_half[len(quiet_half) // 2 :] *= 0.05
    quieter = Speech(**(vars(speech) | {"samples": quiet_half}))
    frames = -(-len(speech.samples) // 640)
    normal, quiet = (animate(s, np.random.default_rng(0), frames, Style()) for s in (speech, quieter))
    half = slice(frames // 2 + 4, None)
    assert gap(quiet)[half].mean() < 0.85 * gap(normal)[half].mean()


def test_loudness_and_opening_go_together():
    scores = []
    for seed in range(8):
        speech = speak(np.random.default_rng(seed), 6.0)
        motion = animate(speech, np.random.default_rng(seed), 150)
        loud = np.log10(np.sqrt(np.square(speech.samples.reshape(150, 640)).mean(1)) + 1e-3)
        if loud.std() > 0:
            pairs = {lag: (loud[max(0, lag) : 150 + min(0, lag)], gap(motion)[max(0, -lag) :]) for lag in range(-6, 7)}
            by_lag = {lag: np.corrcoef(a, b[: len(a)])[0, 1] for lag, (a, b) in pairs.items()}
            assert abs(max(by_lag, key=lambda lag: by_lag[lag])) <= 2
            scores.append(by_lag[0])
    assert len(scores) >= 6
    assert np.mean(scores) > 0.45


def test_same_seed_same_motion_and_ranges():
    one, two, other = (animated("Good morning, everybody.", seed)[1] for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.blendshapes, two.blendshapes)
    np.testing.assert_array_equal(one.poses, two.poses)
    assert np.abs(one.poses[0] - other.poses[0]).max() > 0.1
    assert one.blendshapes.shape[1] == 52
    assert one.blendshapes.dtype == np.float32
    assert one.blendshapes.min() >= 0
    assert one.blendshapes.max() <= 1
    names = {name for seed in range(30) for name, _ in random_style(np.random.default_rng(seed)).mood}
    assert names <= set(BLENDSHAPES)


def test_blinks_are_as_often_and_as_long_as_peoples():
    silent = Speech(
        samples=np.zeros(16000 * 120, np.float32),
        phonemes=[(SILENCE, 0.0, 120.0)],
        words=[],
        text="",
        language="en-us",
        voice_id="v",
    )
    motion = animate(silent, np.random.default_rng(0), 3000, Style(blink_seconds=4.0))
    closed = channel(motion, "eyeBlinkLeft") > 0.5
    blinks = np.count_nonzero(closed[1:] & ~closed[:-1])
    assert 20 <= blinks <= 50
    assert 2 <= closed.sum() / blinks <= 5  # frames of 40 ms
