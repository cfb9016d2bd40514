"""The scan of an evaluation's test objects, matched to the noise, kernel and pixels of test slices.

Slices are (N, H, W) in HU.
"""

import contextlib
import dataclasses
import functools
import math
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from dfgan_jax.denoising.denoised_series import measured_slices
from dfgan_jax.scans.tissues import body_mask, tissue_masks
from dfgan_jax.simulation.low_dose import REFERENCE_SIZE, ScanProtocol
from dfgan_jax.simulation.noise_estimation import ScanNoise, estimate_noise
from dfgan_jax.simulation.projection import sharpened
from dfgan_jax.simulation.quality_phantom import (
    CYLINDER_RADIUS_MM,
    QUALITY_PHANTOM_MIN_SIZE,
    cylinder_noise,
)
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.threads import call_ahead
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

NOISE_TOLERANCE: Final = 1.1
"""Largest ratio between the noise of objects and of slices; the estimates have errors of 10 %."""

_LARGEST_SIZE: Final = 640
"""Height and width of the largest objects [pixels]; the work of a scan grows as its cube."""

_MARGIN_MM: Final = 10.0
"""Air around the cylinder."""

_MOST_TRIALS: Final = 6
"""Scans that adjust the photons; without electronic noise, the second is exact."""

_MIN_PIXELS: Final = 200
"""Of soft tissue in a slice, for a standard deviation within 5 %."""

_LEAST_HU: Final = 0.3
"""Least noise that is not rounding to whole HU."""

_CLOSE: Final = 1.03
"""Ratio of noises that ends the trials; a trial has an error of 1 to 2 %."""

_CYLINDER: Final = "A simulated water cylinder"


class ObjectScan(NamedTuple):
    """The scan of test objects.

    Attributes:
      protocol: of the scan.
      size: height and width of the objects [pixels].
      description: of the objects and of their scan, for a reader.
      matched: noise, kernel and pixel pitch of slices and objects; None if the scan is not
        matched.
    """

    protocol: ScanProtocol
    size: int
    description: str
    matched: JsonObject | None = None


class _Measured(NamedTuple):
    """Medians over test slices.

    Attributes:
      normal_hu: noise at the normal dose.
      low_hu: noise at the low dose.
      kernel_lp_cm: f50 of the kernel; None if the pixels are too coarse to measure it.
      slices: number of measured slices.
      method: of the noise, as the end of a sentence.
    """

    normal_hu: float
    low_hu: float
    kernel_lp_cm: float | None
    slices: int
    method: str


class _CannotMatch(Exception):
    """The reason why a scan cannot be matched, as a clause."""


def configured_scan(protocol: ScanProtocol, *, shape: tuple[int, ...]) -> ObjectScan:
    """The scan of simulated test slices, whose protocol is known.

    Args:
      protocol: of the test slices.
      shape: (..., H, W) of the test slices.
    """
    return ObjectScan(protocol, _size(shape), f"{_CYLINDER}, scanned as the simulated test slices "
                      f"are: {_settings(protocol)}.")


def matched_scan(ndct: Float[np.ndarray, "n h w"], qdct: Float[np.ndarray, "n h w"], *,
                 pixel_spacing_mm: float | None, configured: ScanProtocol,
                 dose_fraction: float | None = None) -> ObjectScan:
    """A scan that gives test objects the noise, the kernel and the pixel pitch of test slices.

    Noise and kernel are measured in a few slices of both doses, by `estimate_noise`. In pixels too
    coarse for it, the noise that the low dose adds is the difference of the doses in soft tissue,
    without anatomy; that of the normal dose follows from the doses, and the kernel is the
    configured one. Where neither can be measured or matched, the scan is the configured one, and
    the description has the reason.

    Args:
      ndct: the test slices at normal dose.
      qdct: the same slices at low dose.
      pixel_spacing_mm: of the test slices; None if unknown.
      configured: the scan without a match, and the settings that are not matched.
      dose_fraction: low dose over normal dose of the test slices; None: the configured one.
    """
    try:
        if pixel_spacing_mm is None:
            raise _CannotMatch("their pixel pitch is unknown")
        measured = (_measure(ndct, qdct, pixel_spacing_mm)
                    or _measure_difference(ndct, qdct, dose_fraction or configured.dose_fraction))
        return _matched(measured, pixel_spacing_mm, configured=configured, shape=ndct.shape)
    except _CannotMatch as reason:
        return ObjectScan(
            configured, _size(ndct.shape), f"{_CYLINDER}, not by the scanner of the test slices, "
            f"since {reason}. The scan is that of the configuration: {_settings(configured)}.")


def _size(shape: tuple[int, ...]) -> int:
    return max(min(shape[-2:]), QUALITY_PHANTOM_MIN_SIZE)


def _settings(protocol: ScanProtocol) -> str:
    kernel = (protocol.kernel if isinstance(protocol.kernel, str) else
              f"with an f50 of {protocol.kernel:.3g} lp/cm")
    return (f"{protocol.photons_per_ray:g} photons a ray at the normal dose and "
            f"{REFERENCE_SIZE}², {protocol.dose_fraction:g} of them at the low dose, kernel "
            f"{kernel}")


def _measure(ndct: np.ndarray, qdct: np.ndarray, pixel_spacing_mm: float) -> _Measured | None:
    """Measures each dose by itself; None if no slice can be measured."""
    def estimate(index: int) -> tuple[ScanNoise, ScanNoise]:
        return (estimate_noise(ndct[index], pixel_spacing_mm=pixel_spacing_mm),
                estimate_noise(qdct[index], pixel_spacing_mm=pixel_spacing_mm))

    found = []
    calls = (functools.partial(estimate, index) for index in measured_slices(len(ndct)))
    with contextlib.closing(call_ahead(calls)) as results:
        for result in results:
            # The other slices may have more soft tissue.
            with contextlib.suppress(InputError):
                found.append(result())
    if not found:
        return None
    normal, low = (float(np.median([pair[dose].noise_std_hu for pair in found]))
                   for dose in range(2))
    kernel = float(np.median([float(each.kernel) for pair in found for each in pair]))
    if low <= normal:
        raise _CannotMatch(f"they have no more noise at the low dose ({low:.3g} HU) than at the "
                           f"normal dose ({normal:.3g} HU)")
    return _Measured(normal, low, kernel, len(found), "in their uniform soft tissue")


def _measure_difference(ndct: np.ndarray, qdct: np.ndarray, dose_fraction: float) -> _Measured:
    """Measures the noise that the low dose adds; variances are those of quanta, 1 / dose."""
    added = []
    for index in measured_slices(len(ndct)):
        soft = tissue_masks(ndct[index], body_mask(ndct[index]))["soft tissue"]
        if soft.sum() >= _MIN_PIXELS:
            added.append(float((qdct[index] - ndct[index])[soft].std(dtype=np.float64)))
    if not added or np.median(added) < _LEAST_HU:
        raise _CannotMatch("their noise cannot be measured, for lack of soft tissue, or of "
                           "noise in it")
    low = float(np.median(added)) / (1 - dose_fraction) ** 0.5
    return _Measured(low * dose_fraction ** 0.5, low, None, len(added),
                     f"by the difference of the doses, for {dose_fraction:g} of the dose")


def _matched(measured: _Measured, pixel_spacing_mm: float, *, configured: ScanProtocol,
             shape: tuple[int, ...]) -> ObjectScan:
    size = max(_size(shape), math.ceil(2 * (CYLINDER_RADIUS_MM + _MARGIN_MM) / pixel_spacing_mm))
    if size > max(_LARGEST_SIZE, _size(shape)):
        raise _CannotMatch(f"with their pixels of {pixel_spacing_mm:.3g} mm, the cylinder would "
                           f"need {size}×{size} pixels, and {_LARGEST_SIZE}×{_LARGEST_SIZE} is "
                           "the most")
    protocol = dataclasses.replace(configured, field_of_view_mm=size * pixel_spacing_mm)
    kernel = "the configuration's kernel, since the pixels are too coarse to measure one"
    if measured.kernel_lp_cm is not None:
        kernel = f"a kernel with an f50 of {measured.kernel_lp_cm:.3g} lp/cm"
        # The kernel's frequencies follow the pixel from `REFERENCE_SIZE` to `size`.
        protocol = dataclasses.replace(protocol, kernel=sharpened(
            measured.kernel_lp_cm, pixel_spacing_mm=pixel_spacing_mm) * REFERENCE_SIZE / size)
    protocol, (normal_hu, low_hu) = _with_noise(protocol, measured)
    description = (
        f"{_CYLINDER}, scanned as the test slices were: noise of {normal_hu:.3g} HU at the normal "
        f"and {low_hu:.3g} HU at the low dose (test slices: {measured.normal_hu:.3g} and "
        f"{measured.low_hu:.3g} HU), {kernel}, pixels of {pixel_spacing_mm:.3g} mm; measured in "
        f"{counted(measured.slices, 'test slice')} {measured.method}.")
    return ObjectScan(protocol, size, description, {
        "slices": measured.slices, "kernel_lp_cm": measured.kernel_lp_cm,
        "pixel_spacing_mm": pixel_spacing_mm,
        "noise_hu": {"normal": measured.normal_hu, "low": measured.low_hu},
        "objects_noise_hu": {"normal": normal_hu, "low": low_hu}})


def _with_noise(protocol: ScanProtocol, measured: _Measured
                ) -> tuple[ScanProtocol, tuple[float, float]]:
    """Adjusts the photons of both doses until the cylinder has the measured noise.

    The noise in HU does not depend on the size, so that the trials are small.

    Returns:
      The protocol, and the noise at the normal and at the low dose [HU].
    """
    target = (measured.normal_hu, measured.low_hu)
    for trial in range(_MOST_TRIALS):
        noise = cylinder_noise(size=QUALITY_PHANTOM_MIN_SIZE, seed=trial, protocol=protocol)
        ratios = [there / here for here, there in zip(target, noise, strict=True)]
        if trial == _MOST_TRIALS - 1 or all(abs(math.log(each)) < math.log(_CLOSE)
                                            for each in ratios):
            break
        normal, low = (photons * ratio ** 2 for photons, ratio in zip(
            (protocol.photons_per_ray, protocol.photons_per_ray * protocol.dose_fraction), ratios,
            strict=True))
        protocol = dataclasses.replace(protocol, photons_per_ray=normal,
                                       dose_fraction=min(low / normal, 0.99))
    if any(abs(math.log(each)) > math.log(NOISE_TOLERANCE) for each in ratios):
        raise _CannotMatch(f"their noise of {target[0]:.3g} and {target[1]:.3g} HU is beyond the "
                           "simulated scanner")
    return protocol, noise
