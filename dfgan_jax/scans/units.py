"""Units of arrays whose values no scanner has given: conversion to HU, and values that are not HU.

Three units occur beside HU, each a linear function of it: linear attenuation [1/mm], the
normalisation `(HU + 1024) / 4096` of RED-CNN's published preparation, and `(HU + 500) / 500`, that
of DFGAN's networks.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from jaxtyping import Float32, Num

from dfgan_jax.scans.hounsfield import HU_OFFSET, HU_SCALE, MU_WATER
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.errors import DoubtfulInput, InputError

NAMES: Final[dict[Unit, str]] = {
    "hu": "HU", "mu": f"linear attenuation in 1/mm, where water is {MU_WATER}",
    "redcnn": "(HU + 1024) / 4096, as RED-CNN's preparation writes",
    "dfgan": "(HU + 500) / 500, the input of DFGAN's networks"}

_TO_HU: Final[dict[Unit, tuple[float, float]]] = {
    "hu": (1.0, 0.0), "mu": (1000 / MU_WATER, -1000.0), "redcnn": (4096.0, -1024.0),
    "dfgan": (HU_SCALE, -HU_OFFSET)}
"""HU = value · first + second."""

_MOST: Final[dict[Unit, float]] = {"hu": np.inf, "mu": 10.0, "redcnn": 32.0, "dfgan": 300.0}
"""Above the densest metal."""

# Of HU + 500 over 500, air is −1, and the highest value of 12 bits 7.1; metal lies above, and takes
# few pixels. No slice in HU has only values from −1.6 to 8: noise and anatomy span tens of HU.
_LOWEST, _HIGHEST, _HIGHEST_METAL, _METAL_SHARE = -1.6, 8.0, 100.0, 0.01


def to_hu(values: Num[np.ndarray, "*shape"], unit: Unit, *, name: str = "the array"
          ) -> Float32[np.ndarray, "*shape"]:
    """Converts values to HU; those of HU are only cast.

    Args:
      values: in the unit.
      unit: of the values.
      name: of the values, at the start of the message.

    Raises:
      InputError: values are too large for the unit.
    """
    cast = np.asarray(values, np.float32)
    if unit == "hu":
        return cast
    lowest, highest = cast.min(), cast.max()
    if max(-lowest, highest) > _MOST[unit]:
        raise InputError(f"{name} has values from {lowest:g} to {highest:g}; expected "
                         f"{NAMES[unit]} (are they HU?)")
    slope, intercept = _TO_HU[unit]
    hu: np.ndarray = cast * np.float32(slope) + np.float32(intercept)
    return hu


def from_hu(hu: Num[np.ndarray, "*shape"], unit: Unit) -> Num[np.ndarray, "*shape"]:
    """The inverse of `to_hu`."""
    slope, intercept = _TO_HU[unit]
    if unit == "hu":
        return hu
    values: np.ndarray = (hu - np.float32(intercept)) / np.float32(slope)
    return values


def check_hu(slices: Iterable[Num[np.ndarray, "h w"]], *, name: str) -> None:
    """Refuses slices that cannot be in HU, by their range over all of them.

    The reading ends at the first slice that can be. Whole numbers are taken as HU, and so are
    slices of one value: air, or padding.

    Args:
      slices: (H, W) each.
      name: of the file or the argument, for the message.

    Raises:
      DoubtfulInput: they look like another unit, which its `value` names; empty if like none.
    """
    lowest, highest, most, is_whole = np.inf, -np.inf, -np.inf, True
    for one in slices:
        low, high = float(one.min()), float(one.max())
        if not (low >= _LOWEST and high <= _HIGHEST_METAL
                and np.count_nonzero(one > _HIGHEST) <= _METAL_SHARE * one.size):
            return
        lowest, highest = min(lowest, low), max(highest, high)
        is_whole = is_whole and np.array_equal(one, np.rint(one))
        most = max(most, float(np.percentile(one, 100 * (1 - _METAL_SHARE))))
    if is_whole or not lowest < highest:
        return
    unit = _like(lowest, most)
    like = f"; they look like {NAMES[unit]}" if unit else ""
    raise DoubtfulInput(f"{name}: has values from {lowest:.4g} to {highest:.4g}, which cannot be "
                        f"HU, where air is -1000 and water 0{like}", argument="unit",
                        value=unit or "")


def _like(lowest: float, most: float) -> Unit | None:
    """The unit that values look like, from their lowest one and their highest but for metal."""
    if lowest < -0.5:
        return "dfgan"
    if lowest >= -0.05 and most <= 0.1:
        return "mu"
    return "redcnn" if lowest >= -0.25 and most <= 1.05 else None
