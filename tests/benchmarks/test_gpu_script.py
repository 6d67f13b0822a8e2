"""runs/gpu.sh with a Python that only pretends to measure: what is measured, in which order, and what is said."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from test_speeds import GENERATION, TRAINING

SCRIPT = Path(__file__).parents[2] / "runs" / "gpu.sh"
PYTHON = """#!/usr/bin/env bash
case "$*" in
    runs/missing.py*) ;;
    benchmarks/speeds.py*) exec python3 "$@" ;;
    -c*) printf '1\\nAbacus 9000\\n' >"${@: -2:1}" ;;
    *--fp8*) echo "torchao is not here"; exit 2 ;;
    *"bench generate"*) cp generate "${@: -1}" ;;
    *" bench "*) cp train "${@: -1}" ;;
    *pytest*) echo "2 passed" ;;
esac
"""


@pytest.fixture
def measure(tmp_path):
    """Run a part of the script; gives its result and the names of what it wrote."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "generate").write_text(json.dumps(GENERATION))
    (inputs / "train").write_text(json.dumps(TRAINING))
    python = tmp_path / "python"
    python.write_text(PYTHON.replace("cp ", f"cp {inputs}/"))
    python.chmod(0o755)

    def run(part: str, **variables: str) -> tuple[subprocess.CompletedProcess, set[str]]:
        out = tmp_path / "out"
        command = ["bash", SCRIPT, part, out]
        environment = os.environ | {"PYTHON": str(python)} | variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done, {path.name.split("-abacus-9000-")[0] for path in out.glob("*.json")}

    return run


def test_the_first_part_measures_both_sizes_and_prints_a_table(measure):
    done, made = measure("first")
    assert done.returncode == 0, done.stderr
    assert made == {"wan_1_3b-512x512-compile", "wan_1_3b-256x256-compile"}
    order = [line.split(",")[0] for line in done.stderr.splitlines() if line.startswith("==")]
    assert order[2:] == ["== wan_1_3b-512x512-compile", "== tests on the GPU", "== wan_1_3b-256x256-compile"]
    assert "| wan_1_3b-512x512-compile-abacus-9000-" in done.stdout


def test_what_fails_is_named_and_the_others_go_on(measure):
    done, made = measure("second", RECIPE="smoke", SIZES="64x64")
    assert done.returncode == 1
    assert "not measured: smoke-64x64-compile-fp8: torchao is not here" in done.stderr
    assert {"smoke-train-64x64", "smoke-distill-64x64", "smoke-64x64"} <= made
    assert "smoke-64x64-compile-fp8" not in made
    assert "| smoke-distill-64x64-abacus-9000-" in done.stdout


def test_nothing_is_begun_for_which_no_time_is_left(measure):
    done, made = measure("first", LIMIT="9")
    assert done.returncode == 2
    assert "device: no time was left" in done.stderr
    assert not made


def test_a_part_must_be_named(measure):
    done, made = measure("all")
    assert done.returncode == 2
    assert "first, second or rest" in done.stderr
    assert not made
