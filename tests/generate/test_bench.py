import json
import os

import numpy as np
import pytest

from asymtalker.errors import UserError
from asymtalker.generate import bench
from asymtalker.generate.bench import bench_generate, peak_rss_mib
from asymtalker.media import AudioFile
from asymtalker.timeline import SAMPLE_RATE


def test_report_adds_up(checkpoint, portrait, voice, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SHORT_RUNS", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "results" / "a.json"
    report = bench_generate([0.5], out, str(checkpoint), "cpu", portrait, voice)
    assert json.loads(out.read_text()) == report
    assert report["machine"]["threads"] == 1
    assert report["machine"]["model"] == "toy"
    (result,) = report["results"]
    assert result["frames"] == 13
    assert result["fps"] == pytest.approx(13 / result["total_seconds"], rel=0.01)
    assert 0 < result["first_chunk_seconds"] <= result["total_seconds"]
    assert sum(result["part_seconds"].values()) == pytest.approx(result["total_seconds"], abs=0.05)
    assert {"audio", "transformer", "decode", "re_encode", "identity", "file"} < result["part_seconds"].keys()
    assert 50 < result["peak_rss_mib"] < 5000
    assert "FPS" in capsys.readouterr().err


def test_bad_input_of_the_measuring_process_is_one_sentence(portrait, voice, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(UserError, match="does not exist"):
        bench_generate([0.2], tmp_path / "a.json", str(tmp_path / "none"), "cpu", portrait, voice)
    assert not (tmp_path / "a.json").exists()


def test_a_report_that_cannot_be_written_is_refused_before_measuring(portrait, voice, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_measure_apart", lambda job: pytest.fail("measured"))
    for out in (tmp_path, voice / "a.json"):
        with pytest.raises(UserError, match="folder"):
            bench_generate([0.2], out, None, "cpu", portrait, voice)


def test_sound_is_repeated_or_cut_to_length(voice, tmp_path, sound):
    for seconds in (0.3, 3.0):
        bench._write_sound(tmp_path / "out.wav", AudioFile(voice), seconds)
        made = AudioFile(tmp_path / "out.wav")
        assert made.num_samples == round(seconds * SAMPLE_RATE)
        expected = np.resize(sound, made.num_samples)
        assert np.allclose(made.read(0, made.num_samples), expected, atol=1e-3)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_peak_memory_sees_what_was_held():
    before = peak_rss_mib()
    held = np.ones(64 << 20, np.uint8)
    assert peak_rss_mib() > min(before + 30, 64)
    del held
