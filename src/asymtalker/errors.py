"""The one exception for bad input."""


class UserError(Exception):
    """Bad input from a person: one clear sentence saying what is wrong, where, and what to do.

    The command line prints the sentence to stderr and exits with code 2; no traceback is shown.
    """
