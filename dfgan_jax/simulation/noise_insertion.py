"""A low-dose slice from a full-dose one: noise is added until it is that of the lower dose.

The full-dose slice is projected, noise of the variance that the lower dose adds is drawn
for every ray, and the reconstruction of that noise alone is added to the slice (Yu et al.
2012, "Development and validation of a practical lower-dose-simulation tool"; Zabic et al.
2013). So the full-dose noise stays part of the low-dose image, and nothing but noise
changes. What the raw data would say is estimated from the slice: how many photons there
were, and the reconstruction kernel, both from the spectrum of its own noise where the
tissue is uniform. No tag of the scanner is needed.

Slices are (H, W) float32 in HU, of any size. A ray here is 1 mm wide in the centre, as
high as the slice is thick, and one of `VIEWS` parallel ones over 180°; photons and
electronic noise are counted for such a ray, whatever the pixel. The isocentre is taken
to be the image's centre, and the body to be inside the image.

The model is Gaussian noise of the logarithm, uncorrelated between rays: good while many
photons arrive, without the bias and the long tails of starved rays. Iterative or learned
reconstruction is not modelled: there the result has the spectrum and the strength of the
scan's noise, and none of its dependence on contrast.
"""

import functools
import threading
from typing import Final, NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage

from dfgan_jax.scans.hounsfield import HU_AIR, MU_WATER, hu_to_mu
from dfgan_jax.simulation.low_dose import incident_photons, modulate_tube_current
from dfgan_jax.simulation.projection import KERNELS, ParallelBeam, kernel_mtf
from dfgan_jax.support.errors import InputError

VIEWS: Final = 288
"""Over 180°, up to 512²; larger slices get fewer, for the memory, of more photons each."""

BINS_PER_PIXEL: Final = 2
"""With one, the back-projection's interpolation would leave images of the noise near the
pixels' Nyquist frequency: 6 % of variance for Siemens B30, 8 % for sharper kernels."""

TUBE_CURRENT_MODULATION: Final = 0.5
"""Exponent for `modulate_tube_current`: least noise for the dose (Gies et al. 1999)."""

BOWTIE_ATTENUATION: Final = 6.0
"""Line integral of the bowtie filter, for `incident_photons`, `SCAN_RADIUS_MM` from the
centre. The real pairs of one patient (L143 of the AAPM-Mayo challenge) hardly tell 4 from 8."""

SCAN_RADIUS_MM: Final = 250.0
"""Of the widest field that scanners reconstruct."""

REFERENCE_THICKNESS_MM: Final = 3.0

ELECTRONIC_NOISE_STD: Final = 31.0
"""In photons, of a ray (see above), in slices of `REFERENCE_THICKNESS_MM`; it grows as the
square root of the thickness. A ray stands for some fifteen detector
readings, each of which then has eight photons' noise.

Chosen so that the quarter dose of patient L143 has the noise it has, on average. Without
it the simulated noise is 11 to 18 % too weak in each of three patients: the real pairs add
more than three times the full dose's variance, whatever may be the reason."""

_HIGHEST_PER_PIXEL: Final = np.pi ** -0.5
"""The radius of the circle with the area of the square of frequencies that pixels hold. What
aliases from between the two replaces what is missing in the corners, so that the noise of
sharp kernels, which reach beyond, has the variance of |f|·MTF² over the square."""

_OPAQUE: Final = 20.0
"""The largest line integral: hardly a photon of 1e8 is left, and no number overflows."""

_TISSUE_HU: Final = (-200.0, 250.0)
_SMOOTHING_MM: Final = 1.1
_PATCH_MM: Final = 12.0
_ANATOMY_LP_CM: Final = 1.6
"""Below it a patch's spectrum tells whether the tissue is uniform, ..."""
_NOISE_LP_CM: Final = 2.0
"""... and above it what the noise is. Noise in different bands is independent: choosing
patches by one band leaves no bias in the other, as the lowest of local deviations would."""
_UNIFORM_SHARE: Final = 0.2
_FAINTEST: Final = 0.01
"""Bands with less than this share of the largest are rounding of HU, not noise."""
_CANDIDATES_LP_CM: Final = tuple(np.geomspace(1.0, 20.0, 250).tolist())
_ROUNDING_HU: Final = 0.3
"""Standard deviation of rounding to whole HU."""
_MIN_PATCHES: Final = 100
"""A patch begins every 3 mm in both directions: 100 of them begin on 9 cm²."""


class ScanNoise(NamedTuple):
    """What a slice's noise says about its scan.

    Attributes:
      photons_per_ray: unattenuated, in the centre, in a view whose greatest line integral
        is `low_dose.REFERENCE_ATTENUATION`.
      kernel: f50 of the reconstruction kernel [lp/cm], or the name that was given.
      noise_std_hu: standard deviation of the noise [HU] where the tissue is most uniform.
      patches: regions of soft tissue, overlapping, of which the most uniform were measured.
    """

    photons_per_ray: float
    kernel: float | str
    noise_std_hu: float
    patches: int


class _Scan(NamedTuple):
    """A slice as rays: `signal` is what arrives for each photon of `photons_per_ray`."""

    beam: ParallelBeam
    crop: tuple[slice, slice]
    signal: np.ndarray
    ray_mm: float
    hu_per_mu: float


_LOCK: Final = threading.Lock()


def _unit_beam(size: int) -> ParallelBeam:
    """In pixels, so that slices of one size share it whatever their spacing."""
    with _LOCK:  # threads that begin together must not each build it
        return _cached_unit_beam(size)


@functools.lru_cache(maxsize=1)  # 0.4 GB at 512²
def _cached_unit_beam(size: int) -> ParallelBeam:
    views = VIEWS if size <= 512 else 4 * max(round(VIEWS * 512 / size / 4), 1)
    return ParallelBeam(size=size, views=views, pixel_spacing_mm=1.0, diameter=1.42,
                        bins_per_pixel=BINS_PER_PIXEL)


def _checked(ndct_hu: np.ndarray, pixel_spacing_mm: float, kernel: str | float,
             electronic_noise_std: float, outside: np.ndarray | None) -> np.ndarray:
    """The slice in float32 with air outside the field of view."""
    if ndct_hu.ndim != 2 or min(ndct_hu.shape) < 1:
        raise InputError(f"the slice has shape {ndct_hu.shape}, expected (height, width)")
    if outside is not None and (outside.shape != ndct_hu.shape or outside.dtype != bool):
        raise InputError(f"outside is {outside.dtype} of shape {outside.shape}, "
                         f"expected bool of shape {ndct_hu.shape}")
    if outside is not None:
        ndct_hu = np.where(outside, HU_AIR, ndct_hu)
    if not np.isfinite(ndct_hu).all():
        raise InputError("the slice has values that are NaN or infinite, expected finite HU")
    if not 0 < pixel_spacing_mm < np.inf:
        raise InputError(f"pixel_spacing_mm is {pixel_spacing_mm}, expected above 0")
    if isinstance(kernel, str) and kernel not in ("auto", *KERNELS):
        raise InputError(f"kernel is {kernel!r}, expected auto, a frequency in lp/cm or one of "
                         f"{', '.join(KERNELS)}")
    if not isinstance(kernel, str) and not 0 < kernel < np.inf:
        raise InputError(f"kernel is {kernel}, expected a frequency above 0 lp/cm")
    if not 0 <= electronic_noise_std < np.inf:
        raise InputError(f"electronic_noise_std is {electronic_noise_std}, expected 0 or more")
    return ndct_hu.astype(np.float32)


def _scan(ndct_hu: np.ndarray, pixel_spacing_mm: float) -> _Scan:
    size = max(*ndct_hu.shape, 8)
    top, left = ((size - length) // 2 for length in ndct_hu.shape)
    crop = (slice(top, top + ndct_hu.shape[0]), slice(left, left + ndct_hu.shape[1]))
    square = np.full((size, size), HU_AIR, np.float32)
    # Below air there is padding, and noise of air that the scanner has cut at -1024.
    square[crop] = np.maximum(ndct_hu, HU_AIR)
    beam = _unit_beam(size)
    line_integrals = beam.project(hu_to_mu(square)[None] * np.float32(pixel_spacing_mm))[0]
    line_integrals = np.minimum(line_integrals, _OPAQUE)
    offset_mm = (np.arange(beam.bins) + 0.5 - beam.bins / 2) * pixel_spacing_mm / BINS_PER_PIXEL
    photons = incident_photons(np.clip(offset_mm / SCAN_RADIUS_MM, -1, 1), photons_per_ray=1.0,
                               bowtie_attenuation=BOWTIE_ATTENUATION)
    photons = photons * modulate_tube_current(
        line_integrals, tube_current_modulation=TUBE_CURRENT_MODULATION)
    return _Scan(beam, crop, photons * np.exp(-line_integrals),
                 ray_mm=pixel_spacing_mm / BINS_PER_PIXEL * VIEWS / beam.views,
                 hu_per_mu=1000 / MU_WATER / pixel_spacing_mm)


def _local_power(scan: _Scan, ray_variance: np.ndarray) -> np.ndarray:
    """What the noise power spectrum near each pixel is, over |f|·MTF² [HU²; f in 1/pixel].

    A view adds to the spectrum along its own direction only, and there the variance of the
    ray through the pixel times the ramp squared, so the mean over directions is a plain
    back-projection of the variances.
    """
    # A pixel's weights sum to BINS_PER_PIXEL in each view.
    total = scan.beam.backproject(ray_variance[None].astype(np.float32))[0] / BINS_PER_PIXEL
    per_view = total[scan.crop] / scan.beam.views
    return per_view * (np.pi / scan.beam.views / BINS_PER_PIXEL * scan.hu_per_mu ** 2)


def _taper(size: int) -> np.ndarray:
    hann = np.hanning(size + 2)[1:-1]
    return hann * hann[:, None]


def _frequency(size: int) -> np.ndarray:
    """(size, size) frequencies [1/pixel] of a Fourier transform, of any direction."""
    return np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))


def _expected_spectrum(size: int, pixel_spacing_mm: float, kernel: str | float) -> np.ndarray:
    """(size, size) mean of a tapered patch's spectrum where the noise's is |f|·MTF².

    The taper smears the spectrum by more than the kernel's slope allows to neglect: it
    multiplies the autocovariance by the taper's.
    """
    frequency = _frequency(2 * size)
    spectrum = frequency * kernel_mtf(frequency * 10 / pixel_spacing_mm, kernel) ** 2
    taper = _taper(size)
    smear = np.abs(scipy.fft.fft2(taper, (2 * size, 2 * size))) ** 2 / (taper ** 2).sum()
    product = scipy.fft.ifft2(spectrum) * scipy.fft.ifft2(smear)
    return scipy.fft.fft2(product).real[::2, ::2]


def _tissue_spectra(hu: np.ndarray, local_power: tuple[np.ndarray, ...], size: int,
                    pixel_spacing_mm: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Power spectra (N, size, size) of patches within soft tissue, and their local powers (N,)."""
    smooth = scipy.ndimage.gaussian_filter(hu, _SMOOTHING_MM / pixel_spacing_mm)
    tissue = (smooth > _TISSUE_HU[0]) & (smooth < _TISSUE_HU[1])

    def patches(image: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
        return windows[::size // 4, ::size // 4]

    if min(hu.shape) < size:
        return np.empty((0, size, size)), [np.empty(0) for _ in local_power]
    inside = patches(tissue).all(axis=(2, 3))
    taper = _taper(size)
    values = patches(hu)[inside]
    values = values - (values * taper).sum(axis=(1, 2), keepdims=True) / taper.sum()
    spectra = np.abs(scipy.fft.fft2(values * taper)) ** 2 / (taper ** 2).sum()
    return spectra, [patches(power)[inside].mean(axis=(1, 2)) for power in local_power]


def _estimate(scan: _Scan, hu: np.ndarray, pixel_spacing_mm: float, kernel: str | float,
              electronic_noise_std: float) -> ScanNoise:
    size = max(2 * round(_PATCH_MM / pixel_spacing_mm / 2), 12)
    # At one photon a ray; those of electronic noise fall with its square.
    spectra, (photon_power, electronic_power) = _tissue_spectra(
        hu, (_local_power(scan, 1 / scan.signal / scan.ray_mm),
             _local_power(scan, 1 / scan.signal ** 2 / scan.ray_mm)), size, pixel_spacing_mm)
    if len(spectra) < _MIN_PATCHES:
        raise InputError(f"the slice has {len(spectra)} regions of soft tissue to measure its "
                         f"noise in, expected at least {_MIN_PATCHES}; give photons_per_ray and "
                         "a kernel")
    per_pixel = _frequency(size)
    frequency = per_pixel * 10 / pixel_spacing_mm
    relative = spectra / photon_power[:, None, None]
    anatomy = relative[:, (frequency > 0) & (frequency < _ANATOMY_LP_CM)].mean(axis=1)
    uniform = np.argsort(anatomy)[:round(_UNIFORM_SHARE * len(spectra))]

    ring = np.rint(per_pixel * size).astype(int)
    used = (frequency > _NOISE_LP_CM) & (ring < size // 2)
    counts = np.bincount(ring[used])
    if (counts > 0).sum() < 3:
        raise InputError(f"pixel_spacing_mm is {pixel_spacing_mm}, too coarse to tell noise from "
                         "anatomy; give photons_per_ray and a kernel")

    def ring_means(spectrum: np.ndarray) -> np.ndarray:
        return np.bincount(ring[used], spectrum[used])[counts > 0] / counts[counts > 0]

    power = ring_means(relative[uniform].mean(axis=0))
    strong = power > _FAINTEST * np.max(power)
    if not strong.any():
        raise InputError("the slice has no noise where its tissue is uniform, expected that of "
                         "a scan; give photons_per_ray and a kernel")
    weight = counts[counts > 0][strong]
    fits = []  # least squares of the logarithms
    for candidate in _CANDIDATES_LP_CM if kernel == "auto" else [kernel]:
        expected = ring_means(_expected_spectrum(size, pixel_spacing_mm, candidate))
        ratio = np.log(power[strong] / np.maximum(expected[strong], 1e-99))
        mean = np.average(ratio, weights=weight)
        fits.append((np.average((ratio - mean) ** 2, weights=weight), np.exp(mean), candidate))
    _, factor, kernel = min(fits, key=lambda fit: fit[0])

    variance = factor * photon_power[uniform].mean() * np.mean(
        per_pixel * kernel_mtf(frequency, kernel) ** 2)
    if variance < _ROUNDING_HU ** 2:
        raise InputError(f"the slice's noise is {variance ** 0.5:.2g} HU where its tissue is "
                         f"uniform, expected at least {_ROUNDING_HU} HU; give photons_per_ray "
                         "and a kernel")
    # factor = y + y²·electronic, for y = 1 / photons_per_ray
    electronic = electronic_noise_std ** 2 * np.mean(
        electronic_power[uniform] / photon_power[uniform])
    photons_per_ray = (1 + np.sqrt(1 + 4 * electronic * factor)) / (2 * factor)
    return ScanNoise(float(photons_per_ray), kernel, float(np.sqrt(variance)), len(spectra))


def estimate_noise(ndct_hu: np.ndarray, *, pixel_spacing_mm: float, kernel: str | float = "auto",
                   electronic_noise_std: float = ELECTRONIC_NOISE_STD,
                   outside: np.ndarray | None = None) -> ScanNoise:
    """Measures the noise of a full-dose slice, and what it says about the scan.

    Patches of soft tissue are ranked by their power at low frequencies, where anatomy is;
    in the most uniform ones the spectrum at higher frequencies, relative to what one
    photon a ray would give there, is |f|·MTF² over the number of photons. Structure that
    is left counts as noise.

    Args:
      ndct_hu: (H, W) float32.
      pixel_spacing_mm: pixel pitch, of square pixels.
      kernel: `auto`, or as for `insert_noise`.
      electronic_noise_std: in photons, of a ray.
      outside: (H, W) bool, the pixels outside the field of view.

    Returns:
      photons, kernel, noise and the number of regions; see `ScanNoise`.

    Raises:
      InputError: also where there is too little soft tissue, or no noise to measure.
    """
    hu = _checked(ndct_hu, pixel_spacing_mm, kernel, electronic_noise_std, outside)
    return _estimate(_scan(hu, pixel_spacing_mm), hu, pixel_spacing_mm, kernel,
                     electronic_noise_std)


def _ray_noise_std(scan: _Scan, photons_per_ray: float, electronic_noise_std: float,
                   dose_fraction: float) -> np.ndarray:
    """Standard deviation [of a line integral] that the lower dose adds to each ray.

    Where less arrives than the electronic noise, or one photon, at the lower dose, scanners
    interpolate; the noise grows no further from there.
    """
    electronic_variance = electronic_noise_std ** 2 * scan.ray_mm
    faintest = max(electronic_variance ** 0.5, 1.0) / dose_fraction
    photons = np.maximum(photons_per_ray * scan.ray_mm * scan.signal, faintest)
    return np.sqrt((1 / dose_fraction - 1) / photons
                   + (1 / dose_fraction ** 2 - 1) * electronic_variance / photons ** 2)


def _reconstruct(scan: _Scan, sinogram: np.ndarray, pixel_spacing_mm: float,
                 kernel: str | float) -> np.ndarray:
    """Filtered back-projection in HU whose noise has the kernel's MTF and no other.

    Here the strips of `ParallelBeam` blur once by the bin and once by the pixel, which a
    kernel measured on images already contains; the two are divided out.
    """
    length = scipy.fft.next_fast_len(2 * scan.beam.bins, real=True)
    per_pixel = np.arange(length // 2 + 1) / length * BINS_PER_PIXEL
    blur = np.sinc(per_pixel) * np.sinc(per_pixel / BINS_PER_PIXEL)
    blur[per_pixel > _HIGHEST_PER_PIXEL] = np.inf
    response = kernel_mtf(per_pixel * 10 / pixel_spacing_mm, kernel) / blur
    spectrum = scipy.fft.rfft(sinogram, length, axis=-1) * response.astype(np.float32)
    filtered = scipy.fft.irfft(spectrum, length, axis=-1)[:, :scan.beam.bins]
    mu = scan.beam.filtered_backproject(filtered[None], kernel="ramp")[0]
    return mu[scan.crop] * np.float32(scan.hu_per_mu)


def insert_noise(rng: np.random.Generator, ndct_hu: np.ndarray, *, pixel_spacing_mm: float,
                 dose_fraction: float, kernel: str | float = "auto",
                 photons_per_ray: float | None = None,
                 electronic_noise_std: float = ELECTRONIC_NOISE_STD,
                 outside: np.ndarray | None = None) -> np.ndarray:
    """The slice as it would be at a lower dose.

    The variance added to a ray of line integral P behind N0 photons is
    (1/d − 1)·exp(P)/N0 + (1/d² − 1)·exp(2P)·σ²/N0², for the dose fraction d and the
    electronic noise σ: what is missing from the full dose's noise to that of the lower.

    Args:
      rng: source of the noise; the same state gives the same noise.
      ndct_hu: (H, W) float32, the full-dose slice, its own noise included.
      pixel_spacing_mm: pixel pitch, of square pixels.
      dose_fraction: lower dose over full dose, above 0 and below 1.
      kernel: `auto`, estimated from the slice's noise; a name in `projection.KERNELS`; or
        f50 [lp/cm] of a kernel shaped as `soft`. Names in DICOM tags are not used: the
        same number is another sharpness in another family (Siemens B45, D45).
      photons_per_ray: see `ScanNoise`; None, estimated from the slice's noise.
      electronic_noise_std: in photons, of a ray.
      outside: (H, W) bool, the pixels outside the field of view: air to the rays, and
        returned as they are.

    Returns:
      (H, W) float32 in HU, neither rounded nor clipped; scanners cut at −1024.

    Raises:
      InputError: naming the value that cannot be used; see also `estimate_noise`.
    """
    hu = _checked(ndct_hu, pixel_spacing_mm, kernel, electronic_noise_std, outside)
    if not 0 < dose_fraction < 1:
        raise InputError(f"dose_fraction is {dose_fraction}, expected above 0, below 1")
    if photons_per_ray is not None and not 0 < photons_per_ray < np.inf:
        raise InputError(f"photons_per_ray is {photons_per_ray}, expected above 0")
    scan = _scan(hu, pixel_spacing_mm)
    if photons_per_ray is None or kernel == "auto":
        estimate = _estimate(scan, hu, pixel_spacing_mm, kernel, electronic_noise_std)
        kernel = estimate.kernel
        photons_per_ray = photons_per_ray or estimate.photons_per_ray
    noise = rng.standard_normal(scan.signal.shape, np.float32) * _ray_noise_std(
        scan, photons_per_ray, electronic_noise_std, dose_fraction).astype(np.float32)
    qdct_hu = hu + _reconstruct(scan, noise, pixel_spacing_mm, kernel)
    if outside is not None:
        qdct_hu[outside] = ndct_hu[outside]
    return qdct_hu
