"""The networks work for one thread at a time, in the order of what is due, then of asking."""

import threading
import time
from math import inf

import pytest

from asymtalker.generate.turns import Turns


def asked(turns: Turns, name: str, due: float, order: list[str]) -> threading.Thread:
    """A thread that asks for a turn, once it waits for it."""

    def work():
        with turns.due(due), turns:
            order.append(name)

    thread = threading.Thread(target=work)
    before = len(turns._waiting)
    thread.start()
    while len(turns._waiting) == before and thread.is_alive():
        time.sleep(0.001)
    return thread


def test_what_is_due_first_has_the_next_turn_and_a_file_the_last():
    turns, order = Turns(), []
    with turns:
        given = (("file", inf), ("later", 9.0), ("soon", 2.0), ("another file", inf), ("too", 2.0))
        threads = [asked(turns, name, due, order) for name, due in given]
        assert not order
    for thread in threads:
        thread.join(5)
    assert order == ["soon", "too", "later", "file", "another file"]


def test_who_has_the_turn_may_take_it_again_and_keeps_it():
    turns, order = Turns(), []
    with turns:
        with turns:
            thread = asked(turns, "other", 1.0, order)
        time.sleep(0.05)
        assert not order
    thread.join(5)
    assert order == ["other"]


def test_a_turn_is_given_on_after_an_error():
    turns, order = Turns(), []
    with pytest.raises(RuntimeError), turns:
        raise RuntimeError
    asked(turns, "next", 1.0, order).join(5)
    assert order == ["next"]


def test_files_wait_while_something_due_goes_on_beside_and_what_is_due_does_not():
    turns, order = Turns(), []
    with turns.due(1.0), turns.beside():
        file = asked(turns, "file", inf, order)
        live = asked(turns, "live", 2.0, order)
        live.join(5)
        assert order == ["live"]
    file.join(5)
    assert order == ["live", "file"]


def test_a_file_takes_a_turn_for_what_others_do_beside():
    turns = Turns()
    with turns.beside():
        assert turns._holder == threading.get_ident()
    assert turns._holder is None
