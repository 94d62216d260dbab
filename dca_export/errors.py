"""The error a user can mend: one line that says what was expected, what was found, and where."""


class InputError(Exception):
    """Bad input or usage. ``str(error)`` is the whole message, one line; commands exit with 2."""
