"""How much of what a denoiser removed is anatomy.

The removed map, denoised − QDCT, should hold noise alone. It is fitted, by least squares
within the body, with what the NDCT shows for certain at three scales: bands between
Gaussians of σ 0, 1, 2 and 4 pixels, each only where it stands out of the NDCT's own noise.
The share of the removed map's power that the fit explains is near 0 for noise and near 1
for blurred anatomy, and the fit's root mean square says how many HU of anatomy are gone.
Slices are (H, W) in HU.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.ndimage

SCALES = (1.0, 2.0, 4.0)
"""σ of the Gaussians between which the bands lie [pixels]; the first band begins at 0."""

THRESHOLD = 3.0
"""In standard deviations of the NDCT's noise in the band."""

_MAD_TO_STD = 1.4826


@dataclasses.dataclass(frozen=True)
class Structure:
    """Sums over the body of one slice, or of all, and what they tell.

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
        """R²: fitted over removed power, 0 to 1; None where nothing was removed."""
        return self.fitted_power / self.removed_power if self.removed_power else None

    @property
    def rms_hu(self) -> float | None:
        """Root mean square of the fitted map [HU]; None without pixels."""
        return (self.fitted_power / self.pixels) ** 0.5 if self.pixels else None

    def as_json(self) -> dict[str, Any]:
        return {"explained": self.explained, "rms_hu": self.rms_hu}


def pooled(structures: Iterable[Structure]) -> Structure:
    """The sums of several slices."""
    sums = zip(*(dataclasses.astuple(each) for each in structures), strict=True)
    return Structure(*(sum(values) for values in sums))


def anatomy_bands(ndct: np.ndarray, body: np.ndarray) -> np.ndarray:
    """What of an NDCT is surely anatomy, band by band.

    A band's noise is 1.4826 times the median of its magnitude in the body. Anatomy is
    sparse in a band and hardly moves a median; where it does, more is taken for noise.

    Returns:
      (3, pixels of the body) float32 HU, 0 where the band is within its noise.
    """
    levels = [ndct, *(scipy.ndimage.gaussian_filter(ndct, scale) for scale in SCALES)]
    bands = np.stack([(finer - coarser)[body]
                      for finer, coarser in itertools.pairwise(levels)])
    magnitude = np.abs(bands)
    noise = _MAD_TO_STD * np.median(magnitude, axis=1, keepdims=True)
    bands[magnitude <= THRESHOLD * noise] = 0
    return bands


def fit_structure(removed: np.ndarray, ndct: np.ndarray, body: np.ndarray
                  ) -> tuple[Structure, np.ndarray]:
    """Fits the removed map of one slice with the anatomy of its NDCT.

    The NDCT's noise is in the QDCT, too, where low doses are simulated from normal ones,
    and a part of it passes the threshold: an ideal denoiser has a floor above 0, that of
    `removed` = NDCT − QDCT.

    Args:
      removed: (H, W), denoised − QDCT.
      body: (H, W) bool.

    Returns:
      the sums, about the means in the body, and the fitted map, (H, W) float32 HU,
      0 outside the body.
    """
    fitted = np.zeros(ndct.shape, np.float32)
    if not body.any():
        return Structure(0, 0.0, 0.0), fitted
    bands = anatomy_bands(ndct, body).astype(np.float64)
    bands -= bands.mean(axis=1, keepdims=True)
    values = removed[body].astype(np.float64)
    values -= values.mean()
    # lstsq: a band in which nothing stands out is 0 throughout, and its factor stays 0.
    factors = np.linalg.lstsq(bands @ bands.T, bands @ values, rcond=None)[0]
    fit = factors @ bands
    fitted[body] = fit
    return Structure(len(values), float(values @ values), float(fit @ fit)), fitted
