"""The noise power spectrum: the variance of noise by spatial frequency.

W(f) = Δ² / N · ⟨|DFT of a patch of noise|²⟩ [HU² mm²], with Δ the pixel pitch and N the
pixels of a patch (Siewerdsen, Cunningham & Jaffray 2002; ICRU report 87, 2012; AAPM
TG-233, 2019). Each patch loses its mean and is tapered by a Hann window, whose power replaces N:
without the taper, strong frequencies leak into all others.

Frequencies are in line pairs per cm; with a `pixel_spacing_mm` of None, for an unknown pixel
pitch, they are in cycles per pixel, and spectra in HU² pixel².
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from dfgan_jax.support.types import JsonObject

PATCH = 64
"""Side of a patch [pixels]; a sixth of a torso's width at 512²."""


def patch_side(shape: tuple[int, ...]) -> int:
    """The side of the patches for images of (…, H, W): `PATCH`, or about a quarter; even."""
    return min(PATCH, min(shape[-2:]) // 8 * 2)


def patches_within(noise: Float[np.ndarray, "h w"], region: Bool[np.ndarray, "h w"], *,
                   side: int = PATCH) -> Float[np.ndarray, "m p p"]:
    """Half-overlapping square patches wholly within a region.

    Args:
      noise: (H, W) HU.
      region: (H, W) bool.
      side: of a patch [pixels].

    Returns:
      (M, side, side); M may be 0.
    """
    values, inside = (np.lib.stride_tricks.sliding_window_view(image, (side, side))[
        ::side // 2, ::side // 2] for image in (noise, region))
    return values[inside.all(axis=(2, 3))]


def power_spectrum(patches: Float[np.ndarray, "m p p"], *, pixel_spacing_mm: float | None
                   ) -> Float[np.ndarray, "p p"]:
    """The mean spectrum of patches of noise.

    Args:
      patches: (M, P, P) HU, M at least 1.

    Returns:
      (P, P) float64 [HU² mm²], frequency 0 at [0, 0].
    """
    hann = np.hanning(patches.shape[-1] + 1)[:-1]
    taper = hann * hann[:, None]
    spectra = np.abs(np.fft.fft2((patches - patches.mean(axis=(1, 2), keepdims=True)) * taper)) ** 2
    pitch = 1.0 if pixel_spacing_mm is None else pixel_spacing_mm
    spectrum: np.ndarray = spectra.mean(axis=0) * pitch ** 2 / (taper ** 2).sum()
    return spectrum


def independent_noise(repeats: Float[np.ndarray, "k h w"]) -> Float[np.ndarray, "k h w"]:
    """The noise of repeated scans: their difference from the mean, times √(K / (K − 1)).

    The factor corrects for the mean of K scans, which holds 1/K of their noise. A denoiser's
    bias, the same in all repeats, is not noise.

    Args:
      repeats: (K, H, W) HU, K at least 2.

    Returns:
      (K, H, W), the dtype of `repeats`.
    """
    count = len(repeats)
    return (repeats - repeats.mean(axis=0)) * np.asarray((count / (count - 1)) ** 0.5,
                                                         repeats.dtype)


def frequency_axes(side: int, *, pixel_spacing_mm: float | None
                   ) -> tuple[Float[np.ndarray, "p 1"], Float[np.ndarray, "1 p"]]:
    """(side, 1) vertical and (1, side) horizontal frequencies of a spectrum, in FFT order."""
    axis = np.fft.fftfreq(side, 1.0 if pixel_spacing_mm is None else pixel_spacing_mm / 10)
    return axis[:, None], axis[None]


def radial_mean(spectrum: Float[np.ndarray, "p p"], *, pixel_spacing_mm: float | None
                ) -> tuple[Float[np.ndarray, " f"], Float[np.ndarray, " f"]]:
    """Averages a spectrum over directions, in rings one step of frequency wide.

    Args:
      spectrum: (P, P), FFT order.
      pixel_spacing_mm: pixel pitch; None if unknown.

    Returns:
      (P / 2,) frequencies from 0 up to the axes' Nyquist frequency, and (P / 2,) means.
    """
    side = len(spectrum)
    vertical, horizontal = frequency_axes(side, pixel_spacing_mm=pixel_spacing_mm)
    step = horizontal[0, 1]
    ring = np.rint(np.hypot(vertical, horizontal) / step).astype(int)
    mean = np.bincount(ring.ravel(), spectrum.ravel()) / np.bincount(ring.ravel())
    return np.arange(side // 2) * step, mean[:side // 2]


def average_frequency(frequencies: Float[np.ndarray, " f"], radial: Float[np.ndarray, " f"]
                      ) -> float:
    """f_av = Σ f·W / Σ W over the radial mean, for a non-zero spectrum (AAPM TG-233, 2019).

    Coarse blotches, as denoisers leave them, lower it (Solomon, Christianson & Samei 2012).
    """
    return float(frequencies @ radial / radial.sum())


def mean_frequency(spectrum: Float[np.ndarray, "p p"], *, pixel_spacing_mm: float | None) -> float:
    """∫ f·W / ∫ W over the whole plane with its corners, for a non-zero spectrum.

    All noise counts by its power. The mean is higher than `average_frequency`, by half for a
    falling spectrum.
    """
    frequency = np.hypot(*frequency_axes(len(spectrum), pixel_spacing_mm=pixel_spacing_mm))
    return float((frequency * spectrum).sum() / spectrum.sum())


@dataclasses.dataclass(frozen=True)
class NoisePower:
    """The numbers of one spectrum.

    Attributes:
      frequencies: (P / 2,) of the rings.
      radial: (P / 2,) mean spectrum in each ring.
      mean_frequency: see `average_frequency`; None without noise.
      peak_frequency: of the ring with the greatest mean; None without noise.
      noise_std_hu: √∫ W, the standard deviation of the noise within a patch [HU].
    """

    frequencies: Float[np.ndarray, " f"]
    radial: Float[np.ndarray, " f"]
    mean_frequency: float | None
    peak_frequency: float | None
    noise_std_hu: float

    def as_json(self) -> JsonObject:
        return dataclasses.asdict(self) | {"frequencies": self.frequencies.tolist(),
                                           "radial": self.radial.tolist()}


def noise_power(spectrum: Float[np.ndarray, "p p"], *, pixel_spacing_mm: float | None
                ) -> NoisePower:
    """Sums up a (P, P) spectrum in FFT order."""
    frequencies, radial = radial_mean(spectrum, pixel_spacing_mm=pixel_spacing_mm)
    step = 1 / (len(spectrum) * (1.0 if pixel_spacing_mm is None else pixel_spacing_mm))
    noisy = bool(spectrum.any())
    return NoisePower(
        frequencies, radial,
        average_frequency(frequencies, radial) if noisy else None,
        float(frequencies[np.argmax(radial)]) if noisy else None,
        float(np.sqrt(spectrum.sum()) * step))
