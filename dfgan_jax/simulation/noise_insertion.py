"""Simulates a low-dose slice from a full-dose one by adding noise.

The full-dose slice is projected, the noise that the lower dose adds is drawn for every ray,
and the reconstruction of this noise alone is added to the slice (Yu et al. 2012, "Development
and validation of a practical lower-dose-simulation tool"; Zabic et al. 2013). The full-dose
noise thus stays part of the low-dose image, and only noise changes. Instead of raw data and
tags of the scanner, the number of photons and the reconstruction kernel are estimated from the
slice (see `noise_estimation`).

Slices and rays are those of `scan_rays`.

The model is Gaussian noise of the logarithm, uncorrelated between rays: accurate for many
photons, without the bias and the long tails of starved rays. Iterative or learned
reconstruction is not modelled: for such scans the result has the spectrum and the strength of
the noise, but not its dependence on contrast.
"""

from typing import Final

import numpy as np
import scipy.fft
from jaxtyping import Float32, Num, Shaped

from dfgan_jax.simulation.noise_estimation import estimate_from_rays
from dfgan_jax.simulation.projection import kernel_mtf
from dfgan_jax.simulation.scan_rays import (
    BINS_PER_PIXEL,
    ELECTRONIC_NOISE_STD,
    ScanRays,
    checked_slice,
    rays_of,
)
from dfgan_jax.support.errors import InputError

_HIGHEST_PER_PIXEL: Final = np.pi ** -0.5
"""The radius of the circle with the area of the square of the pixels' frequencies. Frequencies
between the two alias and replace the missing corners, so that the noise of sharp kernels, which
reach beyond the square, has the variance of |f|·MTF² over it."""


def _ray_noise_std(scan: ScanRays, photons_per_ray: float, electronic_noise_std: float,
                   dose_fraction: float) -> np.ndarray:
    """Standard deviation [of a line integral] that the lower dose adds to each ray.

    Scanners interpolate rays with less signal at the lower dose than the electronic noise, or
    than one photon; from there on the noise does not grow.
    """
    electronic_variance = electronic_noise_std ** 2 * scan.ray_mm
    faintest = max(electronic_variance ** 0.5, 1.0) / dose_fraction
    photons = np.maximum(photons_per_ray * scan.ray_mm * scan.signal, faintest)
    std: np.ndarray = np.sqrt((1 / dose_fraction - 1) / photons
                              + (1 / dose_fraction ** 2 - 1) * electronic_variance / photons ** 2)
    return std


def _reconstruct(scan: ScanRays, sinogram: np.ndarray, pixel_spacing_mm: float,
                 kernel: str | float) -> np.ndarray:
    """Filtered back-projection in HU whose noise has the MTF of the kernel alone.

    The strips of `ParallelBeam` blur by the bin and by the pixel, which a kernel measured on
    images already contains; both are divided out.
    """
    length = scipy.fft.next_fast_len(2 * scan.beam.bins, real=True)
    per_pixel = np.arange(length // 2 + 1) / length * BINS_PER_PIXEL
    blur = np.sinc(per_pixel) * np.sinc(per_pixel / BINS_PER_PIXEL)
    blur[per_pixel > _HIGHEST_PER_PIXEL] = np.inf
    response = kernel_mtf(per_pixel * 10 / pixel_spacing_mm, kernel) / blur
    spectrum = scipy.fft.rfft(sinogram, length, axis=-1) * response.astype(np.float32)
    filtered = scipy.fft.irfft(spectrum, length, axis=-1)[:, :scan.beam.bins]
    mu = scan.beam.filtered_backproject(filtered[None], kernel="ramp")[0]
    hu: np.ndarray = mu[scan.crop] * np.float32(scan.hu_per_mu)
    return hu


def insert_noise(rng: np.random.Generator, ndct_hu: Num[np.ndarray, "..."], *,
                 pixel_spacing_mm: float, dose_fraction: float, kernel: str | float = "auto",
                 photons_per_ray: float | None = None,
                 electronic_noise_std: float = ELECTRONIC_NOISE_STD,
                 outside: Shaped[np.ndarray, "..."] | None = None
                 ) -> Float32[np.ndarray, "h w"]:
    """Simulates the slice at a lower dose.

    The variance added to a ray of line integral P behind N0 photons is
    (1/d − 1)·exp(P)/N0 + (1/d² − 1)·exp(2P)·σ²/N0², for the dose fraction d and the
    electronic noise σ: the difference between the variances of the two doses.

    Args:
      rng: source of the noise; equal states give equal noise.
      ndct_hu: (H, W) float32, the full-dose slice with its own noise.
      pixel_spacing_mm: pixel pitch, of square pixels.
      dose_fraction: lower dose over full dose, above 0 and below 1.
      kernel: `auto`, estimated from the slice's noise; a name in `projection.KERNELS`; or
        f50 [lp/cm] of a kernel shaped as `soft`. Names in DICOM tags are not used: the
        same number is another sharpness in another family (Siemens B45, D45).
      photons_per_ray: see `noise_estimation.ScanNoise`; None, estimated from the slice's noise.
      electronic_noise_std: in photons, of a ray.
      outside: (H, W) bool, the pixels outside the field of view: air to the rays, and
        returned unchanged.

    Returns:
      (H, W) float32 in HU, neither rounded nor clipped; scanners cut at −1024.

    Raises:
      InputError: an argument cannot be used, or `noise_estimation.estimate_noise` raises it.
    """
    hu = checked_slice(ndct_hu, pixel_spacing_mm, kernel, electronic_noise_std, outside)
    if not 0 < dose_fraction < 1:
        raise InputError(f"dose_fraction is {dose_fraction}; expected above 0, below 1")
    if photons_per_ray is not None and not 0 < photons_per_ray < np.inf:
        raise InputError(f"photons_per_ray is {photons_per_ray}; expected above 0")
    scan = rays_of(hu, pixel_spacing_mm)
    if photons_per_ray is None or kernel == "auto":
        estimate = estimate_from_rays(scan, hu, pixel_spacing_mm, kernel, electronic_noise_std)
        kernel = estimate.kernel
        photons_per_ray = photons_per_ray or estimate.photons_per_ray
    noise = rng.standard_normal(scan.signal.shape, np.float32) * _ray_noise_std(
        scan, photons_per_ray, electronic_noise_std, dose_fraction).astype(np.float32)
    qdct_hu: np.ndarray = hu + _reconstruct(scan, noise, pixel_spacing_mm, kernel)
    if outside is not None:
        qdct_hu[outside] = ndct_hu[outside]
    return qdct_hu
