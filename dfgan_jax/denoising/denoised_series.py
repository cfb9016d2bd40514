"""The effect of denoising on a series, and a check of the series against the model's domain."""

from typing import Final, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from dfgan_jax.data.domain import Domain, ScanProperties, typical
from dfgan_jax.scans.tissues import body_mask, tissue_masks

MEASURED_SLICES: Final = 3
"""Number of slices of a series that are measured."""

_PATCH_MM: Final = 10.0
_SMOOTHING_MM: Final = 2.0
_UNIFORM_SHARE: Final = 0.2


class Change(NamedTuple):
    """The change of a slice by denoising; None if it has too little soft tissue to measure.

    Attributes:
      noise_before_hu: standard deviation [HU] in the most uniform patches of soft tissue.
      noise_after_hu: of the denoised slice, in the same patches.
      soft_tissue_shift_hu: mean of denoised − input over soft tissue [HU].
    """

    noise_before_hu: float | None
    noise_after_hu: float | None
    soft_tissue_shift_hu: float | None


def measured_slices(count: int) -> list[int]:
    """The indices of the measured slices of a series: the middles of equal parts.

    The first and the last slice of a scan, included by `spacing.evenly_spaced`, contain little
    anatomy.
    """
    parts = min(MEASURED_SLICES, count)
    return [int((part + 0.5) * count / parts) for part in range(parts)]


def measure_change(before: Float[np.ndarray, "h w"], after: Float[np.ndarray, "h w"], *,
                   pixel_spacing_mm: float) -> Change:
    """Compares a slice with the denoised slice.

    Patches of 10 mm within soft tissue are ranked by the standard deviation of the denoised
    slice's low frequencies, which represent anatomy. The noise of both slices is measured in the
    fifth of the patches with the lowest deviation.

    Args:
      before: (H, W) float32, HU.
      after: (H, W) float32, HU, denoised.
      pixel_spacing_mm: pixel pitch [mm].
    """
    soft = tissue_masks(after, body_mask(after))["soft tissue"]
    if not soft.any():
        return Change(None, None, None)
    shift = float((after - before)[soft].mean(dtype=np.float64))
    size = max(round(_PATCH_MM / pixel_spacing_mm), 4)
    if min(soft.shape) < size:
        return Change(None, None, shift)

    def patches(image: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(image, (size, size))[::size // 2,
                                                                             ::size // 2]

    inside = patches(soft).all(axis=(2, 3))
    if not inside.any():
        return Change(None, None, shift)
    smooth = scipy.ndimage.gaussian_filter(after, _SMOOTHING_MM / pixel_spacing_mm)
    anatomy = patches(smooth)[inside].std(axis=(1, 2))
    uniform = np.argsort(anatomy, kind="stable")[:max(round(_UNIFORM_SHARE * len(anatomy)), 1)]
    noise = [float(np.sqrt(patches(image)[inside][uniform].var(axis=(1, 2)).mean()))
             for image in (before, after)]
    return Change(noise[0], noise[1], shift)


def describe(scans: list[ScanProperties], changes: list[Change]) -> dict[str, float | None]:
    """The medians over a series' measured slices, for `summary.json`; None if unknown."""
    scan = typical(scans) if scans else ScanProperties(None, None, np.nan)
    described: dict[str, float | None] = {
        "kernel_lp_cm": scan.kernel_lp_cm,
        "pixel_spacing_mm": scan.pixel_spacing_mm if scans else None}
    for name in Change._fields:
        known = [value for each in changes if (value := getattr(each, name)) is not None]
        described[name] = float(np.median(known)) if known else None
    return {name: None if value is None else float(f"{value:.4g}")
            for name, value in described.items()}


def warnings(scans: list[ScanProperties], domain: Domain | None) -> list[str]:
    """Describes the properties of a series outside the model's domain, as phrases."""
    return domain.leaves(typical(scans)) if scans and domain is not None else []
