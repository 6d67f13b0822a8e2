"""What decides how fast a processor is here, side by side: bfloat16 and float32, and the codec's narrow 3-D
convolutions by PyTorch and by 2-D ones: python benchmarks/processor.py [--runs 5] [--out benchmarks/results/NAME.json]

One thread is measured, by the time that the processor spends on it, which other work on the machine disturbs little.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from asymtalker.bench.machine import describe_machine, load_average
from asymtalker.bench.run import report_header
from asymtalker.convolution import convolve_frames, is_narrow
from asymtalker.media.atomic import write_atomic
from asymtalker.models.precision import choose_precision, precision_name

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CONVOLUTIONS = (  # of a small codec of Wan's kind at 256x256: the input, padded, and the kernel
    ((1, 24, 3, 34, 34), (24, 24, 3, 3, 3)),
    ((1, 24, 4, 66, 66), (24, 24, 3, 3, 3)),
    ((1, 12, 6, 130, 130), (24, 12, 3, 3, 3)),
    ((1, 24, 6, 130, 130), (24, 24, 3, 3, 3)),
    ((1, 24, 6, 130, 130), (12, 24, 3, 3, 3)),
    ((1, 12, 6, 130, 130), (32, 12, 3, 3, 3)),
)


def compare_precisions(runs: int) -> list[dict[str, Any]]:
    """Products, convolutions and attention of the bundled model's kind, small, in each precision."""
    left, right = _random(336, 384), _random(384, 384)
    picture, kernel = _random(1, 48, 34, 34), _random(48, 48, 3, 3)
    frames, kernels = _random(1, 24, 4, 34, 34), _random(24, 24, 3, 3, 3)
    tokens = _random(1, 6, 336, 64)
    works: dict[str, tuple[float, Callable[..., object], tuple[torch.Tensor, ...]]] = {
        "linear map, 336 tokens, 384 to 384": (2 * 336 * 384 * 384, F.linear, (left, right)),
        "matrix product 336x384x384": (2 * 336 * 384 * 384, torch.matmul, (left, right)),
        "convolution 3x3, 48 channels, 32x32": (2 * 9 * 48 * 48 * 32 * 32, F.conv2d, (picture, kernel)),
        "convolution 3x3x3, 24 channels, 2x32x32": (2 * 27 * 24 * 24 * 2 * 32 * 32, F.conv3d, (frames, kernels)),
        "attention, 336 tokens, 6 heads of 64": (
            4 * 6 * 336 * 336 * 64,
            F.scaled_dot_product_attention,
            (tokens, tokens, tokens),
        ),
    }
    rows = []
    for name, (flops, work, values) in works.items():
        ways = {
            precision: partial(work, *(value.to(dtype) for value in values)) for precision, dtype in PRECISIONS.items()
        }
        with torch.inference_mode():
            seconds = side_by_side(ways, runs)
        gflops = {way: round(1e-9 * flops / spent, 2) for way, spent in seconds.items()}
        ratio = round(seconds["bfloat16"] / seconds["float32"], 2)
        rows.append({"work": name, "gflops": gflops, "bfloat16_times_float32": ratio})
    return rows


def compare_convolutions(runs: int) -> list[dict[str, Any]]:
    """Milliseconds of narrow convolutions in float32, forwards, and forwards and backwards to input and weights."""
    rows = []
    for shape, kernel in CONVOLUTIONS:
        x, weight, bias = _random(*shape), _random(*kernel), _random(kernel[0])
        assert is_narrow(x, weight), "what is measured is what is computed otherwise"
        given = (x, weight, bias)
        ways: dict[str, Callable[..., torch.Tensor]] = {"3-D": F.conv3d, "2-D": convolve_frames}
        values = {way: convolve(*given) for way, convolve in ways.items()}
        error = (values["2-D"] - values["3-D"]).abs().max() / values["3-D"].abs().max()
        with torch.inference_mode():
            forward = side_by_side({way: partial(convolve, *given) for way, convolve in ways.items()}, runs)
        both = side_by_side({way: partial(_there_and_back, convolve, given) for way, convolve in ways.items()}, runs)
        rows.append(
            {
                "input": list(shape),
                "kernel": list(kernel),
                "forward_ms": {way: round(1e3 * spent, 2) for way, spent in forward.items()},
                "there_and_back_ms": {way: round(1e3 * spent, 2) for way, spent in both.items()},
                "relative_error": float(error),
            }
        )
    return rows


def _there_and_back(convolve: Callable[..., torch.Tensor], given: tuple[torch.Tensor, ...]) -> None:
    leaves = [value.detach().requires_grad_() for value in given]
    torch.autograd.grad(convolve(*leaves).square().sum(), leaves)


def side_by_side(ways: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each way to do something, the ways taking turns, after once to warm up."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + runs):
        for name, work in ways.items():
            begin = time.process_time()
            work()
            spent[name].append(time.process_time() - begin)
    return {name: statistics.median(times[1:]) for name, times in spent.items()}


def table(report: dict[str, Any]) -> str:
    """The report for a person, in Markdown."""
    lines = ["| GFLOP/s, one thread | bfloat16 | float32 |", "| --- | ---: | ---: |"]
    for row in report["precisions"]:
        lines.append(f"| {row['work']} | {row['gflops']['bfloat16']} | {row['gflops']['float32']} |")
    lines += [
        "",
        "| ms: input, kernel | 3-D | 2-D | 3-D there and back | 2-D |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["convolutions"]:
        times = [row[part][way] for part in ("forward_ms", "there_and_back_ms") for way in ("3-D", "2-D")]
        lines.append(f"| {row['input']}, {row['kernel']} | {' | '.join(map(str, times))} |")
    return "\n".join(lines)


def measure(runs: int) -> dict[str, Any]:
    """The whole report; ``chosen`` is what ``--precision auto`` is on this processor."""
    load = load_average()
    torch.set_num_threads(1)
    chosen = precision_name(choose_precision(torch.device("cpu")))
    report = report_header("processor", describe_machine("cpu") | load, {"runs": runs}) | {"chosen": chosen}
    return report | {"precisions": compare_precisions(runs), "convolutions": compare_convolutions(runs)}


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    measured = measure(given.runs)
    print(table(measured))
    if given.out:
        write_atomic(given.out, json.dumps(measured, indent=2) + "\n")
