"""Changes a slice to another reconstruction kernel.

Filtered back-projection is linear, and its kernel the same in every direction: a filter with the
ratio of two MTFs turns the image of one kernel into that of the other. Anatomy and noise change
as on the scanner, so a scan with one kernel gives training pairs of many.
"""

from typing import Final

import numpy as np
import scipy.fft
from jaxtyping import Float, Float32

from dfgan_jax.simulation.projection import check_kernel, kernel_mtf
from dfgan_jax.simulation.scan_rays import checked_slice

HIGHEST_GAIN: Final = 8.0
"""Greatest ratio of the MTFs: frequencies that the first kernel weakens more hold little but the
rounding of HU."""

_MARGIN: Final = 32
"""Mirrored pixels around the slice: the filter is short, and wraps round."""


def change_kernel(hu: Float[np.ndarray, "*shape"], *, pixel_spacing_mm: float, old: str | float,
                  new: str | float) -> Float32[np.ndarray, "*shape"]:
    """Filters a slice by the ratio of two kernels' MTFs, up to a gain of `HIGHEST_GAIN`.

    Args:
      hu: (H, W) float32.
      pixel_spacing_mm: pixel pitch, of square pixels.
      old: kernel of the slice: a name in `projection.KERNELS`, or f50 [lp/cm], as
        `noise_estimation.estimate_noise` measures it.
      new: kernel of the result, likewise.

    Returns:
      (H, W) float32, HU; neither rounded nor clipped.

    Raises:
      InputError: `hu` is no slice of finite values, or another argument cannot be used.
    """
    for name, kernel in (("old", old), ("new", new)):
        check_kernel(kernel, name=name)
    checked = checked_slice(hu, pixel_spacing_mm, old, 0.0, None)
    padded = np.pad(checked, _MARGIN, mode="symmetric")
    shape = tuple(scipy.fft.next_fast_len(length, real=True) for length in padded.shape)
    frequency = np.hypot(scipy.fft.rfftfreq(shape[1]), scipy.fft.fftfreq(shape[0])[:, None])
    frequency_lp_cm = frequency * 10 / pixel_spacing_mm
    gain = np.minimum(kernel_mtf(frequency_lp_cm, new)
                      / np.maximum(kernel_mtf(frequency_lp_cm, old), 1e-30), HIGHEST_GAIN)
    # To the fast length with the edge's value: a jump would ring.
    padded = np.pad(padded, [(0, full - length) for full, length in
                             zip(shape, padded.shape, strict=True)], mode="edge")
    filtered: np.ndarray = scipy.fft.irfft2(
        scipy.fft.rfft2(padded) * gain.astype(np.float32), shape)
    height, width = hu.shape
    return filtered[_MARGIN:_MARGIN + height, _MARGIN:_MARGIN + width].astype(np.float32)
