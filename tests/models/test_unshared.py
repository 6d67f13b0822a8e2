"""Small operations are not shared out among threads, and nobody else notices."""

import threading

import torch

from asymtalker.models.threads import unshared


def test_operations_are_unshared_and_then_as_before():
    torch.set_num_threads(3)
    other: list[int] = []
    begun, entered = threading.Event(), threading.Event()

    def work() -> None:
        torch.get_num_threads()  # it asks now
        begun.set()
        entered.wait()
        other.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    with unshared():
        assert torch.get_num_threads() == 1
        entered.set()
        thread.join()
    assert torch.get_num_threads() == 3
    assert other == [3]
    torch.set_num_threads(1)
