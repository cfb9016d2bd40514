"""The report of `--mode=denoise`: slices of the input and of the output."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dfgan_jax.data import domain
from dfgan_jax.data.pairs_file import holds_pairs, read_pairs
from dfgan_jax.denoising import denoised_series
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation.report.denoising import MOST_SLICES, write_denoising_report
from dfgan_jax.scans import dicom, hounsfield, nifti, units
from dfgan_jax.scans.axes import Axes
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.pixel_pitch import square_pitch
from dfgan_jax.scans.scan import read_hu_array
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.files import scratch_beside
from dfgan_jax.support.spacing import evenly_spaced
from dfgan_jax.support.types import JsonObject


def of_folder(report: pathlib.Path, source: pathlib.Path, output: pathlib.Path, *,
              summary: JsonObject, unit: Unit = "hu") -> None:
    """Reports on a folder: slices of its largest series or volume, numbers of all.

    Args:
      report: HTML file to write.
      source: folder of the input.
      output: folder of the denoised series and volumes.
      summary: of `dicom_tree`.
      unit: of the volumes.
    """
    volumes = [{"description": each["file"], "notes": [], **each} for each in summary["volumes"]]
    series = [*summary["series"], *volumes]
    largest = max(series, key=lambda each: each["slices"])
    if "file" in largest:
        before, after = (_read(folder / largest["file"], report=report, unit=unit,
                               axes="nhw") for folder in (source, output))
        name = largest["file"]
    else:
        before, after, name = _of_series(largest["series_uid"], source, output)
    write_denoising_report(
        report, summary={**summary, "series": series}, names=before.names, before=before.hu,
        after=after.hu, of_series=name if len(series) > 1 else None)
    print(f"Report: {report}", flush=True)


def _of_series(series_uid: str, source: pathlib.Path, output: pathlib.Path
               ) -> tuple["_Slices", "_Slices", str]:
    """Some slices of a series of DICOM files, before and after, and the source's name.

    Args:
      series_uid: of the output.
      source: folder of the input.
      output: folder of the denoised series.
    """
    series, = dicom.group_by_series([header for header in DicomFolder(output).headers
                                     if header.series_uid == series_uid])
    sizes = [(header.rows, header.columns) for header in series]
    usual = collections.Counter(sizes).most_common(1)[0][0]
    same = [header for header, size in zip(series, sizes, strict=True) if size == usual]
    chosen = [same[index] for index in evenly_spaced(len(same), most=MOST_SLICES)]
    names = [_name(header) if header.location_mm is None else
             f"{header.location_mm:g} mm, {_name(header)}" for header in chosen]
    sources = {path: dicom.read_headers(source / path.relative_to(output))
               for path in {header.path for header in chosen}}
    before = [sources[header.path][header.instance[1]] for header in chosen]
    of_before, of_after = (_Slices(np.stack([dicom.read_pixels(header).hu for header in headers]),
                                   names, len(series), None) for headers in (before, chosen))
    return of_before, of_after, before[0].series_description or before[0].series_uid


class _Slices(NamedTuple):
    """Some slices of a file, the number of all, and their pixel pitch [mm]; None if unknown."""

    hu: Float[np.ndarray, "n h w"]
    names: Sequence[str]
    total: int
    pixel_spacing_mm: float | None


def of_file(report: pathlib.Path, source: pathlib.Path, output: pathlib.Path, *,
            denoiser: Denoiser, derivation: Derivation, unit: Unit = "hu",
            axes: Axes = "nhw") -> None:
    """Reports on a file.

    Args:
      report: HTML file to write.
      source: file of the input.
      output: file of the denoised slices.
      denoiser: of the output.
      derivation: of the denoiser.
      unit: of both files, if they are arrays or volumes.
      axes: of both files, if they are arrays.
    """
    before, after = (_read(path, report=report, unit=unit, axes=axes)
                     for path in (source, output))
    scans, changes = [], []
    if (spacing := before.pixel_spacing_mm) is not None:
        for index in denoised_series.measured_slices(len(before.hu)):
            scans.append(domain.measure(before.hu[index], pixel_spacing_mm=spacing))
            changes.append(denoised_series.measure_change(
                before.hu[index], after.hu[index], pixel_spacing_mm=spacing))
    series = {"description": source.name, "slices": before.total, "notes": [],
              **denoised_series.describe(scans, changes),
              "outside_training": denoised_series.warnings(scans, denoiser.domain)}
    write_denoising_report(
        report, names=before.names, before=before.hu, after=after.hu, summary={
            "input": str(source), **dataclasses.asdict(derivation), "series": [series],
            "trained_on": denoiser.domain and denoiser.domain.as_json()})
    print(f"Report: {report}", flush=True)


def _read(path: pathlib.Path, *, report: pathlib.Path, unit: Unit, axes: Axes) -> _Slices:
    """Up to `MOST_SLICES` slices of a file in any format of `--mode=denoise`."""
    if path.suffix.lower() == ".npy":
        if holds_pairs(path):
            qdct = read_pairs(path).qdct
            chosen = evenly_spaced(len(qdct), most=MOST_SLICES)
            return _Slices(hounsfield.mu_to_hu(np.stack([qdct[index] for index in chosen])),
                           _numbered(chosen), len(qdct), None)
        array = read_hu_array(path, axes=axes)
        array = array.reshape(-1, *array.shape[-2:])
        chosen = evenly_spaced(len(array), most=MOST_SLICES)
        return _Slices(units.to_hu(array[chosen], unit), _numbered(chosen), len(array), None)
    if nifti.is_nifti(path):
        with scratch_beside(report) as scratch:
            volume = nifti.open_nifti(path, scratch=scratch)
            chosen = evenly_spaced(len(volume.stored), most=MOST_SLICES)
            return _Slices(units.to_hu(volume.hu(volume.stored[chosen]), unit), _numbered(chosen),
                           len(volume.stored), square_pitch(volume.pixel_spacing_mm))
    headers = dicom.read_headers(path)
    some = [headers[index] for index in evenly_spaced(len(headers), most=MOST_SLICES)]
    return _Slices(np.stack([dicom.read_pixels(header).hu for header in some]),
                   [_name(header) for header in some], len(headers),
                   square_pitch(headers[0].pixel_spacing_mm))


def _name(header: SliceHeader) -> str:
    """The name of a slice, without its folder."""
    return header.name[len(str(header.path)) - len(header.path.name):]


def _numbered(indices: np.ndarray) -> list[str]:
    return [f"Slice {index}" for index in indices]
