import threading

import pytest

from asymtalker.generate.background import Background


def give(background, items):
    with background:
        for item in items:
            background.put(item)


def test_work_is_done_in_order_in_another_thread():
    done = []
    give(Background(lambda item: done.append((item, threading.current_thread()))), range(20))
    assert [item for item, _ in done] == list(range(20))
    assert {thread for _, thread in done}.isdisjoint({threading.current_thread()})


def test_no_more_waits_than_allowed():
    made, lead = 0, []
    may = threading.Semaphore(0)

    def work(item):
        may.acquire()
        lead.append(made - item)

    with Background(work, ahead=1) as background:
        threading.Timer(0.05, lambda: may.release(10)).start()
        for item in range(10):
            made += 1
            background.put(item)
    assert max(lead) <= 3  # the one worked on, the one waiting, and the one the caller holds


def test_an_error_reaches_the_caller_and_ends_the_work():
    done = []

    def work(item):
        if item == 1:
            raise ValueError("no")
        done.append(item)

    with pytest.raises(ValueError, match="no"):
        give(Background(work), range(100))
    assert done == [0]
    with pytest.raises(ValueError, match="no"):
        give(Background(work), [1])  # nothing is put after it


def test_an_interrupted_caller_waits_for_what_was_given():
    done = []

    def stopped():
        yield from range(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give(Background(done.append, ahead=5), stopped())
    assert done == list(range(5))


def test_a_second_interrupt_drops_what_was_not_begun(monkeypatch):
    done = []
    may = threading.Event()

    def work(item):
        may.wait(5)
        done.append(item)

    background = Background(work, ahead=5)
    join, calls = background._thread.join, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        may.set()
        join(*arguments)

    monkeypatch.setattr(background._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        give(background, range(5))
    assert done == [0]
    assert not background._thread.is_alive()
