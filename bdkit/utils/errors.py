"""The one error that a user of bdkit can cause."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and what to do about it. The command line prints it without a
    traceback and exits with code 2.
    """
