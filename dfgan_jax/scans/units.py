"""Units of arrays whose values no scanner has given: conversion to HU, and values that are not HU.

Four units occur beside HU, each a linear function of it: linear attenuation [1/mm], the
normalisation `(HU + 1024) / 4096` of RED-CNN's published preparation, `(HU + 500) / 500`, that
of DFGAN's networks, and `HU + 1024`, the stored values of most DICOM files before their rescale.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Num

from dfgan_jax.scans.hounsfield import HU_AIR, HU_OFFSET, HU_SCALE, MU_WATER, OUTSIDE_HU
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.errors import DoubtfulInput, InputError

NAMES: Final[dict[Unit, str]] = {
    "hu": "HU", "mu": f"linear attenuation in 1/mm, where water is {MU_WATER}",
    "redcnn": "(HU + 1024) / 4096, as RED-CNN's preparation writes",
    "dfgan": "(HU + 500) / 500, the input of DFGAN's networks",
    "stored": "HU + 1024, the stored values of most DICOM files before their rescale"}

_TO_HU: Final[dict[Unit, tuple[float, float]]] = {
    "hu": (1.0, 0.0), "mu": (1000 / MU_WATER, -1000.0), "redcnn": (4096.0, -1024.0),
    "dfgan": (HU_SCALE, -HU_OFFSET), "stored": (1.0, -1024.0)}
"""HU = value · first + second."""

_MOST: Final[dict[Unit, float]] = {"hu": np.inf, "mu": 10.0, "redcnn": 32.0, "dfgan": 300.0,
                                 "stored": np.inf}
"""Above the densest metal."""

# Of HU + 500 over 500, air is −1, and the highest value of 12 bits 7.1; metal lies above, and takes
# few pixels. No slice in HU has only values from −1.6 to 8: noise and anatomy span tens of HU.
_LOWEST, _HIGHEST, _HIGHEST_METAL, _METAL_SHARE = -1.6, 8.0, 100.0, 0.01

# A window cuts off air and bone: many pixels lie on both of its limits. In RED-CNN's normalisation
# 0 and 1 are -1024 and 3072 HU, and hardly any pixel is as dense.
_LIMIT_SHARE = 0.005

# Fat and soft tissue of stored values. Of HU without a negative value, such as a window of brain
# or bone, few pixels are as dense.
_STORED_TISSUE, _TISSUE_SHARE = (874.0, 1174.0), 0.05

# Where stored HU are rescaled once more, by the usual intercept of -1024, only dense bone stays in
# the range of the body. Air is near -2024, where padding is, too; but padding has one value.
_TWICE_AIR, _TWICE_WITHIN, _TWICE_AIR_SHARE = round(HU_AIR + OUTSIDE_HU), 100, 0.1
_BODY, _BODY_SHARE, _SURE_BODY_SHARE = (-500.0, 3000.0), 0.03, 0.1


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


class Doubt(NamedTuple):
    """The reason why slices cannot be in HU.

    Attributes:
      reason: their range and what they look like, in words.
      unit: that they look like; empty if like none.
    """

    reason: str
    unit: Unit | Literal[""]


def check_hu(slices: Iterable[Num[np.ndarray, "..."]], *, name: str) -> None:
    """Refuses slices that `doubt` finds not to be in HU.

    Args:
      slices: as for `doubt`.
      name: of the file or the argument, for the message.

    Raises:
      DoubtfulInput: they look like another unit, which its `value` names; empty if like none.
    """
    if (found := doubt(slices)) is not None:
        raise DoubtfulInput(f"{name}: {found.reason}", argument="unit", value=found.unit)


def doubt(slices: Iterable[Num[np.ndarray, "..."]]) -> Doubt | None:
    """The reason why slices cannot be in HU, by their range over all of them; None if they can be.

    The reading ends at the first slice that must be: one with negative values and much in the range
    of a body. Whole numbers in a small range are taken as
    HU, and so are slices of one value: air, or padding. Numbers of 8 bits have no room for air.

    Args:
      slices: the pixels of each, in any shape. Those outside the field of view must be left out:
        they are air, also where the others are not in HU.
    """
    lowest, highest, most = np.inf, -np.inf, -np.inf
    is_small = is_whole = is_picture = True
    pixels = tissue = body = zeros = ones = 0
    twice = np.zeros(2 * _TWICE_WITHIN + 1, int)  # of each HU around air that was rescaled twice
    for one in slices:
        if not one.size:
            continue
        low, high = float(one.min()), float(one.max())
        is_small = (is_small and low >= _LOWEST and high <= _HIGHEST_METAL
                    and int((one > _HIGHEST).sum()) <= _METAL_SHARE * one.size)
        lowest, highest = min(lowest, low), max(highest, high)
        if not (is_small or lowest >= 0) and has_body(one):
            return None
        body += _in_body(one)
        near = one[np.abs(one - np.float32(_TWICE_AIR)) <= _TWICE_WITHIN]
        twice += np.bincount(np.rint(near).astype(int) - (_TWICE_AIR - _TWICE_WITHIN),
                             minlength=len(twice))
        pixels += one.size
        zeros, ones = zeros + int((one == 0).sum()), ones + int((one == 1).sum())
        tissue += int(((one >= _STORED_TISSUE[0]) & (one <= _STORED_TISSUE[1])).sum())
        is_picture = is_picture and one.dtype == np.uint8
        if is_small:
            is_whole = is_whole and np.array_equal(one, np.rint(one))
            most = max(most, float(np.percentile(one, 100 * (1 - _METAL_SHARE))))
    if not lowest < highest:
        return None
    unit: Unit | None
    if (body < _BODY_SHARE * pixels
            and twice.sum() - twice.max() >= _TWICE_AIR_SHARE * pixels):
        unit, like = None, ("; they look like HU that were rescaled twice, with air near "
                            f"{_TWICE_AIR} and water near {OUTSIDE_HU:.0f}")
    elif not (is_small or lowest >= 0):
        return None
    elif is_small:
        if is_whole:
            return None
        if (lowest, highest) == (0, 1) and min(zeros, ones) >= _LIMIT_SHARE * pixels:
            unit, like = None, ("; they look like a picture of a window, scaled to 0…1, which does "
                                "not state its HU: convert it back with its window")
        else:
            unit = _like(lowest, most)
            like = f"; they look like {NAMES[unit]}" if unit else ""
    elif is_picture:
        unit, like = None, "; they look like a picture of a window, which does not state its HU"
    elif tissue >= _TISSUE_SHARE * pixels:
        unit = "stored"
        like = f"; they look like {NAMES[unit]}"
    else:
        return None
    return Doubt(f"has values from {lowest:.4g} to {highest:.4g}, which cannot be HU, where air is "
                 f"-1000 and water 0{like}", unit or "")


def has_body(hu: Num[np.ndarray, "..."]) -> bool:
    """Whether many values are in the range of a body: more than of dense bone."""
    return _in_body(hu) > _SURE_BODY_SHARE * hu.size


def _in_body(hu: np.ndarray) -> int:
    return int(((hu >= _BODY[0]) & (hu <= _BODY[1])).sum())


def _like(lowest: float, most: float) -> Unit | None:
    """The unit that values look like, from their lowest one and their highest but for metal."""
    if lowest < -0.5:
        return "dfgan"
    if lowest >= -0.05 and most <= 0.1:
        return "mu"
    return "redcnn" if lowest >= -0.25 and most <= 1.05 else None
