"""The anatomy that a denoiser removed.

The removed map, denoised − QDCT, should hold only noise. A least-squares fit within the body
explains it by the anatomy of the NDCT at three scales: bands between Gaussians of σ 0, 1, 2 and 4
pixels, each only where it exceeds the NDCT's own noise. The explained share of the removed map's
power is near 0 for noise and near 1 for blurred anatomy; the root mean square of the fit is the
lost anatomy [HU]. Slices are (H, W) in HU.
"""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

from dfgan_jax.support.types import JsonObject

SCALES = (1.0, 2.0, 4.0)
"""σ of the Gaussians between the bands [pixels]; the first band begins at 0."""

THRESHOLD = 3.0
"""Least magnitude of anatomy in a band, in standard deviations of the NDCT's noise there."""

MAD_TO_STD = 1.4826
"""Standard deviation of Gaussian noise over the median of its magnitude."""


@dataclasses.dataclass(frozen=True)
class Structure:
    """Sums over the body of one or several slices, and the measures from them.

    Attributes:
      pixels: of the body.
      removed_power: sum of squares of the removed map, about its mean in each slice.
      fitted_power: sum of squares of the fitted map.
    """

    pixels: int
    removed_power: float
    fitted_power: float

    @property
    def explained(self) -> float | None:
        """R²: fitted over removed power, 0 to 1; None if nothing was removed."""
        return self.fitted_power / self.removed_power if self.removed_power else None

    @property
    def rms_hu(self) -> float | None:
        """Root mean square of the fitted map [HU]; None without pixels."""
        return (self.fitted_power / self.pixels) ** 0.5 if self.pixels else None

    def as_json(self) -> JsonObject:
        return {"explained": self.explained, "rms_hu": self.rms_hu}


def pooled(structures: Iterable[Structure]) -> Structure:
    """The sums of several slices."""
    sums = zip(*(dataclasses.astuple(each) for each in structures), strict=True)
    return Structure(*(sum(values) for values in sums))


def anatomy_bands(ndct: Float[np.ndarray, "h w"], body: Bool[np.ndarray, "h w"]
                  ) -> Float[np.ndarray, "3 pixels"]:
    """The certain anatomy of an NDCT, band by band.

    A band's noise is 1.4826 times the median of its magnitude in the body. Anatomy is sparse in a
    band and hardly raises the median; where it does, the threshold is higher.

    Args:
      ndct: (H, W) HU.
      body: (H, W) bool.

    Returns:
      (3, pixels of the body) HU, 0 where the band is within its noise.
    """
    levels = [ndct, *(scipy.ndimage.gaussian_filter(ndct, scale) for scale in SCALES)]
    bands = np.stack([(finer - coarser)[body]
                      for finer, coarser in itertools.pairwise(levels)])
    magnitude = np.abs(bands)
    noise = MAD_TO_STD * np.median(magnitude, axis=1, keepdims=True)
    bands[magnitude <= THRESHOLD * noise] = 0
    return bands


def fit_structure(removed: Float[np.ndarray, "h w"], ndct: Float[np.ndarray, "h w"],
                  body: Bool[np.ndarray, "h w"]) -> tuple[Structure, Float[np.ndarray, "h w"]]:
    """Fits the removed map of one slice with the anatomy of its NDCT.

    A low dose simulated from the normal dose holds the NDCT's noise, too, and a part of it passes
    the threshold: even an ideal denoiser, with `removed` = NDCT − QDCT, has a share above 0.

    Args:
      removed: (H, W) HU, denoised − QDCT.
      ndct: (H, W) HU.
      body: (H, W) bool.

    Returns:
      The sums, about the means in the body, and the fitted map, (H, W) float32 HU, 0 outside the
      body.
    """
    fitted = np.zeros(ndct.shape, np.float32)
    if not body.any():
        return Structure(0, 0.0, 0.0), fitted
    bands = anatomy_bands(ndct, body).astype(np.float64)
    bands -= bands.mean(axis=1, keepdims=True)
    values = removed[body].astype(np.float64)
    values -= values.mean()
    # lstsq gives a band without anatomy, which is 0 throughout, the factor 0.
    factors = np.linalg.lstsq(bands @ bands.T, bands @ values, rcond=None)[0]
    fit = factors @ bands
    fitted[body] = fit
    return Structure(len(values), float(values @ values), float(fit @ fit)), fitted
