"""The flags that describe an input: `--input_unit` and `--axes`."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Final

from dfgan_jax.scans.axes import Axes
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.errors import DoubtfulInput, InputError, MissingArgument

_FLAGS: Final = {"pixel_spacing_mm": "--pixel_spacing=MM",
                 "photons_per_ray": "--full_dose_photons_per_ray=NUMBER",
                 "kernel": "--kernel=KERNEL"}
"""Argument → flag."""


@contextlib.contextmanager
def flags_named() -> Iterator[None]:
    """Adds the flags to the message of a `DoubtfulInput` or `MissingArgument`."""
    try:
        yield
    except MissingArgument as error:
        flags = " and ".join(_FLAGS[argument] for argument in error.arguments)
        raise InputError(f"{error.lack}; give {flags}") from error
    except DoubtfulInput as error:
        if error.argument == "axes":
            hint = f"--axes={error.value} reads it so, --axes=nhw as it is"
        elif error.value:
            hint = f"--input_unit={error.value} converts them, --input_unit=hu takes them as HU"
        else:
            hint = "--input_unit names the unit, --input_unit=hu takes them as HU"
        raise InputError(f"{error}; {hint}") from error


def refuse_for(path: pathlib.Path, what: str, *, unit: Unit | None = None,
               axes: Axes | None = None) -> None:
    """Refuses flags that an input of another kind does not take.

    Args:
      path: of the input.
      what: describes the input, after "is".
      unit: value of `--input_unit` if the input takes none.
      axes: value of `--axes` if the input takes none.

    Raises:
      InputError: one of the flags is given.
    """
    for name, value, kinds in (("input_unit", unit, "arrays and volumes"),
                               ("axes", axes, "an .npy of an array")):
        if value is not None:
            raise InputError(f"--{name}={value}: {path} is {what}; the flag is for {kinds}")
