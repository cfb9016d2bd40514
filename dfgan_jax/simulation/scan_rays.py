"""The rays of a scan, computed from a slice: the signal of each at the detector.

Slices are (H, W) float32 in HU, of any size. A ray here is 1 mm wide in the centre, as
high as the slice is thick, and one of `VIEWS` parallel ones over 180°; photons and
electronic noise are counted for such a ray, whatever the pixel. The isocentre is taken
to be the image's centre, and the body to be inside the image.
"""

import functools
import threading
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Num, Shaped

from dfgan_jax.scans.hounsfield import HU_AIR, MU_WATER, hu_to_mu
from dfgan_jax.simulation.low_dose import incident_photons, modulate_tube_current
from dfgan_jax.simulation.projection import ParallelBeam, check_kernel
from dfgan_jax.support.errors import InputError

VIEWS: Final = 288
"""Over 180°, up to 512²; larger slices get fewer views of more photons each, for the memory."""

BINS_PER_PIXEL: Final = 2
"""With one, the back-projection's interpolation would leave images of the noise near the
pixels' Nyquist frequency: 6 % of variance for Siemens B30, 8 % for sharper kernels."""

TUBE_CURRENT_MODULATION: Final = 0.5
"""Exponent for `modulate_tube_current`: least noise for the dose (Gies et al. 1999)."""

BOWTIE_ATTENUATION: Final = 6.0
"""Line integral of the bowtie filter, for `incident_photons`, `SCAN_RADIUS_MM` from the
centre. The pairs of one patient (L143 of the AAPM-Mayo challenge) hardly tell 4 from 8."""

SCAN_RADIUS_MM: Final = 250.0
"""Of the widest field that scanners reconstruct."""

REFERENCE_THICKNESS_MM: Final = 3.0

ELECTRONIC_NOISE_STD: Final = 31.0
"""In photons, of a ray (see above), in slices of `REFERENCE_THICKNESS_MM`; it grows as the
square root of the thickness. A ray is the sum of some fifteen detector readings, with noise
of eight photons each.

Chosen to match the noise of the AAPM-Mayo challenge's quarter dose (inserted into the measured
projections by its authors) of patient L143, on average. Without it the simulated noise is 11 to
18 % too weak in each of three patients: the challenge's pairs add more than three times the full
dose's variance, for an unknown reason."""

_OPAQUE: Final = 20.0
"""The largest line integral: it leaves hardly a photon of 1e8, and no number overflows."""


class ScanRays(NamedTuple):
    """A slice as rays.

    Attributes:
      beam: geometry of the rays, in pixels, about the smallest square that holds the slice.
      crop: rows and columns of the slice in that square.
      signal: (views, bins), detected share of `photons_per_ray`.
      ray_mm: width of a ray in the centre, times `VIEWS` over the number of views.
      hu_per_mu: HU of an attenuation of 1 per pixel.
    """

    beam: ParallelBeam
    crop: tuple[slice, slice]
    signal: Float[np.ndarray, "views bins"]
    ray_mm: float
    hu_per_mu: float


_LOCK: Final = threading.Lock()


def _unit_beam(size: int) -> ParallelBeam:
    """A beam in pixels: slices of one size and any spacing share it."""
    with _LOCK:  # else threads that begin together would each build it
        return _cached_unit_beam(size)


@functools.lru_cache(maxsize=1)  # 0.4 GB at 512²
def _cached_unit_beam(size: int) -> ParallelBeam:
    views = VIEWS if size <= 512 else 4 * max(round(VIEWS * 512 / size / 4), 1)
    return ParallelBeam(size=size, views=views, pixel_spacing_mm=1.0, diameter=1.42,
                        bins_per_pixel=BINS_PER_PIXEL)


def checked_slice(ndct_hu: Num[np.ndarray, "..."], pixel_spacing_mm: float, kernel: str | float,
                  electronic_noise_std: float, outside: Shaped[np.ndarray, "..."] | None
                  ) -> Float32[np.ndarray, "h w"]:
    """Checks a slice and its settings; returns it in float32, with air outside the field of view.

    Args:
      ndct_hu: (H, W).
      pixel_spacing_mm: pixel pitch, of square pixels.
      kernel: `auto`, a name in `projection.KERNELS`, or f50 [lp/cm].
      electronic_noise_std: in photons, of a ray.
      outside: (H, W) bool, the pixels outside the field of view.

    Raises:
      InputError: a value cannot be used; the message names it.
    """
    if ndct_hu.ndim != 2 or min(ndct_hu.shape) < 1:
        raise InputError(f"the slice has shape {ndct_hu.shape}; expected (height, width)")
    if outside is not None and (outside.shape != ndct_hu.shape or outside.dtype != bool):
        raise InputError(f"outside is {outside.dtype} of shape {outside.shape}; "
                         f"expected bool of shape {ndct_hu.shape}")
    if outside is not None:
        ndct_hu = np.where(outside, HU_AIR, ndct_hu)
    if not np.isfinite(ndct_hu).all():
        raise InputError("the slice has values that are NaN or infinite; expected finite HU")
    if not 0 < pixel_spacing_mm < np.inf:
        raise InputError(f"pixel_spacing_mm is {pixel_spacing_mm}; expected above 0")
    if kernel != "auto":
        check_kernel(kernel, expected="auto, a frequency")
    if not 0 <= electronic_noise_std < np.inf:
        raise InputError(f"electronic_noise_std is {electronic_noise_std}; expected 0 or more")
    return ndct_hu.astype(np.float32)


def rays_of(ndct_hu: Float32[np.ndarray, "h w"], pixel_spacing_mm: float) -> ScanRays:
    """Projects a slice, and attenuates the photons of its rays.

    Args:
      ndct_hu: (H, W) float32, a result of `checked_slice`.
      pixel_spacing_mm: pixel pitch, of square pixels.
    """
    size = max(*ndct_hu.shape, 8)
    top, left = ((size - length) // 2 for length in ndct_hu.shape)
    crop = (slice(top, top + ndct_hu.shape[0]), slice(left, left + ndct_hu.shape[1]))
    square = np.full((size, size), HU_AIR, np.float32)
    # Below air there is padding, and noise of air that the scanner has cut at -1024.
    square[crop] = np.maximum(ndct_hu, HU_AIR)
    beam = _unit_beam(size)
    line_integrals = beam.project(hu_to_mu(square)[None] * np.float32(pixel_spacing_mm))[0]
    line_integrals = np.minimum(line_integrals, _OPAQUE)
    offset_mm = (np.arange(beam.bins) + 0.5 - beam.bins / 2) * pixel_spacing_mm / BINS_PER_PIXEL
    photons = incident_photons(np.clip(offset_mm / SCAN_RADIUS_MM, -1, 1), photons_per_ray=1.0,
                               bowtie_attenuation=BOWTIE_ATTENUATION)
    photons = photons * modulate_tube_current(
        line_integrals, tube_current_modulation=TUBE_CURRENT_MODULATION)
    return ScanRays(beam, crop, photons * np.exp(-line_integrals),
                    ray_mm=pixel_spacing_mm / BINS_PER_PIXEL * VIEWS / beam.views,
                    hu_per_mu=1000 / MU_WATER / pixel_spacing_mm)
