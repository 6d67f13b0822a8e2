"""benchmarks/floor.py: what a chunk asks of a GPU, by part."""

import runpy
from pathlib import Path

import pytest

floor = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "floor.py"))["floor"]


def rows(size: tuple[int, int], operations: float, preview: bool = False) -> dict[str, list[float]]:
    lines = floor("smoke", size, operations, preview).split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: [float(value) for value in values] for name, *values in cells[2:]}


def test_parts_add_up_and_more_pixels_and_slower_machines_take_longer():
    small, large, slow = rows((64, 64), 1e9), rows((64, 128), 1e9), rows((64, 64), 5e8)
    *parts, total = small.values()
    assert sum(seconds for _, seconds, _ in parts) == pytest.approx(total[1], abs=0.003)
    assert large["decoding"][1] == pytest.approx(2 * small["decoding"][1], rel=0.05)
    assert slow["in all"][1] == pytest.approx(2 * total[1], rel=0.01)
    assert total[2] == pytest.approx(28 / total[1], abs=1)  # 33 frames, of which 5 were there


def test_a_preview_is_a_part_of_its_own():
    plain, shown = rows((64, 64), 1e9), rows((64, 64), 1e9, preview=True)
    assert shown.keys() - plain.keys() == {"preview"}
    *parts, total = shown.values()
    assert sum(seconds for _, seconds, _ in parts) == pytest.approx(total[1], abs=0.003)
    assert shown["decoding"][1] < plain["decoding"][1]
