"""A slice as another reconstruction kernel would have given it.

Filtered back-projection is linear, and its kernel the same in every direction: an image of one
kernel is that of another after a filter of its pixels, the ratio of the two MTFs. Anatomy and
noise change as they do on the scanner; so training pairs of many kernels come from a scan of one.
"""

from typing import Final

import numpy as np
import scipy.fft

from dfgan_jax.simulation.projection import kernel_mtf
from dfgan_jax.support.errors import InputError

HIGHEST_GAIN: Final = 8.0
"""Where the first kernel left less than this share of the other's MTF, there is hardly more
than the rounding of HU to raise."""

_MARGIN: Final = 32
"""Pixels that the slice is continued by, mirrored: the filter is short, and wraps round."""


def change_kernel(hu: np.ndarray, *, pixel_spacing_mm: float, old: str | float, new: str | float
                  ) -> np.ndarray:
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
      InputError: `hu` is no slice, or a kernel is unknown.
    """
    if hu.ndim != 2 or min(hu.shape) < 2:
        raise InputError(f"the slice has shape {hu.shape}, expected (height, width)")
    padded = np.pad(hu.astype(np.float32), _MARGIN, mode="symmetric")
    shape = tuple(scipy.fft.next_fast_len(length, real=True) for length in padded.shape)
    frequency = np.hypot(scipy.fft.rfftfreq(shape[1]), scipy.fft.fftfreq(shape[0])[:, None])
    frequency_lp_cm = frequency * 10 / pixel_spacing_mm
    gain = np.minimum(kernel_mtf(frequency_lp_cm, new)
                      / np.maximum(kernel_mtf(frequency_lp_cm, old), 1e-30), HIGHEST_GAIN)
    # By the edge's value to the fast length, where a jump would ring.
    padded = np.pad(padded, [(0, full - length) for full, length in
                             zip(shape, padded.shape, strict=True)], mode="edge")
    filtered = scipy.fft.irfft2(scipy.fft.rfft2(padded) * gain.astype(np.float32), shape)
    height, width = hu.shape
    return filtered[_MARGIN:_MARGIN + height, _MARGIN:_MARGIN + width].astype(np.float32)
