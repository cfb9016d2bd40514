"""The strength of denoising: the share of the predicted difference map that is added."""

from typing import Final

from dfgan_jax.support.errors import InputError

MAX_STRENGTH: Final = 1.5
"""A larger strength would exaggerate the difference map with its errors."""

TRAINED_DOSE_FRACTION: Final = 0.25
"""Dose of the input, over that of the target, at which a network's result is right as it is."""


def check_strength(strength: float) -> float:
    """Returns the strength.

    Raises:
      InputError: it is not from 0 to `MAX_STRENGTH`.
    """
    if not 0 <= strength <= MAX_STRENGTH:
        raise InputError(f"strength is {strength}; expected 0 to {MAX_STRENGTH}")
    return strength


def strength_for_dose(dose_fraction: float) -> float:
    """The strength for scans of a known dose.

    The normal dose has noise of its own. A scan at the share D of its dose has 1/D times the
    variance: the normal dose's noise is the share D of the noise, in expectation, and stays; the
    share 1 − D is removed. A network that was trained at a quarter of the dose removes 1 − 0.25,
    so that the strength is (1 − D) / (1 − 0.25), at most 1.

    Args:
      dose_fraction: D, dose of the input over the dose that the result is to look like; above 0
        and below 1.

    Raises:
      InputError: the dose fraction is out of range.
    """
    if not 0 < dose_fraction < 1:
        raise InputError(f"the dose fraction is {dose_fraction}; expected above 0 and below 1")
    return min(1.0, (1 - dose_fraction) / (1 - TRAINED_DOSE_FRACTION))
