"""The effect of denoising on a NIfTI volume, measured in its files."""

import contextlib
import pathlib

from dfgan_jax.data import domain
from dfgan_jax.data.domain import Domain
from dfgan_jax.denoising import denoised_series
from dfgan_jax.scans import nifti, units
from dfgan_jax.scans.pixel_pitch import square_pitch
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.files import scratch_beside
from dfgan_jax.support.types import JsonObject


def describe(source: pathlib.Path, output: pathlib.Path, *, unit: Unit, known: Domain | None
             ) -> JsonObject:
    """The number of slices, and the measurements of a few, for `summary.json`.

    Without the size of square pixels none is measured.

    Args:
      source: volume.
      output: the same, denoised; `.nii.gz` are unpacked beside it.
      unit: of both.
      known: domain of the model; None: unknown.

    Raises:
      InputError: a file is broken.
      OSError: the disk has no room to unpack them.
    """
    with contextlib.ExitStack() as opened:
        before, after = (
            nifti.open_nifti(path, scratch=opened.enter_context(scratch_beside(output)))
            for path in (source, output))
        scans, changes = [], []
        if (pitch := square_pitch(before.pixel_spacing_mm)) is not None:
            for index in denoised_series.measured_slices(len(before.stored)):
                pair = [units.to_hu(volume.hu(volume.stored[index]), unit)
                        for volume in (before, after)]
                scans.append(domain.measure(pair[0], pixel_spacing_mm=pitch))
                changes.append(denoised_series.measure_change(*pair, pixel_spacing_mm=pitch))
        return {"slices": len(before.stored), **denoised_series.describe(scans, changes),
                "outside_training": denoised_series.warnings(scans, known)}
