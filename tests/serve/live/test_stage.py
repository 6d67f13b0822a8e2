"""A machine takes as many live sessions as it can hold in real time, and says why it takes no more."""

import gc
import time

import pytest

from asymtalker.config import LiveConfig
from asymtalker.serve.stage import FullError, Stage

LIVE = LiveConfig(frames=9, new=4, ahead=2, steps=1)


@pytest.fixture
def stage(moving_pipeline):
    stage = Stage(moving_pipeline, LIVE)
    yield stage
    stage.close()


def test_what_is_tried_out_is_what_it_takes(stage, face, moving_pipeline, monkeypatch):
    """A network that is slower by a known time makes a rehearsal slower by it."""
    quick = stage.rehearse(face)
    forward = type(moving_pipeline.transformer).forward
    slept = 0.3  # seconds, for each chunk of four frames

    def slow(*arguments, **keywords):
        time.sleep(slept)
        return forward(*arguments, **keywords)

    monkeypatch.setattr(type(moving_pipeline.transformer), "forward", slow)
    assert stage.rehearse(face) == pytest.approx(1 / (1 / quick + slept / (4 / 25)), rel=0.5)
    with pytest.raises(FullError, match=r"^Alone on this machine this picture can be moved at \d+ frames a second"):
        stage.open(face)
    assert not stage.sessions


def test_it_is_refused_where_others_leave_too_little(stage, face, monkeypatch):
    monkeypatch.setattr(stage, "rehearse", lambda _: 2.0)  # of which one that has just begun takes half
    first = stage.open(face)
    with pytest.raises(FullError, match=r"^Beside the 1 session open here .* at 25 frames a second. 29 are needed"):
        stage.open(face)
    first.close()
    second = stage.open(face)
    assert stage.sessions == [second]


def test_it_is_refused_while_another_is_behind(stage, face, monkeypatch):
    monkeypatch.setattr(stage, "rehearse", lambda _: 10.0)
    session = stage.open(face)
    session.latency.late(0.2)
    with pytest.raises(FullError, match="can't keep up already"):
        stage.open(face)


def test_what_libraries_hold_is_gone_through_no_more(moving_pipeline):
    """Each time it was, every head stood still for a quarter of a second."""
    gc.unfreeze()
    Stage(moving_pipeline, LIVE)
    assert gc.get_freeze_count() > 10 * sum(gc.get_count())
