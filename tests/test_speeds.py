"""benchmarks/speeds.py: a table of the reports of asymtalker bench."""

import json
import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "speeds.py"
GENERATION = {
    "benchmark": "generate",
    "results": [
        {"fps": 1.0},
        {
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
    ],
    "stock": {"fps": 29.67},
}
TRAINING = {
    "benchmark": "train",
    "results": {
        "seconds_per_step": 4.5678,
        "samples_per_step": 4,
        "peak_rss_mib": 1536.0,
        "tflops": 355.5,
        "share_of_ceiling": 0.45,
    },
    "ceiling": {"matmul_tflops": 790.0},
}


def rows(tmp_path: Path, **reports: dict) -> dict[str, list[str]]:
    paths = [tmp_path / f"{name}.json" for name in reports]
    for path, report in zip(paths, reports.values(), strict=True):
        path.write_text(json.dumps(report))
    lines = runpy.run_path(str(SCRIPT))["tables"](paths).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
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
