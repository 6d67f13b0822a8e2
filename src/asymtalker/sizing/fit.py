"""What would fit where a GPU's memory is too little: of generation and of trainings alike."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import combinations, product
from typing import TypeVar

import torch

from asymtalker.errors import UserError, join_or

S = TypeVar("S")
Way = tuple[str, Callable[[S], S]]
"""A flag, and what it makes of the settings."""
Option = Sequence[Way[S]]
"""Ways to change one thing, the mildest first and the strongest last."""

GB = 10**9
SLACK = 0.1
"""Assumed share of memory that the allocator loses between tensors."""


def available_bytes(device: torch.device) -> int:
    """What this process has of a GPU's memory, and what is free."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def what_fits(given: S, options: Sequence[Option[S]], total: Callable[[S], float], available: float) -> list[str]:
    """Flags, and bytes with them, with which no more than ``available`` bytes are needed: of single options or, where
    none does, of as few together as do. What does not go together raises ``UserError`` and is no way."""

    def needed(changes: Sequence[Way[S]]) -> float:
        try:
            return total(reduce(lambda settings, change: change[1](settings), changes, given))
        except UserError:
            return math.inf

    for count in range(1, len(options) + 1):
        ways: list[str] = []
        for chosen in combinations(options, count):
            together = list(product(*chosen))
            if not together or needed(together[-1]) > available:  # of the strongest, so of the milder ones too
                continue
            changes = next(changes for changes in together if needed(changes) <= available)
            ways.append(f"{' and '.join(flag for flag, _ in changes)} ({needed(changes) / GB:.1f} GB)")
        if ways:
            return ways
    return []


def shortage(needs: str, available: float, ways: Sequence[str]) -> str:
    """One sentence: what is needed, what there is, and what would fit."""
    advice = f"what fits: {join_or(ways)}" if ways else "nothing that can be set makes it fit"
    return f"{needs}, and {available / GB:.1f} GB are there; {advice}."
