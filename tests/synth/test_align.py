"""Phoneme times taken over from another reading of the same text."""

from dataclasses import replace

import numpy as np
import pytest

from asymtalker.errors import UserError
from asymtalker.synth import pico
from asymtalker.synth.align import moved_times, warping_path
from asymtalker.synth.phonemes import frame_phonemes
from asymtalker.synth.pico import check_share
from asymtalker.synth.speech import Voice, random_voice, speak, split_of, synthesize

pytest.importorskip("espeakng_loader")

TEXT = "The quick brown fox jumps over the lazy dog, and never comes back again."
WOMAN = Voice(language="en-us", variant="f2", rate=150)


def test_times_of_one_voice_are_found_in_another():
    reading = synthesize(TEXT, WOMAN)
    recording = synthesize(TEXT, Voice(language="en-us", variant="m3", rate=200, pitch=35))
    times = np.array([time for _, *ends in reading.phonemes for time in ends])
    frames = int(recording.seconds * 50)
    truth = frame_phonemes(recording.phonemes, frames)

    def agreement(moved: np.ndarray) -> float:
        ends = moved.reshape(-1, 2).tolist()
        placed = [(name, start, end) for (name, _, _), (start, end) in zip(reading.phonemes, ends, strict=True)]
        return float((frame_phonemes(placed, frames) == truth).mean())

    moved = moved_times(times, reading.samples, recording.samples)
    assert (np.diff(moved) >= 0).all()
    assert agreement(moved) > 0.8
    assert agreement(times * recording.seconds / reading.seconds) < 0.65, "a plain stretch would do as well"


def test_a_path_goes_forward_from_corner_to_corner():
    rng = np.random.default_rng(0)
    path = warping_path(rng.normal(size=(20, 4)), rng.normal(size=(33, 4)))
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [19, 32]
    steps = np.diff(path, axis=0)
    assert steps.min() >= 0
    assert steps.max() == 1
    assert (steps.sum(1) > 0).all()


def test_the_way_of_a_slower_copy_is_found_exactly():
    features = np.random.default_rng(0).normal(size=(12, 5))
    path = warping_path(features, np.repeat(features, 3, axis=0))
    assert all(column // 3 == row for row, column in path)


def a_man_reads(text: str, language: str, speed: int, pitch: int) -> np.ndarray:
    """Instead of Pico."""
    return synthesize(text, Voice(language=language, variant="m3", rate=round(1.7 * speed), pitch=35)).samples


@pytest.mark.parametrize("engine", ["pico", "stand-in"])
def test_pico_voices_keep_the_contract_of_speech(engine, monkeypatch):
    if engine == "pico":
        pytest.importorskip("ttspico")
    else:
        monkeypatch.setattr("asymtalker.synth.speech.read_aloud", a_man_reads)
    speech = synthesize(TEXT, replace(WOMAN, pico=True, rate=170, tract=1.05))
    assert speech.voice_id == "pico-en-us"
    assert 3 < speech.seconds < 8
    assert speech.phonemes[0][1] == 0
    assert speech.phonemes[-1][2] == pytest.approx(speech.seconds)
    assert all(end == start for (_, _, end), (_, start, _) in zip(speech.phonemes, speech.phonemes[1:], strict=False))
    names = [name for name, _, _ in synthesize(TEXT, WOMAN).phonemes if name != "sil"]
    assert [name for name, _, _ in speech.phonemes if name != "sil"][:10] == names[:10]
    assert np.array_equal(speech.samples, synthesize(TEXT, replace(WOMAN, pico=True, rate=170, tract=1.05)).samples)


def test_the_share_of_pico_voices_is_kept_and_held_out_voices_stay_held_out():
    rng = np.random.default_rng(0)
    voices = [random_voice(rng, "train", pico_share=0.5) for _ in range(200)]
    assert 70 < sum(voice.pico for voice in voices) < 130
    assert all(split_of(voice.voice_id) == "train" for voice in voices)
    assert all(voice.language in pico.LANGUAGES for voice in voices if voice.pico)
    assert not any(random_voice(rng).pico for _ in range(50))
    held_out = [random_voice(rng, "test", pico_share=0.5) for _ in range(50)]
    assert all(split_of(voice.voice_id) == "test" for voice in held_out)


def test_a_missing_package_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ttspico", None)
    for missing in (lambda: speak(np.random.default_rng(0), 1.0, "train", pico_share=1.0), lambda: check_share(0.1)):
        with pytest.raises(UserError, match=r"asymtalker\[voices\]"):
            missing()
    check_share(0.0)
