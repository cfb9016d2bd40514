"""The physics of each row of a comparison: numbers for `results.json`, pictures for the report."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from dfgan_jax.evaluation.matched_scan import ObjectScan
from dfgan_jax.evaluation.physics import measure_phantom, measure_slices
from dfgan_jax.evaluation.report.physics_section import PhysicsPictures
from dfgan_jax.evaluation.rows import Row
from dfgan_jax.evaluation.tables import REFERENCE_ROW
from dfgan_jax.simulation.quality_phantom import QualityScans, scan_repeats
from dfgan_jax.support.progress import progress
from dfgan_jax.support.types import JsonObject

REPEATS = 16
"""Scans of each simulated object."""

_PHANTOM_SEED = 0
"""Seed of the scans' noise, the same in every evaluation."""


class RowPhysics:
    """Measures rows, the normal dose first.

    Args:
      ndct: (N, H, W), HU: the test slices.
      qdct: the same slices at low dose.
      scan: of the test objects.
      pixel_spacing_mm: of the test slices; None if unknown.

    Attributes:
      results: `physics` of `results.json`.
      pictures: for the report.
    """

    def __init__(self, ndct: Float[np.ndarray, "n h w"], qdct: Float[np.ndarray, "n h w"], *,
                 scan: ObjectScan, pixel_spacing_mm: float | None):
        self._ndct, self._qdct = ndct, qdct
        self._pixel_spacing_mm = pixel_spacing_mm
        self._slice = len(ndct) // 2
        with progress("scanning test objects", total=3 * REPEATS, unit="scans") as bar:
            normal_dose, self._low_dose = scan_repeats(
                size=scan.size, seed=_PHANTOM_SEED, repeats=REPEATS, protocol=scan.protocol,
                progress=bar)
        self.results: JsonObject = {
            "phantom": {
                "description": scan.description, "matched": scan.matched, "size": scan.size,
                "pixel_spacing_mm": scan.protocol.field_of_view_mm / scan.size,
                "repeats": REPEATS, "rows": {}},
            "slices": {"pixel_spacing_mm": pixel_spacing_mm, "rows": {}}}
        self.pictures: PhysicsPictures = {"spectra": {}, "structure": {},
                                          "structure_slice": f"Slice {self._slice}"}
        self._add(REFERENCE_ROW, normal_dose, lambda hu: hu, ndct)

    def measure(self, name: str, row: Row, images: Float[np.ndarray, "n h w"]) -> None:
        """Adds a row, with its test slices, (N, H, W) HU; simulated objects only of a function."""
        self._add(name, self._low_dose,
                  (lambda hu: row.denoise(hu, None)) if row.is_function else None, images)

    def _add(self, name: str, scans: QualityScans,
             denoise: Callable[[np.ndarray], np.ndarray] | None, images: np.ndarray) -> None:
        with progress(f"measuring {name}", total=2, unit="parts") as bar:
            phantom = None if denoise is None else measure_phantom(scans, denoise)
            bar.advance()
            slices = measure_slices(images, self._ndct, self._qdct, structure_slice=self._slice,
                                    pixel_spacing_mm=self._pixel_spacing_mm)
            bar.advance()
        if phantom is not None:
            self.results["phantom"]["rows"][name] = phantom.as_json()
            self.pictures["spectra"][name] = phantom.spectrum
        self.results["slices"]["rows"][name] = slices.as_json()
        self.results["slices"]["frequency_unit"] = slices.frequency_unit
        if slices.removed_map is not None and slices.structure_map is not None:
            self.pictures["structure"][name] = (slices.removed_map, slices.structure_map)
