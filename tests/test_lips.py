"""The lip measure: known curves in, known scores out."""

import json

import numpy as np
import pytest

from asymtalker.cli import main
from asymtalker.corpus import ShardWriter
from asymtalker.errors import UserError
from asymtalker.evaluate.lips import lip_score, measure_lips, read_apertures
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.models.readout import LipReadout
from toy import ToyFace


def curve(length=120):
    rng = np.random.default_rng(0)
    return np.convolve(rng.random(length + 8), np.ones(5) / 5, mode="valid")[:length].astype(np.float32)


@pytest.mark.parametrize("lag", [-5, 0, 3])
def test_a_shifted_curve_is_found_where_it_is(lag):
    truth = curve()
    score = lip_score(truth, np.roll(truth, lag) * 0.3 + 0.1)
    assert score.lag == lag
    assert score.best_correlation == pytest.approx(1.0, abs=1e-5)


def test_lips_that_do_not_move_score_nothing():
    score = lip_score(curve(), np.zeros(120, np.float32))
    assert (score.correlation, score.best_correlation) == (0, 0)


def test_curves_of_other_clips_are_refused():
    with pytest.raises(ValueError, match="one length"):
        lip_score(curve(100), curve(90))


def test_frames_are_read_one_by_one():
    readout = LipReadout(8)
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    together = read_apertures(readout, frames, batch=2)
    assert together.shape == (5,)
    assert np.allclose(together[3], read_apertures(readout, frames[3:4])[0], atol=1e-5)


def test_held_out_clips_are_generated_and_scored(toy_corpus, tiny_pipeline_folder):
    pipeline = AsymTalkerPipeline.from_pretrained(tiny_pipeline_folder)
    report = measure_lips(pipeline, LipReadout(8), toy_corpus, 5)
    assert len(report["clips"]) == 2
    for name in ("generated", "real", "chance"):
        assert -1 <= report["medians"][name]["correlation"] <= 1


def test_corpora_that_cannot_be_measured_are_refused(tmp_path, toy_corpus, tiny_pipeline_folder):
    pipeline = AsymTalkerPipeline.from_pretrained(tiny_pipeline_folder)
    with pytest.raises(UserError, match="at least 2"):
        measure_lips(pipeline, LipReadout(8), toy_corpus, 1)
    for name, change, says in (("short", {"num_frames": 12}, "more than 12 frames"), ("large", {"size": 64}, "64x64")):
        writer = ShardWriter(tmp_path / name)
        writer.write(0, [ToyFace(seed).clip("test", **change) for seed in range(2)])
        writer.write_manifest()
        with pytest.raises(UserError, match=says):
            measure_lips(pipeline, LipReadout(8), writer.folder, 5)


def test_the_command_writes_a_report_with_its_machine(tmp_path, toy_corpus, tiny_pipeline_folder, capsys):
    LipReadout(8).save_pretrained(tmp_path / "readout")
    out = tmp_path / "results" / "lips.json"
    inputs = ["--corpus", str(toy_corpus), "--readout", str(tmp_path / "readout")]
    main(["bench", "lips", *inputs, "--model", str(tiny_pipeline_folder), "--device", "cpu", "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["benchmark"] == "lips"
    assert {"date", "asymtalker", "clips", "medians", "scores"} < report.keys()
    assert {"cpu", "torch", "load_average_before"} < report["machine"].keys()
    assert (report["machine"]["model"], report["machine"]["steps"]) == ("toy", 2)
    assert capsys.readouterr().out.endswith(f"{out}\n")
