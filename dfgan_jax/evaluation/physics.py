"""The physics of image quality for one row of images: QDCT, a denoiser, a filter.

`measure_phantom` measures on phantoms, with known truth, `measure_slices` on slices with an NDCT.
Images are (N, H, W) in HU; slices are measured one by one, so that memory does not grow with N.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dfgan_jax.evaluation.detectability import Detectability, detectability
from dfgan_jax.evaluation.noise_power_spectrum import (
    NoisePower,
    independent_noise,
    noise_power,
    patch_side,
    patches_within,
    power_spectrum,
)
from dfgan_jax.evaluation.structure import Structure, fit_structure, pooled
from dfgan_jax.evaluation.task_transfer import TaskTransfer, task_transfer
from dfgan_jax.scans.tissues import (
    TissueError,
    body_mask,
    moments,
    tissue_errors,
    tissue_masks,
)
from dfgan_jax.simulation.quality_phantom import CYLINDER_EDGE_MM, Disc, QualityScans
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.threads import call_ahead
from dfgan_jax.support.types import JsonObject


class PhantomPhysics(NamedTuple):
    """The measurements of one row on phantoms.

    Attributes:
      nps: of the noise in the cylinder.
      ttf: for each contrast, in the order of `quality_phantom.INSERT_CONTRASTS_HU`.
      detectability: for each kind of lesion, in the order of `quality_phantom.LESIONS`.
      spectrum: (P, P) [HU² mm²], frequency 0 in the middle.
    """

    nps: NoisePower
    ttf: tuple[TaskTransfer, ...]
    detectability: tuple[Detectability, ...]
    spectrum: Float[np.ndarray, "p p"]

    def as_json(self) -> JsonObject:
        return {"nps": self.nps.as_json(), "ttf": [each.as_json() for each in self.ttf],
                "detectability": [each.as_json() for each in self.detectability]}


def _groups(discs: tuple[Disc, ...]) -> list[list[Disc]]:
    """Groups of neighbours with the same radius and contrast."""
    kinds = itertools.groupby(discs, lambda disc: (disc.radius, disc.contrast_hu))
    return [list(group) for _, group in kinds]


def measure_phantom(scans: QualityScans, denoise: Callable[
        [Float[np.ndarray, "n size size"]], Float[np.ndarray, "n size size"]]) -> PhantomPhysics:
    """Measures noise, resolution and detectability on repeated scans.

    Args:
      scans: of `quality_phantom.scan_repeats`; at the normal dose for the row NDCT.
      denoise: (N, size, size) float32 HU to the same shape, slice by slice; the identity for
        NDCT and QDCT.

    Raises:
      InputError: `denoise` changes the shape, or returns values that are not finite.
    """
    discs, lesions, background = (
        denoise(images) for images in (scans.discs, scans.lesions, scans.background))
    for images in (discs, lesions, background):
        if images.shape != scans.discs.shape:
            raise InputError(f"denoised slices have shape {images.shape}; "
                             f"expected {scans.discs.shape}")
        if not np.isfinite(images).all():
            raise InputError("denoised slices hold values that are not finite; expected HU")
    spacing = scans.pixel_spacing_mm
    shape = background.shape[1:]
    region = (scans.cylinder.distance(shape)
              < scans.cylinder.radius - CYLINDER_EDGE_MM / spacing)
    patches = [patches_within(noise, region, side=patch_side(shape))
               for noise in independent_noise(background)]
    spectrum = power_spectrum(np.concatenate(patches), pixel_spacing_mm=spacing)
    return PhantomPhysics(
        noise_power(spectrum, pixel_spacing_mm=spacing),
        tuple(task_transfer(discs, group, pixel_spacing_mm=spacing)
              for group in _groups(scans.inserts)),
        tuple(detectability(lesions, background, group, pixel_spacing_mm=spacing)
              for group in _groups(scans.lesion_discs)),
        np.fft.fftshift(spectrum))


class SlicePhysics(NamedTuple):
    """The measurements of one row on slices with an NDCT.

    Attributes:
      nps: of image − NDCT in the body, which holds the noise of both and the anatomy that the
        image lost; None if no patch is wholly within a body, see `reason`.
      tissues: error in each of `tissues.TISSUES`.
      structure: of image − QDCT; None for the QDCT itself.
      frequency_unit: of `nps`.
      removed_map: (H, W) HU, image − QDCT of the chosen slice; None for the QDCT.
      structure_map: (H, W) HU, the anatomy in the removed map; None for the QDCT.
      reason: sentence on an `nps` of None; otherwise empty.
    """

    nps: NoisePower | None
    tissues: dict[str, TissueError]
    structure: Structure | None
    frequency_unit: str
    removed_map: Float[np.ndarray, "h w"] | None
    structure_map: Float[np.ndarray, "h w"] | None
    reason: str = ""

    def as_json(self) -> JsonObject:
        return {"nps": self.nps and self.nps.as_json(), "reason": self.reason,
                "tissues": {name: each.as_json() for name, each in self.tissues.items()},
                "structure": self.structure and self.structure.as_json()}


class _Slice(NamedTuple):
    """Sums over one slice."""

    spectrum: np.ndarray | None
    patches: int
    moments: np.ndarray
    structure: Structure | None
    structure_map: np.ndarray | None


def _measure_slice(image: np.ndarray, ndct: np.ndarray, removed: np.ndarray | None, *,
                   pixel_spacing_mm: float | None, keep_map: bool) -> _Slice:
    body = body_mask(ndct, margin=max(2, round(8 * min(ndct.shape) / 512)))
    error = image - ndct
    patches = patches_within(error, body, side=patch_side(ndct.shape))
    spectrum = power_spectrum(patches, pixel_spacing_mm=pixel_spacing_mm) if len(patches) else None
    structure = structure_map = None
    if removed is not None:
        structure, structure_map = fit_structure(removed, ndct, body)
    return _Slice(spectrum, len(patches), moments(error, tissue_masks(ndct, body)), structure,
                  structure_map if keep_map else None)


def measure_slices(images: Float[np.ndarray, "..."], ndct: Float[np.ndarray, "..."],
                   qdct: Float[np.ndarray, "..."], *, pixel_spacing_mm: float | None,
                   structure_slice: int = 0) -> SlicePhysics:
    """Measures noise, tissues and removed structure of a row against its NDCT.

    Slices are weighted by their pixels, in the spectrum by their patches.

    Args:
      images: (N, H, W) HU; `qdct` itself for the row QDCT.
      ndct: (N, H, W) HU.
      qdct: (N, H, W) HU.
      pixel_spacing_mm: pixel pitch; None if unknown.
      structure_slice: index of the slice for the maps.

    Raises:
      InputError: shapes differ, the slice does not exist, or the pitch is not positive.
    """
    if images.ndim != 3 or not images.shape == ndct.shape == qdct.shape:
        raise InputError(f"images, NDCT and QDCT have shapes {images.shape}, {ndct.shape} and "
                         f"{qdct.shape}; expected (N, H, W) three times")
    if not 0 <= structure_slice < len(images):
        raise InputError(f"structure_slice is {structure_slice}; expected 0 to {len(images) - 1}")
    if pixel_spacing_mm is not None and not pixel_spacing_mm > 0:
        raise InputError(f"pixel_spacing_mm is {pixel_spacing_mm}; expected above 0")
    is_qdct = images is qdct

    def measure(index: int) -> _Slice:
        removed = None if is_qdct else images[index] - qdct[index]
        return _measure_slice(images[index], ndct[index], removed,
                              pixel_spacing_mm=pixel_spacing_mm,
                              keep_map=index == structure_slice)

    calls = (functools.partial(measure, index) for index in range(len(images)))
    with contextlib.closing(call_ahead(calls)) as results:
        slices = [result() for result in results]
    nps, reason = None, ""
    weights = [each.patches for each in slices if each.patches]
    if weights:
        spectrum = np.average([each.spectrum for each in slices if each.spectrum is not None],
                              axis=0, weights=weights)
        nps = noise_power(spectrum, pixel_spacing_mm=pixel_spacing_mm)
    else:
        side = patch_side(images.shape)
        reason = f"no patch of {side}×{side} pixels lies within a body"
    tissues = tissue_errors(np.sum([each.moments for each in slices], axis=0))
    structure = structure_map = removed_map = None
    if not is_qdct:
        structure = pooled(each.structure for each in slices if each.structure is not None)
        structure_map = slices[structure_slice].structure_map
        removed_map = images[structure_slice] - qdct[structure_slice]
    return SlicePhysics(nps, tissues, structure,
                        "1/pixel" if pixel_spacing_mm is None else "lp/cm",
                        removed_map, structure_map, reason)
