"""The exception for bad input, its kind for a job of several processes that has lost one, and words of sentences."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input from a person: one clear sentence saying what is wrong, where, and what to do.

    The command line prints the sentence to stderr and exits with code 2; no traceback is shown.
    """


class LostProcessError(UserError):
    """Another process of the job is gone; this one may be stopped at any moment."""


def join_or(options: Sequence[str]) -> str:
    """``"a, b or c"``."""
    return " or ".join([", ".join(options[:-1])] * (len(options) > 1) + [options[-1]])
