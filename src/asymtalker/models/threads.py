"""How many threads an operation is shared out among."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def unshared() -> Iterator[None]:
    """The operations of this thread are its own: small ones take up to twice as long when PyTorch shares them out.

    A thread that begins meanwhile is told of one, too, when it first asks PyTorch.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
