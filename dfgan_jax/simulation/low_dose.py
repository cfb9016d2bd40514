"""Pairs of normal-dose and low-dose CT slices, simulated from projections.

A phantom is projected, its photons are counted once (Poisson), and the low dose is
made from those same counts by binomial thinning, so that the noise of the normal-dose
slice is part of the low-dose one, as in the AAPM-Mayo challenge (there by noise
insertion: Yu et al. 2012). Both are reconstructed by filtered back-projection with
the same kernel. The beam is monoenergetic; scatter and beam hardening are left out.

Slices are (N, size, size) float32 in HU, `OUTSIDE_HU` outside the field of view and
nowhere below it, as scanners store them. The field of view is a circle of 1.2 image
widths, which cuts the corners, as in the published files.
"""

import dataclasses
import functools
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from dfgan_jax.scans.hounsfield import OUTSIDE_HU, hu_to_mu, mu_to_hu
from dfgan_jax.simulation.phantom import torso_phantom
from dfgan_jax.simulation.projection import ParallelBeam, check_kernel
from dfgan_jax.support.digests import json_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import Progress

SIMULATOR_VERSION = 1
"""Part of the cache key: raise it with every change that changes an image."""

REFERENCE_SIZE = 256
"""The image size of the numbers in `ScanProtocol`."""

FIELD_OF_VIEW_DIAMETER = 1.2
"""Of the reconstructed circle, in image widths."""

REFERENCE_ATTENUATION = 7.0
"""Line integral at which tube-current modulation does not change the current: 36 cm of water."""

MIN_SIGNAL = 0.5
"""Smallest detector signal [photons] of the logarithm; see `log_transform`."""


DosePair = tuple[Float32[np.ndarray, "size size"], Float32[np.ndarray, "size size"]]
"""A slice at the normal and at the low dose."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanProtocol:
    """The settings of a scan; the defaults give the published baseline scores.

    The numbers are those of 256² pixels. At another size the scanner scales with
    it: the detector pitch and the kernel's frequencies follow the pixel, the views grow
    as size and the photons a ray as size², corrected for the rounding of the views, so
    views · photons · pitch² is constant, and with it the noise in HU and its texture in
    pixels. Per area that is a dose growing as size³, the law of Brooks &
    Di Chiro (1976) for constant noise at a constant slice thickness. The share of the
    electronic noise stays too.

    Attributes:
      field_of_view_mm: width of the image.
      views: projections over 180° at 256².
      photons_per_ray: photons that reach the central detector bin unattenuated in one
        view, at the normal dose and 256², where the body's attenuation is
        `REFERENCE_ATTENUATION`.
      tube_current_modulation: the exponent m of `modulate_tube_current`, 0 to 1: 0 is
        a constant current, 1 an equal signal behind the thickest path of every view.
      dose_fraction: low dose over normal dose, in (0, 1).
      electronic_noise_std: noise of a detector reading, in photons, at 256².
      bowtie_attenuation: of the bowtie filter at the detector's ends, as a line
        integral; 0 is no filter. See `incident_photons`.
      kernel: reconstruction kernel, a name in `projection.KERNELS`, or f50 [lp/cm], at 256², of
        a kernel shaped as `soft`. The pixel already
        limits 256² slices to 3.6 lp/cm; `sharp` leaves their noise as broad-banded as
        that of 512² slices resized to 256².
    """

    field_of_view_mm: float = 360.0
    views: int = 360
    photons_per_ray: float = 1.45e6
    tube_current_modulation: float = 0.7
    dose_fraction: float = 0.25
    electronic_noise_std: float = 10.0
    bowtie_attenuation: float = 3.0
    kernel: str | float = "sharp"

    def __post_init__(self) -> None:
        if not self.field_of_view_mm >= 250:
            raise InputError(f"field_of_view_mm is {self.field_of_view_mm}; expected at least 250")
        if self.views < 4 or self.views % 4:
            raise InputError(f"views is {self.views}; expected a positive multiple of 4")
        if not self.photons_per_ray > 0:
            raise InputError(f"photons_per_ray is {self.photons_per_ray}; expected above 0")
        if not 0 <= self.tube_current_modulation <= 1:
            raise InputError(f"tube_current_modulation is {self.tube_current_modulation}; "
                             "expected 0 to 1")
        if not 0 < self.dose_fraction < 1:
            raise InputError(f"dose_fraction is {self.dose_fraction}; expected above 0, below 1")
        if not self.electronic_noise_std >= 0:
            raise InputError(f"electronic_noise_std is {self.electronic_noise_std}; "
                             "expected 0 or more")
        if not self.bowtie_attenuation >= 0:
            raise InputError(f"bowtie_attenuation is {self.bowtie_attenuation}; "
                             "expected 0 or more")
        check_kernel(self.kernel)

    def at_size(self, size: int) -> "ScanProtocol":
        """The same scan with the views, photons and electronic noise of another size."""
        views = 4 * max(round(self.views * size / REFERENCE_SIZE / 4), 1)
        factor = (size / REFERENCE_SIZE) ** 2 * self.views / views
        return dataclasses.replace(
            self, views=views, photons_per_ray=self.photons_per_ray * factor,
            electronic_noise_std=self.electronic_noise_std * factor ** 0.5)


def incident_photons(offset: Float[np.ndarray, "*rays"], *, photons_per_ray: float,
                     bowtie_attenuation: float) -> Float64[np.ndarray, "*rays"]:
    """Photons behind the bowtie filter, towards each detector bin.

    The filter evens out the noise between the centre and the edge of a round body: its
    attenuation grows where the path through a cylinder as wide as the detector shrinks.

    Args:
      offset: distance of each ray from the centre, in half detectors (−1 to 1).
      photons_per_ray: at the centre.
      bowtie_attenuation: at offset 1.

    Returns:
      float64, the shape of `offset`.
    """
    photons: np.ndarray = photons_per_ray * np.exp(
        -bowtie_attenuation * (1 - np.sqrt(1 - offset ** 2)))
    return photons


def modulate_tube_current(line_integrals: Float[np.ndarray, "*n views bins"], *,
                          tube_current_modulation: float) -> Float[np.ndarray, "*n views 1"]:
    """The tube current of each view, relative to that at `REFERENCE_ATTENUATION`.

    exp(m·(P − `REFERENCE_ATTENUATION`)), with P the greatest line integral of the view:
    the automatic exposure control of scanners. With m = 1/2 the noise is least for a
    given dose (Gies et al. 1999).

    Args:
      line_integrals: (..., views, bins) float32.
      tube_current_modulation: m, 0 to 1.

    Returns:
      (..., views, 1), positive.
    """
    greatest = line_integrals.max(axis=-1, keepdims=True)
    current: np.ndarray = np.exp(tube_current_modulation * (greatest - REFERENCE_ATTENUATION))
    return current


@functools.lru_cache(maxsize=2)
def _parallel_beam(size: int, views: int, field_of_view_mm: float) -> ParallelBeam:
    return ParallelBeam(size=size, views=views, pixel_spacing_mm=field_of_view_mm / size,
                        diameter=FIELD_OF_VIEW_DIAMETER)


def count_photons(rng: np.random.Generator, line_integrals: Float[np.ndarray, "*rays"], *,
                  photons_per_ray: float | Float[np.ndarray, "..."]
                  ) -> Int64[np.ndarray, "*rays"]:
    """Poisson counts behind an object.

    Args:
      line_integrals: any shape, without unit.
      photons_per_ray: mean count without an object; broadcast against the rays.

    Returns:
      int64 counts of mean photons_per_ray·exp(−line_integrals).
    """
    return rng.poisson(photons_per_ray * np.exp(-line_integrals.astype(np.float64)))


def thin_counts(rng: np.random.Generator, counts: Int64[np.ndarray, "*rays"], *,
                dose_fraction: float) -> Int64[np.ndarray, "*rays"]:
    """Keeps every photon with probability `dose_fraction`.

    Thinned Poisson counts are Poisson counts of the lower dose, correlated with the
    original ones.

    Args:
      counts: int64, any shape.

    Returns:
      int64 counts, between 0 and `counts`.
    """
    if not 0 < dose_fraction < 1:
        raise InputError(f"dose_fraction is {dose_fraction}; expected above 0, below 1")
    thinned: np.ndarray = rng.binomial(counts, dose_fraction)
    return thinned


def log_transform(rng: np.random.Generator, counts: Int64[np.ndarray, "*rays"], *,
                  photons_per_ray: float | Float[np.ndarray, "..."],
                  electronic_noise_std: float) -> Float32[np.ndarray, "*rays"]:
    """Line integrals from counts, with electronic noise added first.

    The logarithm needs a positive signal: readings below `MIN_SIGNAL`, of rays with hardly
    a photon, are raised to it. This limits a line integral to
    log(photons_per_ray / MIN_SIGNAL) and biases such starved rays (streaks, as in scanners
    without a correction). The default protocol has no such rays.

    Args:
      counts: int64, any shape.
      photons_per_ray: mean count without an object; broadcast against the rays.
      electronic_noise_std: in photons.

    Returns:
      float32, the shape of `counts`.
    """
    noise = rng.standard_normal(counts.shape, np.float32) * np.float32(electronic_noise_std)
    signal = np.maximum(counts + noise, MIN_SIGNAL)
    line_integrals: np.ndarray = np.log(photons_per_ray / signal)
    return line_integrals.astype(np.float32)


def project(hu: Float[np.ndarray, "..."], *, protocol: ScanProtocol | None = None
            ) -> Float32[np.ndarray, "1 views bins"]:
    """Line integrals of a noise-free slice, for `scan_projected`.

    Args:
      hu: (size, size) float32; pixels outside the field of view are ignored.

    Returns:
      (1, views, bins) float32, without unit.

    Raises:
      InputError: the slice is not square, or not finite in the field of view.
    """
    if hu.ndim != 2 or hu.shape[0] != hu.shape[1]:
        raise InputError(f"the slice has shape {hu.shape}; expected (size, size)")
    size = hu.shape[0]
    scaled = (protocol or ScanProtocol()).at_size(size)
    beam = _parallel_beam(size, scaled.views, scaled.field_of_view_mm)
    line_integrals = beam.project(hu_to_mu(hu)[None])
    if not np.isfinite(line_integrals).all():  # not of `hu`, which may have anything outside
        raise InputError("the slice has values that are NaN or infinite; expected finite HU")
    return line_integrals


def scan_projected(rng: np.random.Generator, line_integrals: Float32[np.ndarray, "1 views bins"],
                   *, size: int, protocol: ScanProtocol | None = None) -> DosePair:
    """`scan` from the line integrals of `project` at that size and protocol.

    Many scans of one object then share the projection, half of the work.
    """
    scaled = (protocol or ScanProtocol()).at_size(size)
    beam = _parallel_beam(size, scaled.views, scaled.field_of_view_mm)
    offset = (np.arange(beam.bins) + 0.5) / (beam.bins / 2) - 1
    photons = incident_photons(offset, photons_per_ray=scaled.photons_per_ray,
                               bowtie_attenuation=scaled.bowtie_attenuation)
    photons = photons * modulate_tube_current(
        line_integrals, tube_current_modulation=scaled.tube_current_modulation)
    counts = count_photons(rng, line_integrals, photons_per_ray=photons)
    low_counts = thin_counts(rng, counts, dose_fraction=scaled.dose_fraction)
    sinograms = [
        log_transform(rng, doses_counts, photons_per_ray=photons * dose,
                      electronic_noise_std=scaled.electronic_noise_std)
        for doses_counts, dose in ((counts, 1.0), (low_counts, scaled.dose_fraction))]
    mu = beam.filtered_backproject(np.concatenate(sinograms), kernel=scaled.kernel,
                                   frequency_scale=size / REFERENCE_SIZE)
    slices = np.where(beam.field_of_view, np.maximum(mu_to_hu(mu), OUTSIDE_HU), OUTSIDE_HU)
    ndct, qdct = slices.astype(np.float32)
    return ndct, qdct


def scan(rng: np.random.Generator, hu: Float[np.ndarray, "..."], *,
         protocol: ScanProtocol | None = None) -> DosePair:
    """Scans a noise-free slice at the normal and at the low dose.

    Args:
      hu: (size, size) float32; pixels outside the field of view are ignored.

    Returns:
      ndct and qdct, each (size, size) float32 in HU.
    """
    return scan_projected(rng, project(hu, protocol=protocol), size=hu.shape[0],
                          protocol=protocol)


def simulate_pair(index: int, *, size: int, seed: int, split: str,
                  protocol: ScanProtocol | None = None) -> DosePair:
    """Slice `index` of a split; its images depend on the arguments alone.

    Returns:
      ndct and qdct, each (size, size) float32 in HU.

    Raises:
      InputError: the index or the seed is below 0.
    """
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise InputError(f"{name} is {value}; expected 0 or more")
    protocol = protocol or ScanProtocol()
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    phantom = torso_phantom(rng, size=size, field_of_view_mm=protocol.field_of_view_mm)
    return scan(rng, phantom, protocol=protocol)


def iterate_pairs(count: int, *, size: int, seed: int, split: str,
                  protocol: ScanProtocol | None = None, threads: int | None = None,
                  progress: Progress | None = None) -> Iterator[DosePair]:
    """Yields `simulate_pair` of 0 … count − 1, in order, made by several threads.

    Args:
      threads: as many as the machine has cores by default.
      progress: advanced by one for each slice.
    """
    if count < 1:
        raise InputError(f"count is {count}; expected at least 1")
    simulate = functools.partial(simulate_pair, size=size, seed=seed, split=split,
                                 protocol=protocol)
    threads = threads or os.cpu_count() or 1
    chunk = 16 * threads  # slices in memory at once
    first = simulate(0)  # alone, so that the threads share one system matrix
    with ThreadPoolExecutor(threads) as executor:
        for start in range(0, count, chunk):
            indices = range(max(start, 1), min(start + chunk, count))
            for pair in ([first] if start == 0 else []) + list(executor.map(simulate, indices)):
                yield pair
                if progress is not None:
                    progress.advance()


def simulate_pairs(count: int, *, size: int, seed: int, split: str,
                   protocol: ScanProtocol | None = None, threads: int | None = None,
                   progress: Progress | None = None
                   ) -> tuple[Float32[np.ndarray, "n size size"],
                              Float32[np.ndarray, "n size size"]]:
    """The slices of `iterate_pairs`, stacked.

    Returns:
      ndct and qdct, each (count, size, size) float32 in HU.
    """
    ndct, qdct = np.empty((2, count, size, size), np.float32)
    for index, pair in enumerate(iterate_pairs(count, size=size, seed=seed, split=split,
                                               protocol=protocol, threads=threads,
                                               progress=progress)):
        ndct[index], qdct[index] = pair
    return ndct, qdct


def simulation_hash(*, size: int, seed: int, protocol: ScanProtocol | None = None) -> str:
    """16 hexadecimal digits of the digest of all settings that determine a split's images."""
    parts = {"version": SIMULATOR_VERSION, "size": size, "seed": seed,
             "protocol": dataclasses.asdict(protocol or ScanProtocol())}
    return json_digest(parts)[:16]
