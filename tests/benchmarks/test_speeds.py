"""benchmarks/speeds.py: a table of the reports of asymtalker bench."""

import json
import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speeds.py"
GENERATION = {
    "benchmark": "generate",
    "machine": {"device": "cpu"},
    "results": [
        {
            "seconds": 60.0,
            "fps": 40.25,
            "steady_fps": 44.5,
            "first_frame_seconds": 2.125,
            "peak_rss_mib": 4096.0,
            "peak_gpu_mib": 20_480.0,
            "tflops": {"transformer": 395.0, "decode": 100.0},
            "share_of_ceiling": {"transformer": 0.5, "decode": 0.125},
            "floor_fps": 80.7,
            "times_stock": 1.5,
        },
        {"seconds": 10.0, "fps": 1.0},
    ],
    "stock": {"fps": 29.67},
}
TRAINING = {
    "benchmark": "train",
    "machine": {"device": "cpu"},
    "results": {
        "seconds_per_step": 4.5678,
        "samples_per_step": 4,
        "peak_rss_mib": 1536.0,
        "tflops": 355.5,
        "share_of_ceiling": 0.45,
    },
    "ceiling": {"matmul_tflops": 790.0},
}


def tables(tmp_path: Path, **reports: dict) -> str:
    paths = [tmp_path / f"{name}.json" for name in reports]
    for path, report in zip(paths, reports.values(), strict=True):
        path.write_text(json.dumps(report))
    return runpy.run_path(str(SCRIPT))["tables"](paths)


def rows(tmp_path: Path, **reports: dict) -> dict[str, list[str]]:
    lines = tables(tmp_path, **reports).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_each_report_is_a_row_of_its_table(tmp_path):
    found = rows(tmp_path, fast=GENERATION, steps=TRAINING)
    assert found["fast"] == ["40.2", "44.5", "2.12", "20.0", "395", "50%", "80.7", "29.7", "1.50"]
    assert found["steps"] == ["4.568", "4", "1.5", "355.5", "45%", "790"]
    assert len(found["generation"]) == len(found["fast"])
    assert len(found["training"]) == len(found["steps"])


def test_one_kind_of_report_makes_one_table(tmp_path):
    assert "training" not in rows(tmp_path, fast=GENERATION)
    assert "generation" not in rows(tmp_path, steps=TRAINING)


def test_what_was_not_measured_is_a_dash(tmp_path):
    figures = ("tflops", "share_of_ceiling", "floor_fps", "times_stock")
    result = GENERATION["results"][0] | dict.fromkeys(figures)
    training = TRAINING["results"] | {"share_of_ceiling": None}
    found = rows(
        tmp_path,
        fast=GENERATION | {"results": [result], "stock": None},
        steps=TRAINING | {"results": training, "ceiling": None},
    )
    assert found["fast"] == ["40.2", "44.5", "2.12", "20.0", *["-"] * 5]
    assert found["steps"] == ["4.568", "4", "1.5", "355.5", "-", "-"]


def test_targets_are_said_of_the_device_they_are_for(tmp_path):
    assert "H200" not in tables(tmp_path, fast=GENERATION, steps=TRAINING)
    machine = {"machine": {"device": "NVIDIA H200"}}
    said = tables(tmp_path, fast=GENERATION | machine, steps=TRAINING | machine)
    generation, training = (line for line in said.splitlines() if "H200" in line)
    assert "66" in generation
    assert "300" in generation
    assert "45%" in training
