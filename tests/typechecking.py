"""The check of annotated types that the tests wrap around the package's functions."""

from collections.abc import Callable
from typing import TypeVar

from beartype import BeartypeConf, beartype

_Function = TypeVar("_Function", bound=Callable)
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, too


def checked(function: _Function) -> _Function:
    """Checks arguments and results, except of options: those check themselves, and tests hand them
    values of wrong types to see it."""
    if function.__qualname__.endswith("Options.__init__"):
        return function
    return _beartype(function)
