"""A table of what `asymtalker bench` has written: python benchmarks/speeds.py FILE.json ..."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def generation_row(name: str, report: dict[str, Any]) -> str:
    """The longest sound of a report of ``bench generate``."""
    result, stock = report["results"][-1], report["stock"]
    share = result["share_of_ceiling"]["transformer"]
    return (
        f"| {name} | {result['fps']:.1f} | {result['steady_fps'] or result['fps']:.1f} |"
        f" {result['first_frame_seconds']:.2f} | {_memory(result)} | {result['tflops']['transformer']:.4g} |"
        f" {share:.0%} | {result['floor_fps']:.1f} | {stock['fps']:.1f} | {result['times_stock']:.2f} |"
    )


def training_row(name: str, report: dict[str, Any]) -> str:
    """A report of ``bench train``."""
    result = report["results"]
    return (
        f"| {name} | {result['seconds_per_step']:.3f} | {result['samples_per_step']} | {_memory(result)} |"
        f" {result['tflops']:.4g} | {result['share_of_ceiling']:.0%} | {report['ceiling']['matmul_tflops']:.4g} |"
    )


def tables(paths: Sequence[Path]) -> str:
    """Markdown tables of generation and of training, of the reports there are.

    Args:
        paths: what the two commands have written.
    """
    reports = {path.stem: json.loads(path.read_text()) for path in paths}
    rows = {kind: {n: r for n, r in reports.items() if r["benchmark"] == kind} for kind in ("generate", "train")}
    lines = []
    if rows["generate"]:
        lines += [
            "| generation | FPS | after the first chunk | first frame, s | peak, GiB | transformer, TFLOP/s |"
            " of ceiling | floor, FPS | stock, FPS | times stock |",
            "| --- |" + " ---: |" * 9,
            *(generation_row(name, report) for name, report in rows["generate"].items()),
            "",
        ]
    if rows["train"]:
        lines += [
            "| training | s a step | samples | peak, GiB | TFLOP/s | of ceiling | ceiling, TFLOP/s |",
            "| --- |" + " ---: |" * 6,
            *(training_row(name, report) for name, report in rows["train"].items()),
            "",
        ]
    return "\n".join(lines)


def _memory(result: dict[str, Any]) -> str:
    """Of the GPU where there is one."""
    return f"{result.get('peak_gpu_mib', result['peak_rss_mib']) / 1024:.1f}"


if __name__ == "__main__":
    print(tables([Path(name) for name in sys.argv[1:]]))
