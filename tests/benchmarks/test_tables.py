"""benchmarks/tables.py: measurements in; the right cells, footnotes, missing rows and figures out.

Most are invented, in the form of real reports; what is read from beside the metrics is tried on real ones.
"""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asymtalker.config import EvaluateConfig
from asymtalker.dataset.corpus import ShardWriter
from asymtalker.evaluate.baselines.run import BaselineSettings, run_baseline
from asymtalker.evaluate.measure.metrics import METRICS
from asymtalker.evaluate.run import evaluate
from asymtalker.media.video import write_video
from drawn_face import drawn_clip

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "tables.py"
RESULTS = ROOT / "benchmarks" / "results"
UNREACHABLE = "~/network.onnx is not there"
MOMENTS = [5.0, 10.0, 30.0]


@pytest.fixture(scope="module")
def tables():
    """The script and what lies beside it, as they see each other when the script is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("tables")


@pytest.fixture(scope="module")
def figures(tables):
    return importlib.import_module("figures")


# In the place of SadTalker's inference.py: a video that is there already.
FAKE = """
import shutil, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--result_dir") + 1])
out.mkdir()
shutil.copy({video!r}, out / "1.mp4")
"""


@pytest.fixture(scope="module")
def evaluated(tiny_pipeline_folder, tmp_path_factory) -> Path:
    """An output folder with a real report, of the toy model as ``tre`` and of a system that is not ours."""
    out = tmp_path_factory.mktemp("evaluated")
    writer = ShardWriter(out / "real")
    writer.write(0, [drawn_clip(seed, frames=25) for seed in range(2)])
    writer.write_manifest()
    write_video(out / "other.mp4", np.stack([*drawn_clip(2, frames=25).frames]))
    shutil.copytree(tiny_pipeline_folder, out / "model")
    index = out / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"sample_size": 160, "name": "tre"}))
    settings: Any = {"reference": out / "real", "out": out / "short", "offline": True, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASYMTALKER_CACHE", str(out / "cache"))
        evaluate(EvaluateConfig(**settings, model=str(out / "model")))
        made, other = out / "short" / "videos" / "tre", out / "sadtalker"
        (out / "repo").mkdir()
        (out / "repo" / "inference.py").write_text(FAKE.format(video=str(out / "other.mp4")))
        python = Path(sys.executable)
        run_baseline(
            BaselineSettings(method="sadtalker", repo=out / "repo", python=python, out=other, corpus=out / "real")
        )
        evaluate(EvaluateConfig(**settings, compare=(f"tre={made}", f"sadtalker={other}"), seconds="0.4,0.8"))
    return out


def value(number: float, width: float | None = None, samples: int = 4, of: str = "clips") -> dict[str, Any]:
    ends = (None, None) if width is None else (number - width, number + width)
    return {"value": number, "low": ends[0], "high": ends[1], "samples": samples, "of": of}


def method(shift: float, **changes: Any) -> dict[str, Any]:
    values = {
        "fd_face": value(12.5 + shift, 0.25, 500, "frames"),
        "lip_correlation": value(0.5 - shift / 10, 0.125),
        "face_distance": value(0.25),
        "head_motion": value(2.0 + shift),
    }
    curves = {
        "fd_face": {"x": MOMENTS[:2], "y": [1.0 + shift, 2.0 + shift], "clips": [4.0, 4.0]},
        "identity": {"x": [float(x) for x in range(10)], "y": [0.9] * 5 + [0.7, None, 0.7, 0.7, 0.7], "clips": [4.0]},
    }
    about = {"settings": {"sampler": {"num_steps": 4, "guidance_scale": 1.0}}}
    rest = {"clips": {}, "warnings": [], "failed": {}, "about": about}
    return {"values": values, "curves": curves} | rest | changes


def report(**methods: dict[str, Any]) -> dict[str, Any]:
    real = method(0.0, about={})
    del real["values"]["fd_face"], real["curves"]["fd_face"]
    return {
        "asymtalker": "0.1.0",
        "date": "2026-11-23T00:00:00+0000",
        "reference": {"path": "benchmark/short", "clips": 4, "seconds": 40.0, "size": [256, 256]},
        "timestamps": MOMENTS,
        "metrics": {
            name: {"title": about.title, "unit": about.unit, "better": about.better, "about": about.about}
            for name, about in METRICS.items()
        },
        "methods": {"reference": real} | {name.replace("_", "-"): made for name, made in methods.items()},
        "not_measured": dict.fromkeys(("fid", "fvd", "sync_c", "sync_d"), f"{Path.home()}/network.onnx is not there"),
    }


def write(out: Path, where: str, what: Any) -> None:
    path = out / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(what if isinstance(what, str) else json.dumps(what))


def section(text: str, title: str) -> str:
    return text.split(f"## {title}")[1].split("\n## ")[0]


def row(text: str, title: str, start: str) -> list[str]:
    """Cells of the first row of a section that begins with ``start``."""
    line = next(line for line in section(text, title).splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells_hold_value_interval_and_the_best_in_bold(tables, tmp_path):
    made = report(tre=method(0.0), etr=method(1.0), tre_gt_gt=method(2.0), omni=method(-1.0))
    write(tmp_path, "short/report.json", made)
    text = tables.document(tmp_path, random_encoders=False)
    head = row(text, "Table 3", "| Setting")
    assert head[1:7] == ["FID ↓", "FVD ↓", "Sync-C ↑", "Sync-D ↓", "FD face ↓", "Lip corr. ↑"]
    assert row(text, "Table 3", "| TRE (ours)")[5:7] == ["**12.50** [12.25, 12.75]", "**0.500** [0.375, 0.625]"]
    assert row(text, "Table 3", "| ETR")[5] == "13.50 [13.25, 13.75]"
    assert row(text, "Table 1", "| omni")[5] == "**11.50** [11.25, 11.75]"
    assert row(text, "Table 1", "| AsymTalker (ours)")[8] == "2.00"  # near what is real: no row is best
    assert row(text, "Table 4", "| Symmetric GT (GT / GT)")[5:7] == ["14.50 [14.25, 14.75]", "0.300 [0.175, 0.425]"]
    assert "FD face 500 frames; Lip corr. 4 clips" in section(text, "Table 3")
    assert "4 steps, guidance 1: etr, tre." in section(text, "Table 3")


def test_what_was_not_measured_has_a_footnote_with_the_reason(tables, tmp_path):
    lacking = method(1.0, clips={"clip": {"notes": ["no face found"]}})
    del lacking["values"]["lip_correlation"]
    write(tmp_path, "short/report.json", report(tre=method(0.0), omni=lacking))
    text = tables.document(tmp_path, random_encoders=False)
    fid = row(text, "Table 1", "| AsymTalker (ours)")[1]
    assert fid.startswith("–<sup>")
    number = fid[len("–<sup>") : -len("</sup>")]
    assert f"\n{number}. Not measured: {UNREACHABLE}\n" in section(text, "Table 1")
    assert section(text, "Table 1").count(UNREACHABLE) == 1  # four columns share it
    assert row(text, "Table 1", "| omni")[6].startswith("–<sup>")
    assert "Not measured: none of this method's clips allows it (no face found)." in section(text, "Table 1")
    assert "Real video has no distance from itself" in section(text, "Table 1")
    assert row(text, "Table 1", "| real video")[5].startswith("–<sup>")


def test_warnings_and_failed_clips_are_footnotes_of_what_they_concern(tables, tmp_path):
    warnings = [
        {"text": "It rests on 5 frames.", "metric": "fd_face", "curve": None},
        {"text": "Its points rest on 2 frames.", "metric": None, "curve": "fd_face"},
        {"text": "1 of 5 real clips have no video here.", "metric": None, "curve": None},
    ]
    made = report(tre=method(0.0, warnings=warnings, failed={"clip": "no face"}))
    for folder in ("short", "long"):
        write(tmp_path, f"{folder}/report.json", made)
    text = tables.document(tmp_path, random_encoders=False)
    cells = row(text, "Table 1", "| AsymTalker (ours)")
    table = section(text, "Table 1")
    assert cells[0] == "AsymTalker (ours)<sup>1, 2</sup>"
    assert "1. 1 of its clips could not be measured.\n2. 1 of 5 real clips have no video here.\n" in table
    number = table.split(". It rests on 5 frames.")[0][-1]
    assert cells[5].endswith(f"]<sup>{number}</sup>")
    assert [f"<sup>{number}</sup>" in cell for cell in cells].count(True) == 1
    assert "Its points" not in table
    figure = section(text, "Figure 5")
    assert row(text, "Figure 5", "| Fréchet")[1] == "AsymTalker (ours)<sup>2</sup>"  # 1: why there is no FID
    assert "2. Its points rest on 2 frames." in figure
    assert "It rests on 5 frames." not in figure


def test_variants_without_videos_say_what_they_need(tables, tmp_path):
    write(tmp_path, "short/report.json", report(tre=method(0.0), tre_teacher=method(1.0)))
    text = tables.document(tmp_path, random_encoders=False)
    assert row(text, "Table 3", "| CLIP")[1] == "not run: needs a CLIP model in CLIP_ENCODER"
    assert row(text, "Table 3", "| VTP")[1] == "not run: needs an Open-MAGVIT2 tokenizer in VTP_ENCODER"
    assert row(text, "Table 3", "| ETR")[1] == "not run"
    assert row(text, "Table 2", "|  |  | clip-teacher")[3] == "not run: needs a CLIP model in CLIP_ENCODER"
    assert row(text, "Table 2", "| ✓ |  | tre-teacher")[7].startswith("13.50")
    widths = {line.count("|") for line in section(text, "Table 2").splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_random_encoders_are_marked(tables, tmp_path):
    write(tmp_path, "short/report.json", report(tre=method(0.0), clip=method(1.0)))
    text = tables.document(tmp_path, random_encoders=True)
    assert row(text, "Table 3", "| CLIP")[0] == "CLIP<sup>1</sup>"
    assert "1. Its image encoder has random weights" in section(text, "Table 3")
    assert "random weights:" not in tables.document(tmp_path, random_encoders=False)


def test_a_curve_of_seconds_is_averaged_before_each_moment_it_reaches(figures):
    curve = {"x": [float(x) for x in range(10)], "y": [0.9] * 5 + [0.7, None, 0.7, 0.7, 0.7]}
    assert figures.at_moments(curve, MOMENTS, mean=True) == [pytest.approx(0.9), pytest.approx(0.7), None]
    assert figures.at_moments({"x": [5.0, 30.0], "y": [1.0, 2.0]}, MOMENTS, mean=False) == [1.0, None, 2.0]
    assert figures.at_moments(curve, [1.0, 2.0], mean=True) == [0.9, 0.9]  # windows of a second


def test_the_command_writes_the_figures_and_what_was_trained(tmp_path):
    made = report(tre=method(0.0), omni=method(1.0))
    made["methods"]["reference"]["curves"] = {}
    made["methods"]["omni"]["values"]["fps_loaded"] = value(0.25)
    for folder in ("short", "long"):
        write(tmp_path, f"{folder}/report.json", made)
    write(tmp_path, "speed/tre.json", (RESULTS / "tiny-cpu-2026-11-23.json").read_text())
    loop, inputs = {"steps": 20, "batch": 1, "seed": 0}, {"corpus": "corpus", "model": "parts"}
    for name, identity in {"tre": "tre", "etr": "etr"}.items():
        config = {"loop": loop, "model": {"identity": identity}, "inputs": inputs}
        write(tmp_path, f"runs/{name}-teacher/config.json", config)
        logged = [{"step": 10, "seconds_per_step": 90.0}, {"step": 10, "held_out": 1.0}]
        lines = [json.dumps(line) for line in [*logged, {"step": 20, "seconds_per_step": 270.0}]]
        write(tmp_path, f"runs/{name}-teacher/stats.jsonl", "\n".join(lines))
    student = {"loop": loop | {"steps": 40}, "steps_per_sample": 4, "inputs": inputs}
    write(tmp_path, "runs/tre/config.json", student)
    write(tmp_path, "runs/tre/stats.jsonl", json.dumps({"step": 20, "seconds_per_step": 9.0}))
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "tables.md").read_text()
    assert row(text, "What was trained", "| etr-teacher") == ["etr-teacher", "teacher", "20", "1", "180.00", "1.00"]
    assert row(text, "What was trained", "| tre |")[2] == "20 of 40: not finished"
    assert "Teachers differ in model.identity." in text
    assert row(text, "Figure 5", "| Fréchet")[1:] == ["AsymTalker (ours)", "1.00", "2.00", "–"]
    assert f"1. Not measured: {UNREACHABLE}" in section(text, "Figure 5")
    assert "19.9 FPS on 10 s of sound (median of 3), 1 steps, guidance 1.6" in section(text, "Figure 6")
    assert "omni: 0.25 FPS over 4 short clips" in section(text, "Figure 6")
    for name in ("figure5.svg", "figure6.svg"):
        assert (tmp_path / name).read_text().lstrip().startswith("<?xml")


def test_nothing_measured_is_said(tables, tmp_path):
    with pytest.raises(SystemExit, match="no short/report"):
        tables.document(tmp_path, random_encoders=False)


def test_long_clips_that_were_not_measured_leave_a_figure_that_says_so(tables, figures, tmp_path):
    write(tmp_path, "short/report.json", report(tre=method(0.0)))
    assert "Not measured: the long clips were not measured" in tables.document(tmp_path, random_encoders=False)
    figures.save(lambda: figures.figure_5(tables.read_report(tmp_path / "long")), tmp_path / "figure5.svg")
    figures.save(lambda: figures.figure_6({}), tmp_path / "figure6.svg")
    assert (tmp_path / "figure6.svg").stat().st_size


def test_a_real_report_gives_sampling_speed_and_warnings(tables, evaluated):
    shutil.copytree(evaluated / "short", evaluated / "long", dirs_exist_ok=True)
    text = tables.document(evaluated, random_encoders=False)
    assert "\n\nSampled in 2 steps, guidance 1: tre.\n" in section(text, "Table 1")
    seconds = json.loads((evaluated / "sadtalker" / "method.json").read_text())["loaded_seconds_per_video"]
    fps = 2 * 25 / sum(seconds.values())
    assert f"- sadtalker: {fps:.2f} FPS over 2 short clips, with loading" in section(text, "Figure 6")
    assert "Fréchet distance, expressions rests on" in section(text, "Table 1")
    assert "over time rests on" in section(text, "Figure 5")
    assert "over time rests on" not in section(text, "Table 1")


def test_the_committed_report_fills_a_table(tables, tmp_path):
    made = json.loads((RESULTS / "evaluate-short-tiny-cpu-2026-11-23.json").read_text())
    made["methods"]["tre"] = made["methods"].pop("asymtalker-tiny")
    write(tmp_path, "short/report.json", made)
    text = tables.document(tmp_path, random_encoders=False)
    assert "Sampled in 1 steps, guidance 1.6: tre." in section(text, "Table 1")
    assert "Samples a row: Lip corr. 99 clips" in section(text, "Table 1")
