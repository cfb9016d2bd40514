"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a field, a folder.

    The message is one line that names the file or field, the value found and
    what was expected. `main.py` prints it without a traceback and exits with 2.
    """
