"""benchmarks/processor.py: ways side by side on one processor."""

import runpy
from pathlib import Path

import torch

processor = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "processor.py"))


def test_ways_take_turns_and_warm_up_once():
    calls: list[str] = []
    found = processor["side_by_side"]({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert found.keys() == {"a", "b"}
    assert min(found.values()) >= 0


def test_a_report_names_the_processor_and_what_is_chosen_there():
    threads = torch.get_num_threads()
    try:
        report = processor["measure"](1)
    finally:
        torch.set_num_threads(threads)
    assert report["chosen"] in ("bfloat16", "float32")
    assert isinstance(report["machine"]["cpu_flags"], list)
    assert all(row["relative_error"] < 1e-5 for row in report["convolutions"])
    assert len(processor["table"](report).splitlines()) == 2 + len(report["precisions"]) + 3 + len(
        report["convolutions"]
    )
