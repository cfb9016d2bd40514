"""Checks of options, for the dataclasses that hold them.

A check takes the options and names of their fields, and raises `InputError` with the field, its
value and the expected one.
"""

import math
from collections.abc import Sequence

from dfgan_jax.support.errors import InputError


def check_one_of(options: object, name: str, choices: Sequence[object]) -> None:
    """Refuses a value that is none of the choices."""
    value = getattr(options, name)
    if value not in choices:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(map(str, choices))}")


def check_above_zero(options: object, *names: str) -> None:
    """Refuses numbers of 0 or less, and NaN."""
    for name in names:
        if not getattr(options, name) > 0:
            raise InputError(f"{name} is {getattr(options, name)}; expected more than 0")


def check_not_negative(options: object, *names: str) -> None:
    """Refuses numbers below 0, and NaN."""
    for name in names:
        if not getattr(options, name) >= 0:
            raise InputError(f"{name} is {getattr(options, name)}; expected 0 or more")


def check_below_one(options: object, *names: str) -> None:
    """Refuses numbers below 0, and of 1 or more."""
    for name in names:
        if not 0 <= getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}; expected 0 or more, and below 1")


def check_finite(options: object, *names: str) -> None:
    """Refuses NaN and infinite numbers."""
    for name in names:
        if not math.isfinite(getattr(options, name)):
            raise InputError(f"{name} is {getattr(options, name)}; expected a finite number")


def check_seed(options: object, name: str = "seed") -> None:
    """Refuses numbers that are no seed of 32 bits: below 0, or 2**32 and more."""
    if not 0 <= getattr(options, name) < 2**32:
        raise InputError(f"{name} is {getattr(options, name)}; expected 0 to 2**32 - 1")
