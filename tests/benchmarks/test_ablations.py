"""benchmarks/ablations.py: its table says what was measured."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablations.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def measured(lips: list[float], away: list[float]) -> dict:
    """A model: lips by clip and noise, and how far from the portrait each minute is."""
    first = [dict.fromkeys(("amplitude", "head", "blinks", "away"), 0.5) | {"lips": value} for value in lips]
    row = dict.fromkeys(("face", "head", "lips"), [0.1] * len(away)) | {"away": away, "joins": [1.5]}
    return {"first": first, "long": [row]}


def cells(script, models: dict) -> dict[str, dict[str, str]]:
    """The table's cells by row and column."""
    head, _, *rows = (line.strip("| ").split(" | ") for line in script["table"](models).splitlines())
    return {row[0]: dict(zip(head, row[1:], strict=True)) for row in rows}


def test_a_row_is_of_all_seeds_and_minutes_are_the_first_and_the_last(script):
    models = {
        "gt-gen/gt-gen-0": measured([0.5, 0.5, 0.7, 0.7], [1.0, 9.0, 3.0]),
        "gt-gen/gt-gen-1": measured([0.7, 0.7, 0.9, 0.9], [1.0, 9.0, 3.0]),
        "reuse/gt-gen-0+reuse": measured([0.5, 0.7, 0.7, 0.5], [2.0, 2.0, 2.0]),
    }
    table = cells(script, models)
    assert table.keys() == {"gt-gen", "reuse"}
    assert table["gt-gen"]["seeds"] == "2"
    assert table["reuse"]["seeds"] == "1"
    assert table["gt-gen"]["lips"] == "0.7 (0.55 to 0.85)"
    assert table["reuse"]["lips"] == "0.6 (0.6 to 0.6)", "noises of a clip are drawn as if they were clips"
    assert table["gt-gen"]["away, 3 s"] == "0.5 (0.5 to 0.5)"
    assert table["gt-gen"]["away, minute 1"] == "1 (1 to 1)"
    assert table["gt-gen"]["away, last minute"] == "3 (3 to 3)"
    assert table["gt-gen"]["joins"] == "1.5 (1.5 to 1.5)"


def test_what_was_not_measured_then_is_left_empty(script):
    model = measured([0.5, 0.5], [1.0])
    model["long"].append(dict(model["long"][0]))
    del model["long"][0]["joins"]
    assert cells(script, {"old/old": model})["old"]["joins"] == "–"
