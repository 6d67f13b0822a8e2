"""benchmarks/distort.py: each distortion does what it says, and no more."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from asymtalker.evaluate.measure.truth import sound_delay
from asymtalker.media.video import read_video
from drawn_face import FRAMES, drawn_clip

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "distort.py"


@pytest.fixture(scope="module")
def distorted(drawn_corpus, tmp_path_factory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Frames and sound of the second of two clips, by distortion."""
    folder = tmp_path_factory.mktemp("distorted")
    runpy.run_path(str(SCRIPT))["main"](drawn_corpus, folder, 2)
    return {method.name: read_video(method / "drawn1.mp4") for method in sorted(folder.iterdir())}


def test_each_changes_its_own_thing_alone(distorted):
    frames, sound = distorted["same"]
    own, other = (drawn_clip(seed).frames for seed in (1, 0))
    assert np.abs(frames.astype(int) - own).mean() < 3
    for name in ("blur", "colour", "swapped"):
        assert sound_delay(distorted[name][1], sound) == 0
    for name in ("late_sound", "shuffled_sound"):
        assert np.abs(distorted[name][0].astype(int) - frames).mean() < 1
    detail = {name: np.abs(np.diff(distorted[name][0].astype(int), axis=2)).mean() for name in ("same", "blur")}
    assert detail["blur"] < 0.85 * detail["same"]
    shift = (distorted["colour"][0].astype(int) - frames).mean((1, 2))
    assert np.abs(shift[0]).max() < 2
    np.testing.assert_allclose(shift[-1], [18, 0, -18], atol=3)
    assert sound_delay(distorted["late_sound"][1], sound) == pytest.approx(0.2, abs=0.01)
    half = FRAMES // 2
    assert np.abs(distorted["swapped"][0][: half - 1].astype(int) - own[: half - 1]).mean() < 3
    assert np.abs(distorted["swapped"][0][half + 1 :].astype(int) - other[half + 1 :]).mean() < 3


def test_a_folder_that_is_no_corpus_is_one_sentence(tmp_path, drawn_videos, capsys):
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPT))["main"](drawn_videos, tmp_path / "out", 2)
    assert capsys.readouterr().err.strip().endswith("is no corpus: give one that asymtalker synth made.")
    assert not (tmp_path / "out").exists()
