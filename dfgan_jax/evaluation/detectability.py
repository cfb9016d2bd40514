"""Detectability of a lesion against the background around it, in repeated scans.

Two measures: the contrast-to-noise ratio, which ignores the noise's texture, and the
detectability d′ of a channelised Hotelling observer, the best linear observer of an image
through ten channels (Myers & Barrett 1987), here dense differences of Gaussians (Abbey &
Barrett 2001). A linear filter can raise the former at will and hardly changes the latter,
unless it removes frequencies for good.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dfgan_jax.simulation.quality_phantom import Disc
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.types import JsonObject

CHANNELS = 10
REGION_MM = 40.0
"""Side of the observer's square about a lesion."""

_FIRST_FREQUENCY, _RATIO, _WIDTH = 0.005, 1.4, 1.67


@dataclasses.dataclass(frozen=True)
class Detectability:
    """The detectability of lesions of one diameter and contrast.

    Attributes:
      contrast_hu: as painted.
      diameter_mm: as painted.
      cnr: measured contrast over the noise of a pixel; None without noise.
      d_prime: of the observer; None unless all channels hold noise.
      d_prime_se: its standard error, by a jackknife over repeats.
    """

    contrast_hu: float
    diameter_mm: float
    cnr: float | None
    d_prime: float | None
    d_prime_se: float | None

    def as_json(self) -> JsonObject:
        return dataclasses.asdict(self)


def channel_templates(columns: Float[np.ndarray, " w"], rows: Float[np.ndarray, " h"]
                      ) -> Float[np.ndarray, "10 h w"]:
    """Ten dense differences of Gaussians, round about (0, 0), each of norm 1.

    In frequency [1/pixel] channel j is exp(−½(f / 1.67σ)²) − exp(−½(f / σ)²) with
    σ = 0.005·1.4^j, j = 1 … 10 (Abbey & Barrett, JOSA A 2001); here as its Fourier
    transform, so that its centre may lie between pixels.

    Args:
      columns: (W,) distance of the pixels from the centre [pixels].
      rows: (H,).

    Returns:
      (10, H, W) float64.
    """
    squared = columns ** 2 + rows[:, None] ** 2
    sigma = (_FIRST_FREQUENCY * _RATIO ** np.arange(1, CHANNELS + 1))[:, None, None]
    wide, narrow = (width ** 2 * np.exp(-2 * (np.pi * width) ** 2 * squared)
                    for width in (sigma, _WIDTH * sigma))
    templates: np.ndarray = narrow - wide
    return templates / np.sqrt((templates ** 2).sum(axis=(1, 2), keepdims=True))


def channel_outputs(repeats: Float[np.ndarray, "k h w"], lesions: Sequence[Disc], *,
                    pixel_spacing_mm: float) -> Float[np.ndarray, "k lesions 10"]:
    """The outputs of the channels at each lesion, (K, H, W) HU to (K, lesions, 10)."""
    half = round(REGION_MM / 2 / pixel_spacing_mm)
    outputs = np.empty((len(repeats), len(lesions), CHANNELS))
    for number, lesion in enumerate(lesions):
        rows, columns = (np.arange(round(centre) - half, round(centre) + half + 1)
                         for centre in (lesion.y, lesion.x))
        templates = channel_templates(columns - lesion.x, rows - lesion.y)
        region = repeats[:, rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
        outputs[:, number] = np.einsum("khw,chw->kc", region.astype(np.float64), templates)
    return outputs


def _squared_detectability(present: np.ndarray, absent: np.ndarray) -> float:
    """d′² of the Hotelling observer, without bias for Gaussian channel outputs.

    With Δ the difference of the means and S the covariance of n samples of each class,
    ν degrees of freedom and p channels, Δᵀ S⁻¹ Δ is on average ν / (ν − p − 1)·(d′² + 2p / n),
    since training and test samples are the same. The estimate inverts this (Lachenbruch & Mickey
    1968; Wunderlich & Noo 2009), and may be negative near d′ = 0.
    """
    repeats, places, channels = present.shape
    residuals = np.concatenate([each - each.mean(axis=0) for each in (present, absent)])
    residuals = residuals.reshape(-1, channels)
    freedom = 2 * places * (repeats - 1)
    difference = present.mean(axis=(0, 1)) - absent.mean(axis=(0, 1))
    squared = float(difference @ np.linalg.solve(residuals.T @ residuals / freedom, difference))
    unbiased: float = ((freedom - channels - 1) / freedom * squared
                       - 2 * channels / (repeats * places))
    return unbiased


def hotelling(present: Float[np.ndarray, "..."], absent: Float[np.ndarray, "..."]
              ) -> tuple[float, float]:
    """d′ of the Hotelling observer and its standard error.

    The observer knows place and background: the covariance is about the mean of each place. A
    jackknife over repeats gives the error of d′²; the returned error is √(d′² + error) − d′,
    which is finite at d′ = 0.

    Args:
      present: (K, places, C) channel outputs with the lesion, K repeats.
      absent: same shape, without it; noise independent of that of `present`.

    Raises:
      InputError: shapes differ, or repeats are too few for the number of channels.
      numpy.linalg.LinAlgError: the covariance is singular.
    """
    if present.shape != absent.shape or present.ndim != 3:
        raise InputError(f"channel outputs have shapes {present.shape} and {absent.shape}; "
                         "expected (repeats, places, channels) twice")
    repeats, places, channels = present.shape
    if 2 * places * (repeats - 2) <= channels + 1:
        raise InputError(f"{repeats} repeats of {places} places; expected more for "
                         f"{channels} channels")
    squared = _squared_detectability(present, absent)
    left_out = np.array([_squared_detectability(*(np.delete(each, repeat, axis=0)
                                                  for each in (present, absent)))
                         for repeat in range(repeats)])
    error = np.sqrt((repeats - 1) * left_out.var())
    squared = max(squared, 0.0)
    return float(np.sqrt(squared)), float(np.sqrt(squared + error) - np.sqrt(squared))


def detectability(with_lesions: Float[np.ndarray, "k h w"], without: Float[np.ndarray, "k h w"],
                  lesions: Sequence[Disc], *, pixel_spacing_mm: float) -> Detectability:
    """Measures both for lesions of one diameter and contrast.

    CNR: the mean difference between slices with and without lesions, over the standard deviation
    of a pixel from repeat to repeat, both within the lesions.

    Args:
      with_lesions: (K, H, W) HU, repeats.
      without: same shape, the same object without lesions, with independent noise.
      lesions: of one diameter and contrast.
      pixel_spacing_mm: pixel pitch.
    """
    inside = np.any([lesion.distance(without.shape[1:]) < lesion.radius for lesion in lesions],
                    axis=0)
    contrast = with_lesions[:, inside].mean(dtype=np.float64) - without[:, inside].mean(
        dtype=np.float64)
    noise = np.sqrt(without[:, inside].var(axis=0, ddof=1).mean())
    outputs = (channel_outputs(repeats, lesions, pixel_spacing_mm=pixel_spacing_mm)
               for repeats in (with_lesions, without))
    d_prime: tuple[float | None, float | None] = None, None
    # Without any noise the covariance is singular, or only rounding.
    if not np.array_equal(without, np.broadcast_to(without[0], without.shape)):
        with contextlib.suppress(np.linalg.LinAlgError):
            d_prime = hotelling(*outputs)
    return Detectability(lesions[0].contrast_hu, 2 * lesions[0].radius * pixel_spacing_mm,
                         float(contrast / noise) if noise else None, *d_prime)
