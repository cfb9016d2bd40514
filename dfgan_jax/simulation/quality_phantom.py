"""Water cylinders with discs of known place and contrast, scanned repeatedly.

`evaluation.physics` measures the scans. Slices are (size, size)
float32 in HU on the geometry of `low_dose.ScanProtocol`: column x, row y, the cylinder
about the image's centre, air around it. Edges are one pixel soft, so that a disc has
the right area at any size.
"""

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from dfgan_jax.scans.hounsfield import HU_AIR
from dfgan_jax.simulation.low_dose import REFERENCE_SIZE, ScanProtocol, project, scan_projected
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import Progress

CYLINDER_RADIUS_MM = 150.0

CYLINDER_EDGE_MM = 10.0
"""Margin within the cylinder's edge that measurements of noise leave out."""

INSERT_CONTRASTS_HU = (-800.0, -110.0, 60.0, 150.0, 400.0, 900.0)
"""Lung, fat, soft tissue, contrast-enhanced vessels, spongy and cortical bone."""

INSERT_RADIUS_MM = 17.0
INSERT_RING_MM = 105.0

LESIONS = ((6.0, 28.0), (8.0, 19.0), (12.0, 11.0), (16.0, 7.5))
"""Diameters [mm], and contrasts [HU] at 256²; see `paint_lesions`."""

LESION_RING_MM = 105.0
QUALITY_PHANTOM_MIN_SIZE = 128
"""Height and width [pixels]; below, the smallest lesion has less than two pixels."""


class Disc(NamedTuple):
    """A disc in an image: column x and row y of its centre, radius [pixels], contrast [HU].

    A pixel's centre is at whole numbers, so the image's centre is at (size − 1) / 2.
    """

    x: float
    y: float
    radius: float
    contrast_hu: float

    def distance(self, shape: tuple[int, ...]) -> Float[np.ndarray, "h w"]:
        """(H, W) distance of each pixel from the disc's centre [pixels]."""
        distance: np.ndarray = np.hypot(np.arange(shape[1]) - self.x,
                                        np.arange(shape[0])[:, None] - self.y)
        return distance


@dataclasses.dataclass(frozen=True)
class QualityScans:
    """Repeated scans of three objects at one dose, as scanned or denoised.

    The noise of no two slices is shared.

    Attributes:
      discs: (K, size, size) float32 HU, the cylinder with `inserts`.
      lesions: the cylinder with `lesion_discs`, same shape.
      background: the cylinder alone, same shape.
      cylinder: its place; the contrast is that of water to air.
      inserts: two of each contrast, none near another.
      lesion_discs: four of each diameter and contrast.
      pixel_spacing_mm: pixel pitch.
    """

    discs: Float[np.ndarray, "k size size"]
    lesions: Float[np.ndarray, "k size size"]
    background: Float[np.ndarray, "k size size"]
    cylinder: Disc
    inserts: tuple[Disc, ...]
    lesion_discs: tuple[Disc, ...]
    pixel_spacing_mm: float


def _paint(discs: tuple[Disc, ...], size: int) -> np.ndarray:
    """(size, size) float32 HU: air, and the discs added to it."""
    hu = np.full((size, size), HU_AIR)
    for disc in discs:
        hu += disc.contrast_hu * np.clip(0.5 + disc.radius - disc.distance(hu.shape), 0, 1)
    return hu.astype(np.float32)


def _disc(size: int, pixel_mm: float, *, ring_mm: float, turns: float, radius_mm: float,
          contrast_hu: float) -> Disc:
    centre, angle = (size - 1) / 2, 2 * np.pi * turns
    return Disc(centre + ring_mm / pixel_mm * np.cos(angle),
                centre + ring_mm / pixel_mm * np.sin(angle), radius_mm / pixel_mm, contrast_hu)


def _cylinder(size: int, pixel_mm: float) -> Disc:
    return _disc(size, pixel_mm, ring_mm=0, turns=0, radius_mm=CYLINDER_RADIUS_MM,
                 contrast_hu=-HU_AIR)


def paint_inserts(size: int, *, field_of_view_mm: float
                  ) -> tuple[Float32[np.ndarray, "size size"], tuple[Disc, ...]]:
    """The cylinder with twelve inserts on a ring, two of each of `INSERT_CONTRASTS_HU`.

    The two are five twelfths of a turn apart, on different pixel grids; neighbours are 20 mm
    apart.

    Returns:
      (size, size) float32 HU, noise-free, and the inserts.
    """
    pixel_mm = field_of_view_mm / size
    inserts = tuple(
        _disc(size, pixel_mm, ring_mm=INSERT_RING_MM, turns=(2 * index + 5 * second + 0.3) / 12,
              radius_mm=INSERT_RADIUS_MM, contrast_hu=contrast_hu)
        for index, contrast_hu in enumerate(INSERT_CONTRASTS_HU) for second in range(2))
    return _paint((_cylinder(size, pixel_mm), *inserts), size), inserts


def paint_lesions(size: int, *, field_of_view_mm: float
                  ) -> tuple[Float32[np.ndarray, "size size"], tuple[Disc, ...]]:
    """The cylinder with sixteen lesions on a ring, four of each of `LESIONS`.

    The four are a quarter turn apart, where the square pixels, the distance from the
    centre and with them the noise are the same. `ScanProtocol` keeps the noise of a
    pixel and its texture in pixels at every size, so a lesion of given mm and HU would be
    more detectable at more pixels (dose grows as size³). Contrasts are
    therefore those of `LESIONS` times (256 / size)^1.5, which keeps detectability.

    Returns:
      (size, size) float32 HU, noise-free, and the lesions.
    """
    pixel_mm = field_of_view_mm / size
    lesions = tuple(
        _disc(size, pixel_mm, ring_mm=LESION_RING_MM, turns=(4 * quarter + index + 0.3) / 16,
              radius_mm=diameter_mm / 2, contrast_hu=contrast_hu * (REFERENCE_SIZE / size) ** 1.5)
        for index, (diameter_mm, contrast_hu) in enumerate(LESIONS) for quarter in range(4))
    return _paint((_cylinder(size, pixel_mm), *lesions), size), lesions


def cylinder_noise(*, size: int, seed: int, protocol: ScanProtocol) -> tuple[float, float]:
    """The noise in the cylinder, without its edge, from the difference of two scans.

    Args:
      size: image width and height in pixels.
      seed: of the noise; 0 or more.

    Returns:
      Standard deviations [HU] at the normal and at the low dose.
    """
    cylinder = _cylinder(size, protocol.field_of_view_mm / size)
    projected = project(_paint((cylinder,), size), protocol=protocol)
    first, second = (scan_projected(np.random.default_rng([seed, repeat]), projected, size=size,
                                    protocol=protocol) for repeat in range(2))
    region = (cylinder.distance((size, size))
              < cylinder.radius - CYLINDER_EDGE_MM * size / protocol.field_of_view_mm)
    normal, low = (float(np.sqrt(np.square(one - other)[region].mean(dtype=np.float64) / 2))
                   for one, other in zip(first, second, strict=True))
    return normal, low


def scan_repeats(*, size: int, seed: int, repeats: int = 16, protocol: ScanProtocol | None = None,
                 threads: int | None = None, progress: Progress | None = None
                 ) -> tuple[QualityScans, QualityScans]:
    """Scans each of the three objects `repeats` times, each time with new noise.

    Args:
      size: image width and height in pixels, at least `QUALITY_PHANTOM_MIN_SIZE`.
      seed: of the noise; 0 or more. A repeat does not depend on the number of repeats.
      repeats: K, at least 3: fewer have no measurable spread.
      threads: as many as the machine has cores by default.
      progress: advanced by one for each of 3·K scans.

    Returns:
      The normal dose and the low dose.
    """
    if size < QUALITY_PHANTOM_MIN_SIZE:
        raise InputError(f"size is {size}; expected at least {QUALITY_PHANTOM_MIN_SIZE}")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    if repeats < 3:
        raise InputError(f"repeats is {repeats}; expected at least 3")
    protocol = protocol or ScanProtocol()
    if protocol.field_of_view_mm < 2 * CYLINDER_RADIUS_MM:
        raise InputError(f"field_of_view_mm is {protocol.field_of_view_mm}; expected at least "
                         f"{2 * CYLINDER_RADIUS_MM}, the width of the cylinder")
    field_of_view_mm = protocol.field_of_view_mm
    with_inserts, inserts = paint_inserts(size, field_of_view_mm=field_of_view_mm)
    with_lesions, lesion_discs = paint_lesions(size, field_of_view_mm=field_of_view_mm)
    cylinder = _cylinder(size, field_of_view_mm / size)
    objects = (with_inserts, with_lesions, _paint((cylinder,), size))

    projected = [project(hu, protocol=protocol) for hu in objects]
    slices = np.empty((2, len(objects), repeats, size, size), np.float32)

    def scan_one(kind: int, repeat: int) -> None:
        rng = np.random.default_rng([seed, kind, repeat])
        slices[:, kind, repeat] = scan_projected(rng, projected[kind], size=size,
                                                 protocol=protocol)
        if progress is not None:
            progress.advance()

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as executor:
        kinds, numbers = np.divmod(np.arange(len(objects) * repeats), repeats)
        for _ in executor.map(scan_one, kinds.tolist(), numbers.tolist()):
            pass  # raises the exceptions of the threads
    scans = functools.partial(QualityScans, cylinder=cylinder, inserts=inserts,
                              lesion_discs=lesion_discs, pixel_spacing_mm=field_of_view_mm / size)
    ndct, qdct = (scans(*doses_slices) for doses_slices in slices)
    return ndct, qdct
