import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from asymtalker.bench import run as bench
from asymtalker.bench.run import bench_distill, bench_generate, bench_train, judge
from asymtalker.bench.settings import BenchDistill, BenchGenerate, BenchTrain
from asymtalker.commands.cli import main
from asymtalker.commands.measuring import TASKS
from asymtalker.errors import UserError
from asymtalker.media.sound import AudioFile
from asymtalker.models.precision import has_bfloat16
from asymtalker.timeline import SAMPLE_RATE


def generated(portrait, voice, **options: Any) -> dict[str, Any]:
    """The report on half a second of sound."""
    settings: dict[str, Any] = {"seconds": "0.5", "device": "cpu", "image": portrait, "audio": voice}
    return bench_generate(BenchGenerate(**settings | options))


def measured_here(task: str, job: dict[str, Any], processes: int = 1) -> dict[str, Any]:
    """To start a process takes longer than the rest."""
    return TASKS[task](json.loads(json.dumps(job)))


@pytest.mark.usefixtures("_quick_ceiling")
def test_report_adds_up(checkpoint, portrait, voice, tmp_path, monkeypatch, capsys):
    apart = bench._measure_in_process

    def measure(task, job, processes=1):
        return (apart if task == "pipeline" else measured_here)(task, job, processes)

    monkeypatch.setattr(bench, "_measure_in_process", measure)
    monkeypatch.setattr(bench, "SHORT_RUNS", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "results" / "a.json"
    report = generated(portrait, voice, out=out, model=str(checkpoint))
    assert json.loads(out.read_text()) == json.loads(json.dumps(report))
    assert report["machine"]["threads"] == 1
    assert report["machine"]["model"] == "toy"
    assert {"torch", "diffusers"} <= report["versions"].keys()
    assert str(checkpoint) not in json.dumps(report["network"])
    (result,) = report["results"]
    assert result["frames"] == 13
    assert result["fps"] == pytest.approx(13 / result["total_seconds"], rel=0.01)
    assert 0 < result["first_frame_seconds"] <= result["first_chunk_seconds"] <= result["total_seconds"]
    assert 0 < result["cold_first_frame_seconds"] <= result["cold_first_chunk_seconds"]
    # Parts are timed in a run of their own; what a second thread does is in the sum besides.
    assert sum(result["part_seconds"].values()) == pytest.approx(
        result["synchronized_seconds"] + result["hidden_seconds"], abs=0.01
    )
    assert result["part_seconds"].keys() == {
        "audio", "transformer", "decode", "re_encode", "identity", "file", "other"
    }  # fmt: skip
    # 13 frames are two chunks of 9 with 5 repeated, and a chunk is 2 steps.
    assert [result["part_calls"][part] for part in ("identity", "decode", "re_encode", "transformer")] == [1, 2, 1, 4]
    assert 50 < result["peak_rss_mib"] < 5000

    costs, ceiling, stock = report["costs"], report["ceiling"], report["stock"]
    assert costs["new_frames"] == 4
    assert costs["chunk"] == pytest.approx(
        2 * costs["transformer"] + costs["decode"] + costs["re_encode"] + costs["audio"]
    )
    assert ceiling["matmul_tflops"] == max(ceiling["matmul"].values()) > 0
    assert stock["frames_per_chunk"] == 9
    assert {"transformer", "decode"} < stock["part_seconds"].keys()
    assert result["times_stock"] == pytest.approx(result["steady_fps"] / stock["fps"], rel=0.01)
    printed = capsys.readouterr().err
    assert "FPS" in printed
    assert "stock Wan pipeline" in printed


def test_figures_follow_from_what_was_measured():
    result = {
        "part_seconds": {"transformer": 2.0, "decode": 1.0},
        "part_calls": {"transformer": 8, "decode": 2},
        "fps": 5.0,
        "steady_fps": 10.0,
    }
    costs = {"transformer": 10e12, "decode": 20e12, "chunk": 76e12, "new_frames": 76}
    figures = judge(result, {"matmul_tflops": 100.0}, costs, {"fps": 4.0})
    assert figures == {
        "tflops": {"transformer": 40.0, "decode": 40.0},
        "share_of_ceiling": {"transformer": 0.4, "decode": 0.4},
        "floor_fps": 100.0,
        "share_of_floor": 0.1,
        "seconds_per_chunk": 7.6,
        "times_stock": 2.5,
    }
    shared = judge(result, {"matmul_tflops": 100.0}, costs, {"fps": 4.0}, gpus=2)
    assert shared["floor_fps"] == 200.0
    assert shared["share_of_ceiling"] == {"transformer": 0.2, "decode": 0.4}  # which every GPU does whole
    assert shared["times_stock"] is None
    previewed = result | {"part_seconds": {"transformer": 2.0}, "part_calls": {"transformer": 8}}
    assert judge(previewed, {"matmul_tflops": 100.0}, costs, None)["tflops"] == {"transformer": 40.0}
    assert set(judge(result, None, None, None).values()) == {None}
    assert judge(result, None, None, {"fps": 4.0})["times_stock"] == 2.5
    assert judge(result | {"steady_fps": None}, {"matmul_tflops": 100.0}, costs, {"fps": 4.0})["times_stock"] == 1.25


@pytest.fixture
def _measured_here(monkeypatch):
    monkeypatch.setattr(bench, "_measure_in_process", measured_here)


STEPS: dict[str, Any] = {"recipe": "smoke", "random_weights": True, "size": "32x64", "device": "cpu", "steps": 1}


@pytest.mark.usefixtures("_measured_here", "_quick_ceiling")
def test_training_steps_are_reported(tmp_path, capsys):
    out = tmp_path / "a.json"
    report = bench_train(BenchTrain(**STEPS, batch=2, out=out))
    assert json.loads(out.read_text()) == json.loads(json.dumps(report))
    result, ceiling = report["results"], report["ceiling"]
    assert result["samples_per_step"] == 2
    flops = result["step_flops"] / result["seconds_per_step"]
    assert result["tflops"] == pytest.approx(1e-12 * flops, rel=0.02, abs=1e-4)
    assert result["share_of_ceiling"] == pytest.approx(result["tflops"] / ceiling["matmul_tflops"], abs=1e-3)
    autocast = "bfloat16" if has_bfloat16() else None
    assert (report["network"]["autocast"], ceiling["dtype"]) == (autocast, autocast or "float32")
    said = capsys.readouterr()
    assert "TFLOP/s" in said.err
    assert said.out == f"{out}\n"


@pytest.mark.usefixtures("_measured_here", "_quick_ceiling")
def test_distillation_steps_are_reported(capsys):
    report = bench_distill(BenchDistill(**STEPS, batch=1))
    assert report["benchmark"] == "distill"
    result = report["results"]
    critic, student, updates = result["critic_update"], result["student_update"], result["critic_updates"]
    assert result["seconds_per_step"] == pytest.approx(updates * critic["seconds"] + student["seconds"], abs=1e-3)
    assert result["step_flops"] == updates * critic["step_flops"] + student["step_flops"]
    assert 0 < critic["share_of_ceiling"] < 1
    assert "updates of the critic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--recipe", "smoke"], "go together"),
        (["generate", "--random-weights"], "go together"),
        (["generate", "--recipe", "smoke", "--random-weights", "--model", "m"], "not both"),
        (["generate", "--recipe", "smoke", "--random-weights", "--size", "64y64"], "--size is a number of pixels"),
        (["generate", "--recipe", "none", "--random-weights"], "There is no recipe none"),
        (["generate", "--steps", "0"], "--steps must be at least 1"),
        (["generate", "--gpus", "0"], "--gpus must be at least 1"),
        (["train", "--recipe", "smoke"], "--random-weights"),
        (["distill", "--recipe", "smoke"], "bench distill measures random weights only"),
        (["train", "--recipe", "none", "--random-weights"], "There is no recipe none"),
        (["train", "--recipe", "smoke", "--random-weights", "--batch", "0"], "--batch must be at least 1"),
    ],
)
def test_bad_input_is_refused_before_measuring(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_measure_in_process", lambda *_: pytest.fail("measured"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_bad_input_of_the_measuring_process_is_one_sentence(portrait, voice, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(UserError, match="does not exist"):
        generated(portrait, voice, out=tmp_path / "a.json", model=str(tmp_path / "none"))
    assert not (tmp_path / "a.json").exists()


@pytest.mark.slow
def test_bad_input_of_several_processes_is_one_sentence(portrait, voice, tmp_path, monkeypatch):
    """torchrun makes 1 of every exit code of theirs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(UserError, match=r"^[^\n]*does not exist[^\n]*$"):
        generated(portrait, voice, model=str(tmp_path / "none"), gpus=2)


def test_a_stopped_measurement_stops_its_process_in_peace(tmp_path, monkeypatch):
    """Killed at once, torchrun would leave its workers behind."""
    ready, stopped = tmp_path / "ready", tmp_path / "stopped"
    code = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_): time.sleep(0.3); pathlib.Path(sys.argv[2]).touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop); pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    communicate = subprocess.Popen.communicate

    def interrupted(process, timeout=None):
        if timeout is None:
            while not ready.exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
        return communicate(process, timeout=timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench._run([sys.executable, "-c", code, str(ready), str(stopped)])
    assert stopped.exists()


PART = {"transformer": 2.0, "decode": 1.0, "file": 0.5}
MEASURED = {
    "machine": {"device": "cpu"},
    "network": {},
    "fps": 5.0,
    "steady_fps": None,
    "first_frame_seconds": 1.0,
    "total_seconds": 3.0,
    "synchronized_seconds": 3.5,
    "peak_rss_mib": 100.0,
    "part_seconds": PART,
    "part_calls": dict.fromkeys(PART, 2),
}
LIMITS = {
    "ceiling": {"dtype": "bfloat16", "matmul_tflops": 1.0, "attention_tflops": 1.0, "attention_shape": "4 tokens"},
    "costs": {"transformer": 1e12, "decode": 1e12, "chunk": 4e12, "new_frames": 76},
}
STOCK = {"fitted": "bfloat16", "seconds_per_chunk": 1.0, "frames_per_chunk": 4, "fps": 4.0}


@pytest.mark.parametrize("failing", ["limits", "stock"])
@pytest.mark.parametrize("error", [UserError("The memory is full."), RuntimeError("failed:\nTraceback\nKeyError: 1")])
def test_results_outlive_limits_and_stock(failing, error, portrait, voice, tmp_path, monkeypatch, capsys):
    def measure(task, job, processes=1):
        if task != "pipeline":  # which may be stopped: what was measured is kept by then
            kept = json.loads(out.read_text())
            assert kept["results"][0]["fps"] == 5.0
            assert kept["not_measured"] == {"limits": "stopped before", "stock": "stopped before"}
        if task == failing:
            raise error
        return {"pipeline": dict(MEASURED), "limits": LIMITS, "stock": STOCK}[task]

    monkeypatch.setattr(bench, "_measure_in_process", measure)
    out = tmp_path / "a.json"
    if isinstance(error, UserError):
        generated(portrait, voice, out=out)
    else:
        with pytest.raises(RuntimeError, match="KeyError: 1"):
            generated(portrait, voice, out=out)
    report = json.loads(out.read_text())
    reason = str(error).splitlines()[-1]
    assert report["not_measured"] == {failing: reason}
    assert (report["ceiling"] is None) == (report["costs"] is None) == (failing == "limits")
    assert (report["stock"] is None) == (failing == "stock")
    (result,) = report["results"]
    assert result["fps"] == 5.0
    assert (result["share_of_ceiling"] is None) == (failing == "limits")
    assert (result["times_stock"] is None) == (failing == "stock")
    printed = capsys.readouterr().err
    assert f"not measured: {failing} ({reason})" in printed
    assert "transformer" in printed


@pytest.mark.parametrize("options", [{"gpus": 2}, {"stock": False}])
def test_stock_is_measured_only_where_it_is_of_use(options, portrait, voice, monkeypatch):
    found = {"pipeline": MEASURED, "limits": LIMITS}
    monkeypatch.setattr(bench, "_measure_in_process", lambda task, *_: dict(found[task]))
    report = generated(portrait, voice, **options)
    assert report["stock"] is report["results"][0]["times_stock"] is None
    assert report["not_measured"] == {}


def test_training_results_outlive_the_ceiling(tmp_path, monkeypatch, capsys):
    def measure(task, job, processes=1):
        if task == "ceiling":
            assert json.loads((tmp_path / "a.json").read_text())["results"]["seconds_per_step"] == 1.0
            raise UserError("The memory is full.")
        step = {"seconds_per_step": 1.0, "samples_per_step": 4, "peak_rss_mib": 1.0, "tflops": 2.0}
        return step | {"decoded": {"seconds_per_step": 2.0}, "machine": {}, "network": {}}

    monkeypatch.setattr(bench, "_measure_in_process", measure)
    bench_train(BenchTrain(recipe="smoke", random_weights=True, out=tmp_path / "a.json"))
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["results"]["share_of_ceiling"] is report["ceiling"] is None
    assert report["not_measured"] == {"ceiling": "The memory is full."}
    assert "1.000 s for a step" in capsys.readouterr().err


def test_without_out_the_figures_are_said_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    found = {"pipeline": MEASURED, "limits": LIMITS, "stock": STOCK, "ceiling": LIMITS["ceiling"]}
    step = {"seconds_per_step": 1.0, "samples_per_step": 4, "peak_rss_mib": 1.0, "tflops": 2.0}
    found["train"] = step | {"decoded": {"seconds_per_step": 2.0}, "machine": {}, "network": {}}
    monkeypatch.setattr(bench, "_measure_in_process", lambda task, *_: dict(found[task]))
    monkeypatch.chdir(tmp_path)
    for verb in ("generate", "train"):
        main(["bench", verb, "--recipe", "wan_1_3b", "--random-weights", "--size", "512x512"])
        said = capsys.readouterr()
        assert said.out == ""
        assert "of" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_refused_before_measuring(portrait, voice, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_measure_in_process", lambda *_: pytest.fail("measured"))
    for out in (tmp_path, voice / "a.json"):
        with pytest.raises(UserError, match="folder"):
            generated(portrait, voice, out=out)


def test_sound_is_repeated_or_cut_to_length(voice, tmp_path, sound):
    for seconds in (0.3, 3.0):
        bench._write_sound(tmp_path / "out.wav", AudioFile(voice), seconds)
        made = AudioFile(tmp_path / "out.wav")
        assert made.num_samples == round(seconds * SAMPLE_RATE)
        expected = np.resize(sound, made.num_samples)
        assert np.allclose(made.read(0, made.num_samples), expected, atol=1e-3)


def test_peak_memory_sees_what_was_held():
    """In a process of its own: what other tests held would hide it."""
    code = (
        "import numpy as np; from asymtalker.bench.machine import peak_rss_mib; before = peak_rss_mib();"
        " held = np.ones(256 << 20, np.uint8); full = peak_rss_mib(); del held; print(before, full, peak_rss_mib())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, full, after = map(float, done.stdout.split())
    assert 250 < full - before < 300
    assert after - before > 250
