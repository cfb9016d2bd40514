"""The task transfer function: the remaining contrast of an edge at each frequency.

The resolution of a non-linear denoiser depends on contrast and noise, so discs of several
contrasts measure it, in the mean of repeated scans, each denoised by itself (Richard et al. 2012;
Chen et al. 2014; AAPM TG-233, 2019). The pixels about a disc's edge, sorted by their distance from
it, sample the edge-spread function more finely than the pixel pitch; the Fourier transform of its
derivative, 1 at frequency 0, is the TTF. It includes all blur between object and image, also the
averaging over a pixel in the painted object and in the reconstruction.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dfgan_jax.simulation.quality_phantom import Disc
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.types import JsonObject

REACH = 10.0
"""Greatest distance of measured pixels from the edge [pixels], at most 0.8 radii, with the outer
half tapered. The TTF is too high for a blur with a σ above a quarter of the reach."""

BIN = 0.2
"""Width of the bins of distances from the edge [pixels]."""

FREQUENCIES = 41
"""Number of frequencies from 0 to the pixels' Nyquist frequency."""

MIN_TOTAL_CNR = 15.0
"""TG-233's limit of contrast over noise, times the root of the number of averaged discs."""


@dataclasses.dataclass(frozen=True)
class TaskTransfer:
    """The transfer of one contrast.

    Attributes:
      contrast_hu: of the discs as painted.
      frequencies: (F,) [lp/cm].
      ttf: (F,), 1 at frequency 0.
      f50: lowest frequency with a TTF of 0.5 [lp/cm]; None: see `reason`.
      f10: lowest frequency with a TTF of 0.1 [lp/cm]; None: see `reason`.
      recovered_contrast: measured over true contrast, 1 without bias.
      reason: sentence on an f50 or f10 of None; otherwise empty.
    """

    contrast_hu: float
    frequencies: Float[np.ndarray, " f"]
    ttf: Float[np.ndarray, " f"]
    f50: float | None
    f10: float | None
    recovered_contrast: float
    reason: str = ""

    def as_json(self) -> JsonObject:
        return dataclasses.asdict(self) | {"frequencies": self.frequencies.tolist(),
                                           "ttf": self.ttf.tolist()}


def task_transfer(repeats: Float[np.ndarray, "k h w"], discs: Sequence[Disc], *,
                  pixel_spacing_mm: float) -> TaskTransfer:
    """Measures the transfer at the edges of discs.

    At contrasts near the noise, the curve follows the noise's spectrum: f50 and f10 are None up to
    `MIN_TOTAL_CNR`.

    Args:
      repeats: (K, H, W) HU, scans of the same object, each denoised by itself.
      discs: of one contrast, with nothing else within 1.8 radii.
      pixel_spacing_mm: pixel pitch.

    Raises:
      InputError: contrasts differ.
    """
    contrast_hu = discs[0].contrast_hu
    if any(disc.contrast_hu != contrast_hu for disc in discs):
        raise InputError(f"discs have contrasts {[disc.contrast_hu for disc in discs]}; "
                         "expected one")
    mean, variance = repeats.mean(axis=0, dtype=np.float64), repeats.var(axis=0, ddof=1)
    reach = min(REACH, *(0.8 * disc.radius for disc in discs))
    distances, values, contrasts, variances = [], [], [], []
    for disc in discs:
        distance = disc.distance(mean.shape)
        around = (distance > 1.3 * disc.radius) & (distance < 1.8 * disc.radius)
        background = mean[around].mean()
        contrasts.append(mean[distance < disc.radius / 2].mean() - background)
        variances.append(variance[around].mean())
        near = np.abs(distance - disc.radius) < reach + 1
        distances.append(distance[near] - disc.radius)
        values.append(mean[near] - background)
    frequencies = np.linspace(0, 0.5, FREQUENCIES)  # per pixel
    ttf = _edge_transfer(np.concatenate(distances), np.concatenate(values), reach, frequencies)
    contrast = np.mean(contrasts)
    total_noise = np.sqrt(np.mean(variances) / (len(repeats) * len(discs)))
    lp_cm = frequencies * 10 / pixel_spacing_mm
    f50, f10, reason = None, None, ""
    if abs(contrast) <= MIN_TOTAL_CNR * total_noise:
        reason = (f"contrast of {contrast:.0f} HU, not {MIN_TOTAL_CNR:.0f} times the noise of "
                  f"the mean, {total_noise:.1f} HU")
    else:
        f50, f10 = (_falls_to(level, lp_cm, ttf) for level in (0.5, 0.1))
        if f50 is None or f10 is None:
            reason = f"above {'0.5' if f50 is None else '0.1'} up to the pixels' Nyquist frequency"
    return TaskTransfer(contrast_hu, lp_cm, ttf, f50, f10, float(contrast / contrast_hu), reason)


def _edge_transfer(distances: np.ndarray, values: np.ndarray, reach: float,
                   frequencies: np.ndarray) -> np.ndarray:
    """|Fourier transform| of the derivative of values over distance; lengths in pixels.

    1 at frequency 0, or 0 throughout without an edge.
    """
    count = 2 * int(reach / BIN) + 1
    centres = (np.arange(count) - (count - 1) / 2) * BIN
    index = np.rint(distances / BIN).astype(int) + (count - 1) // 2
    kept = (index >= 0) & (index < count)
    pixels = np.bincount(index[kept], minlength=count)
    filled = pixels > 0
    # Few pixels share a bin, so their mean distance is not its centre.
    mean_distance, mean_value = (
        np.bincount(index[kept], weights[kept], minlength=count)[filled] / pixels[filled]
        for weights in (distances, values))
    edge = np.interp(centres, mean_distance, mean_value)
    middles = (centres[1:] + centres[:-1]) / 2
    tukey_window = np.cos(np.pi / 2 * np.clip(2 * np.abs(middles) / reach - 1, 0, 1)) ** 2
    line = np.diff(edge) * tukey_window
    transfer = np.abs(np.exp(-2j * np.pi * frequencies[:, None] * middles) @ line)
    # Averaging over a bin and the difference of two bins are each a blur one bin wide.
    relative: np.ndarray = transfer / (transfer[0] or 1) / np.sinc(frequencies * BIN) ** 2
    return relative


def _falls_to(level: float, frequencies: np.ndarray, ttf: np.ndarray) -> float | None:
    """The lowest frequency at a level below 1, interpolated; None if the curve stays above it."""
    below = np.flatnonzero(ttf <= level)
    if not len(below):
        return None
    after = below[0]
    share = (ttf[after - 1] - level) / (ttf[after - 1] - ttf[after])
    return float(frequencies[after - 1] + share * (frequencies[after] - frequencies[after - 1]))
