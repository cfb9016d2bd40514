"""The exceptions that a user is meant to read, and others in one line.

Their message is one line; `main.py` prints it without a traceback, and exits with a
status that is not 0.
"""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type's name where there is none."""
    return (str(error) or type(error).__name__).splitlines()[0]


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a field, a folder.

    The message names the file or field, the value found and what was expected.
    """


class DivergenceError(RuntimeError):
    """Training produced a loss or a gradient that is NaN or infinite."""


class ProcessError(RuntimeError):
    """Another process of the run was lost, without which this one cannot go on.

    The same command goes on from the latest checkpoint.
    """

    STATUS = 75
    """With which `main.py` exits: EX_TEMPFAIL of sysexits.h."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX refused a program because the device has too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error)
