"""The check of annotated types that the tests wrap around the package's functions."""

import pathlib
from collections.abc import Callable
from typing import TypeVar

from beartype import BeartypeConf, beartype

UNCHECKED = {"dfgan_jax.support.safe_pickle", "dfgan_jax.porting.torch_pickle"}
"""Modules that call a function for each opcode of a pickle: checks make them ten times as slow."""


def modules() -> list[str]:
    """The names of the modules that are checked."""
    root = pathlib.Path(__file__).parents[1]
    names = (".".join(path.relative_to(root).with_suffix("").parts)
             for path in (root / "dfgan_jax").rglob("*.py") if path.stem != "__init__")
    return sorted(set(names) - UNCHECKED)


_Function = TypeVar("_Function", bound=Callable)
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, too


def checked(function: _Function) -> _Function:
    """Checks arguments and results, except of options: those check themselves, and tests hand them
    values of wrong types to see it."""
    if function.__qualname__.endswith("Options.__init__"):
        return function
    return _beartype(function)
