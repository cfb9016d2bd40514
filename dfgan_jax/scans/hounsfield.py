"""Hounsfield units, linear attenuation and the network's normalised values.

The one place that holds HU constants. Three scales are in use:

* `mu`: linear attenuation [1/mm]; water is `MU_WATER`, air about -0.00046 in
  the published files (they hold HU values below -1000).
* `hu`: Hounsfield units; water is 0, air about -1000.
* normalised: `(hu + 500) / 500`, the input of the networks; air is about -1, water 1,
  dense bone near 7.
"""

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from jaxtyping import Float, Num

if TYPE_CHECKING:  # its import of JAX would take most of a worker's start
    from jaxtyping import Array

    Values = TypeVar("Values", float, Num[np.ndarray, "..."], Num[Array, "..."])
else:
    Values = TypeVar("Values")

MU_WATER: Final = 0.0192
"""Linear attenuation of water [1/mm] in the published files."""

HU_OFFSET: Final = 500.0
HU_SCALE: Final = 500.0

HU_AIR: Final = -1000.0

OUTSIDE_HU: Final = -1024.0
"""The lowest HU, and the padding outside the field of view, in the published files."""

HIGHEST_12_BIT_HU: Final = 3071.0
"""The highest HU of scanners that store 12 bits from `OUTSIDE_HU` on."""

LOWEST_HU: Final = -1900.0
"""Lower values of scanners are padding: -2000, -3024 and others."""


def mu_to_hu(mu: Values) -> Values:
    """Converts linear attenuation [1/mm] to HU; any shape, dtype kept."""
    return (mu - MU_WATER) * (1000.0 / MU_WATER)


def hu_to_mu(hu: Values) -> Values:
    """Converts HU to linear attenuation [1/mm]; any shape, dtype kept."""
    return hu * (MU_WATER / 1000.0) + MU_WATER


def normalise(hu: Values) -> Values:
    """Maps HU to the network's range, `(hu + 500) / 500`; any shape."""
    return (hu + HU_OFFSET) / HU_SCALE


def denormalise(normalised: Values) -> Values:
    """Maps the network's range back to HU; any shape."""
    return normalised * HU_SCALE - HU_OFFSET


def cut_and_rounded_like(changed_hu: Float[np.ndarray, "*shape"],
                         source_hu: Num[np.ndarray, "*shape"], *, limits: tuple[float, float]
                         ) -> Float[np.ndarray, "*shape"]:
    """Cuts and rounds a slice as the scanner cut and rounded the slice that it was made from.

    A series without values beyond the 12 bits from −1024 to 3071 HU is cut to them; a slice of
    whole HU is rounded.

    Args:
      changed_hu: (H, W) HU.
      source_hu: (H, W) HU.
      limits: the lowest and the highest HU of the source's series.

    Returns:
      (H, W) HU; the dtype is kept.
    """
    lowest, highest = limits
    if lowest >= OUTSIDE_HU:
        changed_hu = np.maximum(changed_hu, np.float32(OUTSIDE_HU))
    if highest <= HIGHEST_12_BIT_HU:
        changed_hu = np.minimum(changed_hu, np.float32(HIGHEST_12_BIT_HU))
    if np.array_equal(source_hu, np.rint(source_hu)):
        changed_hu = np.rint(changed_hu)
    return changed_hu
