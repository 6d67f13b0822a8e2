import itertools

import numpy as np
import pytest

from asymtalker.synth.acoustics import augment
from asymtalker.synth.phonemes import PHONEMES, SILENCE, frame_phonemes, phoneme_class, phoneme_letters
from asymtalker.synth.speech import VARIANTS, Voice, cut, random_voice, speak, split_of, synthesize
from asymtalker.synth.text import SENTENCES

pytest.importorskip("espeakng_loader")


def energy(samples, start, end):
    part = samples[int(start * 16000) : int(end * 16000)]
    return float(np.sqrt(np.mean(np.square(part)))) if len(part) else 0.0


def assert_tiles(phonemes, seconds):
    assert phonemes[0][1] == 0
    assert phonemes[-1][2] == pytest.approx(seconds, abs=1e-3)
    for (_, _, end), (_, start, _) in itertools.pairwise(phonemes):
        assert start == pytest.approx(end)
    assert all(end > start for _, start, end in phonemes)


@pytest.mark.parametrize("language", SENTENCES)
def test_phonemes_cover_the_clip_and_have_classes(language):
    for text in SENTENCES[language][-6:]:
        speech = synthesize(text, Voice(language=language, variant="f2"))
        assert speech.samples.dtype == np.float32
        assert_tiles(speech.phonemes, speech.seconds)
        for symbol, _, _ in speech.phonemes:
            assert phoneme_class(symbol) in PHONEMES
            assert symbol == SILENCE or phoneme_letters(symbol)


@pytest.mark.parametrize("tract", [0.88, 1.0, 1.14])
def test_phoneme_times_are_those_of_the_sound(tract):
    speech = synthesize("Ah, papa. Oh, happy puppy.", Voice(language="en-us", variant="m3", tract=tract))
    vowels = [energy(speech.samples, a, b) for p, a, b in speech.phonemes if "ˈ" in p]
    pauses = [
        energy(speech.samples, a + 0.01, b - 0.01) for p, a, b in speech.phonemes if p == SILENCE and b - a > 0.1
    ]
    # a p begins with its silent closure, which espeak-ng itself leaves to the vowel before
    inner = [
        (a, b)
        for (_, (p, a, b)) in zip(speech.phonemes, speech.phonemes[1:], strict=False)
        if p == "p" and _[0] != SILENCE
    ]
    closures = [energy(speech.samples, a + 0.005, a + 0.02) for a, _ in inner]
    assert min(vowels) > 20 * max(pauses)
    assert len(closures) >= 3
    assert min(vowels) > 10 * max(closures)


def test_tract_moves_pitch_but_not_the_words():
    low, high = (synthesize("hello my friend", Voice(language="en-us", variant="m3", tract=t)) for t in (0.9, 1.1))
    assert [p for p, _, _ in low.phonemes] == [p for p, _, _ in high.phonemes]
    assert low.seconds == pytest.approx(high.seconds, rel=0.12)


@pytest.mark.parametrize("seed", range(6))
def test_clips_have_the_asked_length_and_repeat_by_seed(seed):
    one, two = (speak(np.random.default_rng(seed), 3.3, "train") for _ in range(2))
    assert len(one.samples) == 52800
    assert_tiles(one.phonemes, 3.3)
    np.testing.assert_array_equal(one.samples, two.samples)
    assert (one.phonemes, one.text, one.voice_id) == (two.phonemes, two.text, two.voice_id)
    assert split_of(one.voice_id) == "train"


def test_held_out_voices_are_held_out():
    rng = np.random.default_rng(0)
    voices = {split: {random_voice(rng, split).voice_id for _ in range(300)} for split in ("train", "test")}
    assert not voices["train"] & voices["test"]
    assert voices["test"] == {f"espeak-{v}" for v in VARIANTS if split_of(f"espeak-{v}") == "test"}
    assert len(voices["test"]) >= 5
    assert split_of("espeak-m3") == "train"  # a split that changed would leak held-out voices into old corpora


def test_cut_moves_the_times_along():
    speech = synthesize("one two three four", Voice(language="en-us", variant="m1"))
    part = cut(speech, 4800, 12800)
    assert part.seconds == 0.5
    assert_tiles(part.phonemes, 0.5)
    whole = {(p, round(a, 4)) for p, a, _ in speech.phonemes}
    assert all((p, round(a + 0.3, 4)) in whole for p, a, _ in part.phonemes[1:])
    np.testing.assert_array_equal(part.samples[200:-200], speech.samples[5000:12600])


@pytest.mark.parametrize("seed", range(12))
def test_augmentation_keeps_length_and_time(seed):
    speech = synthesize("Please leave a message after the beep.", Voice(language="en-us", variant="f3"))
    clean = np.concatenate([np.zeros(8000, np.float32), speech.samples])
    out, again = (augment(clean, np.random.default_rng(seed), clean[::-1]) for _ in range(2))
    np.testing.assert_array_equal(out, again)
    assert out.shape == clean.shape
    assert out.dtype == np.float32
    assert np.abs(out).max() <= 1
    envelopes = [np.sqrt(np.convolve(np.square(x), np.ones(320), "same")) for x in (clean, out)]
    a, b = (e[::16] - e[::16].mean() for e in envelopes)
    lags = range(-100, 101)
    scores = [np.dot(a[max(0, -k) : len(a) - max(0, k)], b[max(0, k) : len(b) - max(0, -k)]) for k in lags]
    assert abs(lags[int(np.argmax(scores))]) <= 15  # milliseconds; a room's tail moves the envelope a little


def test_augmented_silence_is_finite():
    for seed in range(20):
        assert np.isfinite(augment(np.zeros(16000, np.float32), np.random.default_rng(seed))).all()


def test_frame_labels_are_those_at_the_frame_middles():
    phonemes = [("sil", 0.0, 0.031), ("ˈɑː", 0.031, 0.09), ("b", 0.09, 0.1)]
    labels = frame_phonemes(phonemes, 7, rate=50)
    assert [PHONEMES[i] for i in labels] == ["sil", "sil", "ɑ", "ɑ", "b", "sil", "sil"]
    assert len(PHONEMES) == len(set(PHONEMES)) <= 48
