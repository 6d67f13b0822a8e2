"""Tables of what `asymtalker bench` has written: python benchmarks/speeds.py FILE.json ..."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STOCK = "stock: diffusers' WanPipeline with the same options, save that it is one process and never 8 bits"
TARGET_DEVICE = "H200"
TARGETS = {
    "generate": "Targets on one H200: 66 FPS end to end at 512x512, 300 at 256x256.",
    "training": "Target on one H200: a step at 45% of the ceiling.",
}


def generation_row(name: str, report: dict[str, Any]) -> str:
    """The longest sound of a report of ``bench generate``."""
    result, stock = max(report["results"], key=lambda result: result["seconds"]), report["stock"]
    transformer = {part: result[part] and result[part]["transformer"] for part in ("tflops", "share_of_ceiling")}
    return (
        f"| {name} | {result['fps']:.1f} | {result['steady_fps'] or result['fps']:.1f} |"
        f" {result['first_frame_seconds']:.2f} | {_memory(result)} | {_number(transformer['tflops'], '.4g')} |"
        f" {_number(transformer['share_of_ceiling'], '.0%')} | {_number(result['floor_fps'], '.1f')} |"
        f" {_number(stock and stock['fps'], '.1f')} | {_number(result['times_stock'], '.2f')} |"
    )


def training_row(name: str, report: dict[str, Any]) -> str:
    """A report of ``bench train`` or ``bench distill``."""
    result, ceiling = report["results"], report["ceiling"]
    return (
        f"| {name} | {result['seconds_per_step']:.3f} | {result['samples_per_step']} | {_memory(result)} |"
        f" {result['tflops']:.4g} | {_number(result['share_of_ceiling'], '.0%')} |"
        f" {_number(ceiling and ceiling['matmul_tflops'], '.4g')} |"
    )


def tables(paths: Sequence[Path]) -> str:
    """Markdown tables of generation and of training, of the reports there are.

    Args:
        paths: what the commands have written.
    """
    reports = {path.stem: json.loads(path.read_text()) for path in paths}
    rows: dict[str, dict[str, Any]] = {"generate": {}, "training": {}}
    for name, report in reports.items():
        rows["generate" if report["benchmark"] == "generate" else "training"][name] = report
    lines = []
    if rows["generate"]:
        lines += [
            "| generation | FPS | after the first chunk | first frame, s | peak, GiB | transformer, TFLOP/s |"
            " of ceiling | floor, FPS | stock, FPS | times stock |",
            "| --- |" + " ---: |" * 9,
            *(generation_row(name, report) for name, report in rows["generate"].items()),
            "",
            f"{STOCK}.",
            *_targets("generate", rows["generate"]),
            "",
        ]
    if rows["training"]:
        lines += [
            "| training | s a step | samples | peak, GiB | TFLOP/s | of ceiling | ceiling, TFLOP/s |",
            "| --- |" + " ---: |" * 6,
            *(training_row(name, report) for name, report in rows["training"].items()),
            "",
            *_targets("training", rows["training"]),
        ]
    return "\n".join(lines)


def _targets(kind: str, reports: dict[str, Any]) -> list[str]:
    """What is aimed at on the device of the reports, if it is that one."""
    there = any(TARGET_DEVICE in report["machine"]["device"] for report in reports.values())
    return [TARGETS[kind]] if there else []


def _number(value: float | None, form: str) -> str:
    """A dash for what was not measured."""
    return "-" if value is None else format(value, form)


def _memory(result: dict[str, Any]) -> str:
    """Of the GPU where there is one."""
    return f"{result.get('peak_gpu_mib', result['peak_rss_mib']) / 1024:.1f}"


if __name__ == "__main__":
    print(tables([Path(name) for name in sys.argv[1:]]))
