"""Two processes under torchrun, with every network in shards, are one process: the same losses, the same weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from process import train, train_all
from safetensors.torch import load_file

from asymtalker.config import LoopConfig
from asymtalker.errors import UserError
from asymtalker.training import distributed
from asymtalker.training.distributed import check_world, gradient_share, micro_batches
from torchrun import torchrun, torchrun_forks
from toy import toy_loop

STEPS = {"teacher": 10, "distill": 5}  # the tenth gives a held-out loss; a student's are three updates each
FEW = {"teacher": 2, "distill": 1}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SCRIPT = str(Path(__file__).with_name("process.py"))


@pytest.fixture(scope="module")
def by_one_and_by_two(toy_corpus, tiny_pipeline_folder) -> tuple[Callable, Callable]:
    """Train jobs ``[what, run, changes]`` in this process, or in two as under torchrun."""

    def by_one(jobs: list) -> None:
        for job in jobs:
            train(*job, toy_corpus, tiny_pipeline_folder)

    def by_two(jobs: list) -> None:
        done = torchrun_forks(2, train_all, toy_corpus, tiny_pipeline_folder, jobs)
        assert done.returncode == 0, done.stderr[-3000:]

    return by_one, by_two


def both(folder: Path, name: str, steps: dict[str, int] = STEPS, **changes) -> list:
    """Jobs of a teacher and of a student."""
    return [[what, str(folder / f"{what}-{name}"), {"steps": count} | changes] for what, count in steps.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, by_one_and_by_two) -> Path:
    """Runs of one process, of two, and in turn of one, of two, of two again and of one."""
    folder = tmp_path_factory.mktemp("runs")
    by_one, by_two = by_one_and_by_two
    by_one([*both(folder, "one"), *both(folder, "in-turn", dict.fromkeys(STEPS, 1))])
    in_turn = [job for steps in (3, 4) for job in both(folder, "in-turn", dict.fromkeys(STEPS, steps))]
    by_two([*both(folder, "two"), *in_turn])
    by_one(both(folder, "in-turn"))
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory, by_one_and_by_two) -> Path:
    """Runs of few steps with what changes how a step is computed, of one process and of two."""
    folder = tmp_path_factory.mktemp("options")
    by_one, by_two = by_one_and_by_two
    accumulated: dict = {"steps": FEW, "micro_batches": 4}
    mixed: dict = {"steps": FEW, "autocast": "bfloat16", "gradient_checkpointing": True}
    by_one([*both(folder, "accumulated-one", **accumulated), *both(folder, "bf16-one", **mixed)])
    held, _ = both(folder, "held", FEW)
    offloaded, _ = both(folder, "offloaded", FEW, cpu_offload=True, sample_every=1)
    by_two([held, offloaded, *both(folder, "accumulated", **accumulated), *both(folder, "bf16", **mixed)])
    return folder


def logged(run: Path) -> list[dict]:
    """The lines of each step, in order."""
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("time", "seconds_per_step")} for line in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["teacher", "distill"])
@pytest.mark.parametrize("name", ["two", "in-turn"])
def test_losses_and_weights_are_those_of_one_process(runs, what, name):
    """Over all steps, straight on, and gone on with by another number of processes twice and by as many once."""
    one, other = (logged(runs / f"{what}-{which}") for which in ("one", name))
    assert len(one) == len(other) >= STEPS[what]
    for expected, line in zip(one, other, strict=True):
        assert line == pytest.approx(expected, rel=2e-4, abs=1e-6)
    expected, weights = (load_file(runs / f"{what}-{which}" / WEIGHTS) for which in ("one", name))
    assert expected.keys() == weights.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            weights[key], value, rtol=1e-3, atol=2e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.slow
def test_training_changed_the_weights_that_are_compared(runs, tiny_pipeline_folder):
    before = load_file(tiny_pipeline_folder / WEIGHTS)
    for what in ("teacher", "distill"):
        after = load_file(runs / f"{what}-one" / WEIGHTS)
        moved = max(float((after[name] - before[name]).abs().max()) for name in before)
        assert moved > 2e-3, what  # ten times the tolerance of the comparison


@pytest.mark.slow
def test_offloading_changes_nothing(options):
    offloaded = [line for line in logged(options / "teacher-offloaded") if "fm" in line]
    assert len(offloaded) == 2
    for line, held in zip(offloaded, logged(options / "teacher-held"), strict=True):
        assert line == pytest.approx(held, rel=1e-6)


@pytest.mark.slow
def test_samples_of_several_processes_are_logged_once(options):
    run = options / "teacher-offloaded"
    assert len(list(run.glob("events.*"))) == 1
    assert len([line for line in logged(run) if "sample_l1" in line]) == 2
    assert len(list((run / "samples").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("what", ["teacher", "distill"])
def test_micro_batches_add_up_on_shards(options, what):
    one, two = (logged(options / f"{what}-{name}") for name in ("accumulated-one", "accumulated"))
    for expected, line in zip(one, two, strict=True):
        assert line == pytest.approx(expected, rel=2e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["teacher", "distill"])
def test_mixed_precision_and_recomputation_follow_one_process(options, what):
    one, two = (logged(options / f"{what}-{name}") for name in ("bf16-one", "bf16"))
    for expected, line in zip(one, two, strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_each_process_keeps_its_own_shards(runs, tiny_pipeline_folder):
    files = sorted((runs / "teacher-two" / "checkpoint").iterdir())
    assert len(files) == 2
    sizes = [sum(value.numel() for value in load_file(file).values()) for file in files]
    assert max(sizes) < 1.2 * min(sizes)


def test_processes_share_out_the_micro_batches_of_a_step(monkeypatch):
    def numbers(size: int, number: int) -> list[int]:
        monkeypatch.setenv("WORLD_SIZE", str(size))
        found = []
        for rank in range(size):
            monkeypatch.setenv("RANK", str(rank))
            found.append(list(micro_batches(loop, number)))
            assert found[-1][-1] + size == micro_batches(loop, number + 1)[0]
        assert len({len(own) for own in found}) == 1
        return sorted(index for own in found for index in own)

    loop = toy_loop(micro_batches=4)
    assert numbers(1, 0) == numbers(2, 0) == numbers(4, 0)
    assert len(set(numbers(2, 0) + numbers(2, 1))) == 8


def test_the_gradient_is_the_mean_over_micro_batches(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loop = toy_loop(micro_batches=6)
    of_process = len(list(micro_batches(loop, 0))) * gradient_share(loop)
    assert of_process == 1  # averaged over the processes


def refused(monkeypatch, size: int, loop: LoopConfig) -> str:
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(0, size))
    with pytest.raises(UserError) as error:
        check_world(loop)
    return str(error.value)


def test_steps_that_processes_cannot_share_are_refused(monkeypatch):
    assert "--config.loop.micro-batches 6" in refused(monkeypatch, 3, toy_loop(micro_batches=4))
    assert "torchrun" in refused(monkeypatch, 1, toy_loop(cpu_offload=True))


@pytest.mark.slow
def test_a_lost_process_ends_the_job_with_a_line_and_the_command_resumes(tmp_path, toy_corpus, tiny_pipeline_folder):
    job = ["teacher", str(tmp_path / "run"), {"steps": 6, "checkpoint_every": 2}]
    lost = torchrun(2, SCRIPT, str(toy_corpus), str(tiny_pipeline_folder), json.dumps([job]), "4")
    assert lost.returncode != 0
    assert "the same command starts it again" in lost.stderr, lost.stderr
    assert (tmp_path / "run" / "checkpoint").exists()
    train(*job, toy_corpus, tiny_pipeline_folder)
    assert [line["step"] for line in logged(tmp_path / "run") if "fm" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_process_lost_while_encoding_is_said(tmp_path, toy_corpus, tiny_pipeline_folder):
    corpus = shutil.copytree(toy_corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    jobs = [["teacher", tmp_path / "run", {}]]
    lost = torchrun_forks(2, train_all, corpus, tiny_pipeline_folder, jobs, 0, 0, True)
    assert lost.returncode != 0
    assert "the same command starts it again" in lost.stderr, lost.stderr


@pytest.mark.slow
def test_a_process_that_handles_no_signals_says_that_another_was_lost(tmp_path, toy_corpus, tiny_pipeline_folder):
    jobs = [["teacher", tmp_path / "run", {"steps": 4}]]
    lost = torchrun_forks(2, train_all, toy_corpus, tiny_pipeline_folder, jobs, 3, 3)
    assert lost.returncode != 0
    assert lost.stderr.count("This job was stopped, or lost a process") == 1
