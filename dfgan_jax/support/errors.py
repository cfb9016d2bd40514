"""Errors for the user, and other errors in one line.

The message of an error for the user is one line; `main.py` prints it without a traceback, and
exits with a status other than 0.
"""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type if the message is empty."""
    return (str(error) or type(error).__name__).splitlines()[0]


class InputError(ValueError):
    """A file, a field or a folder of the user cannot be used.

    The message names the file or field, the value found and the expected one.
    """


class DoubtfulInput(InputError):
    """An input with implausible values or axes, which an argument can confirm.

    Attributes:
      argument: `unit` or `axes`.
      value: of the argument, if the input is what it looks like; may be empty.
    """

    def __init__(self, message: str, *, argument: str, value: str):
        super().__init__(message)
        self.argument, self.value = argument, value


class MissingArgument(InputError):
    """An input lacks values that arguments can supply.

    Attributes:
      lack: the message without the arguments, which the command line calls otherwise.
      arguments: their names in Python.
    """

    def __init__(self, lack: str, *arguments: str):
        super().__init__(f"{lack}; give {' and '.join(arguments)}")
        self.lack, self.arguments = lack, arguments


class DivergenceError(RuntimeError):
    """Training produced a loss or a gradient that is NaN or infinite."""


class ProcessError(RuntimeError):
    """Another process was lost, or holds the workdir, and this one cannot continue.

    The same command may succeed later; it continues from the latest checkpoint.
    """

    STATUS = 75
    """Exit status of `main.py`: EX_TEMPFAIL of sysexits.h."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX refused a program because the device has too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error)
