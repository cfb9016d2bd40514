"""Estimates photons and reconstruction kernel of a scan from the noise of a full-dose slice.

Both come from the spectrum of the noise in uniform tissue; no tag of the scanner is needed. For
the units of photons see `scan_rays`.
"""

import functools
from typing import Final, NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
from jaxtyping import Float, Num, Shaped

from dfgan_jax.simulation.projection import kernel_mtf
from dfgan_jax.simulation.scan_rays import (
    BINS_PER_PIXEL,
    ELECTRONIC_NOISE_STD,
    ScanRays,
    checked_slice,
    rays_of,
)
from dfgan_jax.support.errors import MissingArgument

_TISSUE_HU: Final = (-200.0, 250.0)
_SMOOTHING_MM: Final = 1.1
_PATCH_MM: Final = 12.0
_ANATOMY_LP_CM: Final = 1.6
"""A patch's spectrum below it shows whether the tissue is uniform, ..."""
_NOISE_LP_CM: Final = 2.0
"""... and its spectrum above it is the noise. Noise of different bands is independent: choosing
patches by one band leaves no bias in the other, as the lowest of local deviations would."""
_UNIFORM_SHARE: Final = 0.2
_FAINTEST: Final = 0.01
"""Bands with less than this share of the largest are rounding of HU, not noise."""
_CANDIDATES_LP_CM: Final = tuple(np.geomspace(1.0, 20.0, 250).tolist())
_ROUNDING_HU: Final = 0.3
"""Standard deviation of rounding to whole HU."""
_INSTEAD: Final = ("photons_per_ray", "kernel")
"""Arguments of `noise_insertion.insert_noise` that replace the measurement."""

_MIN_PATCHES: Final = 100
"""A patch begins every 3 mm in both directions: 100 of them begin on 9 cm²."""


class ScanNoise(NamedTuple):
    """Noise and settings of a scan, estimated from a slice.

    Attributes:
      photons_per_ray: unattenuated, in the centre, in a view whose greatest line integral
        is `low_dose.REFERENCE_ATTENUATION`.
      kernel: f50 of the reconstruction kernel [lp/cm], or the given name.
      noise_std_hu: standard deviation of the noise [HU] in the most uniform tissue.
      patches: number of overlapping patches of soft tissue; the most uniform are measured.
    """

    photons_per_ray: float
    kernel: float | str
    noise_std_hu: float
    patches: int


def _local_power(scan: ScanRays, ray_variance: np.ndarray) -> np.ndarray:
    """The noise power spectrum near each pixel over |f|·MTF² [HU²; f in 1/pixel].

    A view adds to the spectrum along its own direction only, and there the variance of the
    ray through the pixel times the ramp squared, so the mean over directions is a plain
    back-projection of the variances.
    """
    # A pixel's weights sum to BINS_PER_PIXEL in each view.
    total = scan.beam.backproject(ray_variance[None].astype(np.float32))[0] / BINS_PER_PIXEL
    per_view = total[scan.crop] / scan.beam.views
    power: np.ndarray = per_view * (np.pi / scan.beam.views / BINS_PER_PIXEL
                                    * scan.hu_per_mu ** 2)
    return power


def _taper(size: int) -> np.ndarray:
    hann = np.hanning(size + 2)[1:-1]
    return np.multiply.outer(hann, hann)


def _frequency(size: int) -> np.ndarray:
    """(size, size) frequencies [1/pixel] of a Fourier transform, of any direction."""
    frequency: np.ndarray = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    return frequency


def _expected_spectrum(size: int, pixel_spacing_mm: float, kernel: str | float) -> np.ndarray:
    """(size, size) mean spectrum of a tapered patch of noise with the spectrum |f|·MTF².

    The taper multiplies the autocovariance by its own; the smear of the spectrum cannot be
    neglected beside the kernel's slope.
    """
    frequency = _frequency(2 * size)
    spectrum = frequency * kernel_mtf(frequency * 10 / pixel_spacing_mm, kernel) ** 2
    taper = _taper(size)
    smear = np.abs(scipy.fft.fft2(taper, (2 * size, 2 * size))) ** 2 / (taper ** 2).sum()
    product = scipy.fft.ifft2(spectrum) * scipy.fft.ifft2(smear)
    expected: np.ndarray = scipy.fft.fft2(product).real[::2, ::2]
    return expected


@functools.lru_cache(maxsize=4)  # the slices of a series have the same pixels
def _candidate_spectra(size: int, pixel_spacing_mm: float) -> list[np.ndarray]:
    """The expected spectra of `_CANDIDATES_LP_CM`."""
    return [_expected_spectrum(size, pixel_spacing_mm, each) for each in _CANDIDATES_LP_CM]


def _patch_size(pixel_spacing_mm: float) -> int:
    return max(2 * round(_PATCH_MM / pixel_spacing_mm / 2), 12)


def _tissue_spectra(hu: np.ndarray, local_power: tuple[np.ndarray, ...], size: int,
                    pixel_spacing_mm: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Power spectra (N, size, size) of patches within soft tissue, and their local powers (N,).

    Raises:
      InputError: there are too few patches.
    """
    smooth = scipy.ndimage.gaussian_filter(hu, _SMOOTHING_MM / pixel_spacing_mm)
    tissue = (smooth > _TISSUE_HU[0]) & (smooth < _TISSUE_HU[1])

    def patches(image: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
        return windows[::size // 4, ::size // 4]

    inside = (patches(tissue).all(axis=(2, 3)) if min(hu.shape) >= size else
              np.zeros((0, 0), bool))
    if inside.sum() < _MIN_PATCHES:
        raise MissingArgument(f"the slice has {inside.sum()} regions of soft tissue to measure its "
                              f"noise in; expected at least {_MIN_PATCHES}", *_INSTEAD)
    taper = _taper(size)
    values = patches(hu)[inside]
    values = values - (values * taper).sum(axis=(1, 2), keepdims=True) / taper.sum()
    spectra = np.abs(scipy.fft.fft2(values * taper)) ** 2 / (taper ** 2).sum()
    return spectra, [patches(power)[inside].mean(axis=(1, 2)) for power in local_power]


class _Fit(NamedTuple):
    """The noise of the most uniform patches.

    Attributes:
      factor: of the spectrum |f|·MTF² times the local power.
      kernel: f50 [lp/cm], or the given name.
      noise_std_hu: standard deviation [HU].
      uniform: indices of the patches.
    """

    factor: float
    kernel: float | str
    noise_std_hu: float
    uniform: np.ndarray


def _fit(spectra: np.ndarray, photon_power: np.ndarray, pixel_spacing_mm: float,
         kernel: str | float) -> _Fit:
    """Fits the spectrum of noise to the most uniform of the patches.

    Args:
      spectra: (N, size, size) of patches.
      photon_power: (N,), the local power of each.
      pixel_spacing_mm: pixel pitch.
      kernel: `auto`, or as for `noise_insertion.insert_noise`.
    """
    size = spectra.shape[-1]
    per_pixel = _frequency(size)
    frequency = per_pixel * 10 / pixel_spacing_mm
    relative = spectra / photon_power[:, None, None]
    anatomy = relative[:, (frequency > 0) & (frequency < _ANATOMY_LP_CM)].mean(axis=1)
    uniform = np.argsort(anatomy)[:round(_UNIFORM_SHARE * len(spectra))]

    ring = np.rint(per_pixel * size).astype(int)
    used = (frequency > _NOISE_LP_CM) & (ring < size // 2)
    counts = np.bincount(ring[used])
    if (counts > 0).sum() < 3:
        raise MissingArgument(f"pixel_spacing_mm is {pixel_spacing_mm}, too coarse to tell noise "
                              "from anatomy", *_INSTEAD)

    def ring_means(spectrum: np.ndarray) -> np.ndarray:
        return np.bincount(ring[used], spectrum[used])[counts > 0] / counts[counts > 0]

    power = ring_means(relative[uniform].mean(axis=0))
    strong = power > _FAINTEST * np.max(power)
    if not strong.any():
        raise MissingArgument("the slice has no noise where its tissue is uniform; expected that "
                              "of a scan", *_INSTEAD)
    weight = counts[counts > 0][strong]
    candidates: dict[str | float, np.ndarray] = (
        dict(zip(_CANDIDATES_LP_CM, _candidate_spectra(size, pixel_spacing_mm), strict=True))
        if kernel == "auto" else {kernel: _expected_spectrum(size, pixel_spacing_mm, kernel)})
    fits = []  # least squares of the logarithms
    for candidate, spectrum in candidates.items():
        expected = ring_means(spectrum)
        ratio = np.log(power[strong] / np.maximum(expected[strong], 1e-99))
        mean = np.average(ratio, weights=weight)
        fits.append((np.average((ratio - mean) ** 2, weights=weight), np.exp(mean), candidate))
    _, factor, kernel = min(fits, key=lambda fit: fit[0])

    variance = factor * photon_power[uniform].mean() * np.mean(
        per_pixel * kernel_mtf(frequency, kernel) ** 2)
    if variance < _ROUNDING_HU ** 2:
        raise MissingArgument(f"the slice's noise is {variance ** 0.5:.2g} HU where its tissue is "
                              f"uniform; expected at least {_ROUNDING_HU} HU", *_INSTEAD)
    return _Fit(float(factor), kernel, float(np.sqrt(variance)), uniform)


def estimate_from_rays(scan: ScanRays, hu: Float[np.ndarray, "h w"], pixel_spacing_mm: float,
                       kernel: str | float, electronic_noise_std: float) -> ScanNoise:
    """`estimate_noise` of a slice with known rays.

    Args:
      scan: rays of the slice.
      hu: (H, W) float32, a result of `checked_slice`; the rest as for `estimate_noise`.
    """
    # At one photon a ray; that of electronic noise falls with the square of the photons.
    spectra, (photon_power, electronic_power) = _tissue_spectra(
        hu, (_local_power(scan, 1 / scan.signal / scan.ray_mm),
             _local_power(scan, 1 / scan.signal ** 2 / scan.ray_mm)),
        _patch_size(pixel_spacing_mm), pixel_spacing_mm)
    factor, kernel, noise_std_hu, uniform = _fit(spectra, photon_power, pixel_spacing_mm, kernel)
    # factor = y + y²·electronic, for y = 1 / photons_per_ray
    electronic = electronic_noise_std ** 2 * np.mean(
        electronic_power[uniform] / photon_power[uniform])
    photons_per_ray = (1 + np.sqrt(1 + 4 * electronic * factor)) / (2 * factor)
    return ScanNoise(float(photons_per_ray), kernel, noise_std_hu, len(spectra))


class ImageNoise(NamedTuple):
    """Noise and kernel of a slice; see `ScanNoise`."""

    noise_std_hu: float
    kernel: float


def measure_noise(hu: Num[np.ndarray, "..."], *, pixel_spacing_mm: float,
                  outside: Shaped[np.ndarray, "..."] | None = None) -> ImageNoise:
    """Measures noise and kernel of a slice as `estimate_noise` does, without its photons.

    The local power of noise is taken as equal in all patches, so that no rays have to be traced.

    Args:
      hu: (H, W) float32.
      pixel_spacing_mm: pixel pitch, of square pixels.
      outside: (H, W) bool, the pixels outside the field of view.

    Raises:
      InputError: as `estimate_noise`.
    """
    checked = checked_slice(hu, pixel_spacing_mm, "auto", ELECTRONIC_NOISE_STD, outside)
    spectra, _ = _tissue_spectra(checked, (), _patch_size(pixel_spacing_mm), pixel_spacing_mm)
    fit = _fit(spectra, np.ones(len(spectra)), pixel_spacing_mm, "auto")
    return ImageNoise(fit.noise_std_hu, float(fit.kernel))


def estimate_noise(ndct_hu: Num[np.ndarray, "..."], *, pixel_spacing_mm: float,
                   kernel: str | float = "auto",
                   electronic_noise_std: float = ELECTRONIC_NOISE_STD,
                   outside: Shaped[np.ndarray, "..."] | None = None) -> ScanNoise:
    """Measures the noise of a full-dose slice, and estimates photons and kernel from it.

    Patches of soft tissue are ranked by their power at the low frequencies of anatomy. In the
    most uniform patches the spectrum at higher frequencies, relative to that of one photon a
    ray, is |f|·MTF² over the number of photons. Remaining structure counts as noise.

    Args:
      ndct_hu: (H, W) float32.
      pixel_spacing_mm: pixel pitch, of square pixels.
      kernel: `auto`, or as for `noise_insertion.insert_noise`.
      electronic_noise_std: in photons, of a ray.
      outside: (H, W) bool, the pixels outside the field of view.

    Returns:
      photons, kernel, noise and the number of regions; see `ScanNoise`.

    Raises:
      InputError: an argument cannot be used, or the slice has too little soft tissue or noise.
    """
    hu = checked_slice(ndct_hu, pixel_spacing_mm, kernel, electronic_noise_std, outside)
    return estimate_from_rays(rays_of(hu, pixel_spacing_mm), hu, pixel_spacing_mm, kernel,
                              electronic_noise_std)
