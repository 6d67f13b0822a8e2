"""The engine: what dies or fails takes nothing with it, whatever it runs on."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from asymtalker.curate.engine import Engine, Problem
from asymtalker.errors import UserError


def double(item: int) -> int:
    return 2 * item


def die_of(which: int, log: Path, item: int) -> int:
    with log.open("a") as file:
        file.write(f"{item}\n")
    if item == which:
        os.kill(os.getpid(), signal.SIGSEGV)  # as a decoder's own code does
    return item


def fail_of(which: int, item: int) -> int:
    if item == which:
        raise ValueError("no such luck")
    return item


def fill_disk(item: int) -> int:
    raise OSError(28, "No space left on device")


def results(engine: Engine, stages, items) -> dict[str, object]:
    return dict(engine.run_stages(stages, items, str))


@pytest.fixture
def engine(tmp_path) -> Engine:
    return Engine.begun(tmp_path / "tried", 2, None)


def test_items_pass_all_stages(engine):
    assert results(engine, [double, double], list(range(5))) == {str(item): 4 * item for item in range(5)}


def test_what_kills_its_process_is_put_aside_after_another_try(engine, tmp_path):
    log = tmp_path / "log"
    found = results(engine, [partial(die_of, 2, log), double], list(range(5)))
    assert isinstance(found["2"], Problem)
    assert "a process died of it" in found["2"].reason
    assert {key: value for key, value in found.items() if key != "2"} == {"0": 0, "1": 2, "3": 6, "4": 8}
    tries = log.read_text().split()
    assert tries.count("2") == 2
    assert all(tries.count(item) == 1 for item in "0134")


def test_what_killed_an_earlier_run_is_tried_again(tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        results(Engine.begun(tmp_path / "tried", 1, None), [partial(die_of, 1, log)], [1])
    assert log.read_text().split().count("1") == 4


def test_an_exception_is_the_items_own(engine):
    found = results(engine, [partial(fail_of, 1), double], [0, 1, 2])
    assert found["0"] == 0
    assert found["2"] == 4
    assert isinstance(found["1"], Problem)
    assert "no such luck" in found["1"].reason
    assert "test_engine.py" in found["1"].reason


def test_a_full_disk_ends_the_run(engine):
    with pytest.raises(UserError, match="The disk is full"):
        results(engine, [fill_disk], [1])


def sleep_long(item: int) -> int:
    if item == 1:
        time.sleep(600)
    return item


def test_what_hangs_is_put_aside_while_others_go_on(engine, monkeypatch):
    monkeypatch.setattr("asymtalker.curate.engine.HANGS", 4.0)
    monkeypatch.setattr("asymtalker.curate.engine.LOOK_SECONDS", 0.2)
    found = results(engine, [sleep_long], [0, 1, 2, 3])
    assert isinstance(found.pop("1"), Problem)
    assert found == {"0": 0, "2": 2, "3": 3}


class Unreadable:
    """An item that ends every process that it is sent to."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_dies_before_it_begins_is_not_started_for_ever(engine):
    (found,) = dict(engine.run_stages([double], [Unreadable()], lambda item: "it")).values()
    assert isinstance(found, Problem)
    assert "before it began" in found.reason


def test_a_cluster_needs_ray(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install asymtalker\[cluster\]"):
        Engine.begun(tmp_path / "tried", 1, "auto")


@pytest.mark.slow
def test_ray_does_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # its processes have to find this file's functions
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    log = tmp_path / "log"
    try:
        engine = Engine.begun(tmp_path / "tried", 1, "local")
        found = results(engine, [partial(die_of, 2, log), double], [0, 1, 2])
    finally:
        ray.shutdown()
    assert isinstance(found.pop("2"), Problem)
    assert found == {"0": 0, "1": 2}
