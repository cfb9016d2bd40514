"""Masks of the tissues in a slice, and the bias and noise of an image in each.

Masks come from HU ranges of the NDCT. Its noise would sort pixels, noisy low ones into fat
and high ones into bone, and an image would seem biased against them. The NDCT is therefore
smoothed first, and each tissue loses the pixels near its edge, where smoothing mixes it
with its neighbours. Slices are (H, W) in HU.
"""

import dataclasses
from typing import Final

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Float64, Num

from dfgan_jax.scans import windows
from dfgan_jax.scans.hounsfield import HIGHEST_12_BIT_HU
from dfgan_jax.scans.windows import Window
from dfgan_jax.support.types import JsonObject

TISSUES: Final[dict[str, tuple[float, float]]] = {
    "lung": (-950.0, -500.0),
    "fat": (-190.0, -30.0),
    "soft tissue": (-29.0, 150.0),
    "bone": (300.0, HIGHEST_12_BIT_HU),
}
"""Lowest and highest HU of the smoothed NDCT.

Lung: emphysema begins at −950 (Gevenois et al. 1996), poor aeration at −500 (Gattinoni
et al. 2001). Fat and lean soft tissue: Aubrey et al. 2014. Bone: from 300 on, above most
of the blood of a portal-venous contrast phase.
"""

SMOOTHING = 2.0
"""σ of the Gaussian [pixels]."""

EDGE = 2
"""Pixels that a tissue loses on each side."""


def body_mask(hu: Float[np.ndarray, "h w"], *, margin: int = 8) -> Bool[np.ndarray, "h w"]:
    """The largest region denser than fat, filled, without the pixels of its edge.

    Args:
      hu: (H, W) HU.
      margin: number of pixels removed at the edge, at least 1.

    Returns:
      (H, W) bool; all False if no pixel is dense.
    """
    dense: np.ndarray = scipy.ndimage.binary_opening(
        scipy.ndimage.gaussian_filter(hu, 2) > -300, iterations=4)
    labels, count = scipy.ndimage.label(dense)
    if not count:
        return dense
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    body: np.ndarray = scipy.ndimage.binary_erosion(scipy.ndimage.binary_fill_holes(largest),
                                                    iterations=margin)
    return body


def tissue_masks(ndct: Float[np.ndarray, "h w"], body: Bool[np.ndarray, "h w"]
                 ) -> dict[str, Bool[np.ndarray, "h w"]]:
    """The pixels of each of `TISSUES` within the body, as (H, W) bool masks."""
    smooth = scipy.ndimage.gaussian_filter(ndct, SMOOTHING)
    return {name: scipy.ndimage.binary_erosion(
                body & (smooth >= lowest) & (smooth <= highest), iterations=EDGE)
            for name, (lowest, highest) in TISSUES.items()}


def windows_of(hu: Float[np.ndarray, "h w"]) -> list[Window]:
    """The display windows that fit the anatomy of a slice, the best first.

    Args:
      hu: (H, W) HU.

    Returns:
      The lung window first where lung is a quarter of the body, second from a twentieth on; the
      brain window alone in a head: an eighth bone, a quarter soft tissue, hardly any fat or
      lung; otherwise the abdominal window.
    """
    body = body_mask(hu, margin=max(1, round(8 * min(hu.shape) / 512)))
    total = max(int(body.sum()), 1)
    share = {name: int(mask.sum()) / total for name, mask in tissue_masks(hu, body).items()}
    if share["lung"] >= 1 / 4:
        return [windows.LUNG, windows.ABDOMEN]
    if share["lung"] >= 1 / 20:
        return [windows.ABDOMEN, windows.LUNG]
    if (share["bone"] >= 1 / 8 and share["soft tissue"] >= 1 / 4 and share["fat"] < 1 / 10
            and share["lung"] < 1 / 100):
        return [windows.BRAIN]
    return [windows.ABDOMEN]


@dataclasses.dataclass(frozen=True)
class TissueError:
    """Error of an image against the NDCT in one tissue, over all slices.

    Attributes:
      bias_hu: mean of image − NDCT; None without pixels.
      noise_std_hu: standard deviation of image − NDCT, which includes the NDCT's own
        noise; None without pixels.
      pixels: number of pixels.
    """

    bias_hu: float | None
    noise_std_hu: float | None
    pixels: int

    def as_json(self) -> JsonObject:
        return dataclasses.asdict(self)


def moments(error: Float[np.ndarray, "h w"], masks: dict[str, Bool[np.ndarray, "h w"]]
            ) -> Float64[np.ndarray, "tissues 3"]:
    """(tissues, 3): number of pixels, sum and sum of squares of an (H, W) error."""
    values = [error[mask].astype(np.float64) for mask in masks.values()]
    return np.array([(len(each), each.sum(), each @ each) for each in values])


def tissue_errors(total_moments: Num[np.ndarray, "tissues 3"]) -> dict[str, TissueError]:
    """The error in each tissue, from the sum of the slices' `moments` in the order of `TISSUES`."""
    errors = {}
    for name, (pixels, total, squares) in zip(TISSUES, total_moments.tolist(), strict=True):
        if pixels:
            bias = total / pixels
            errors[name] = TissueError(bias, max(squares / pixels - bias ** 2, 0) ** 0.5,
                                       int(pixels))
        else:
            errors[name] = TissueError(None, None, 0)
    return errors
