"""`--mode=denoise`: denoises files and folders of HU, and writes the same format."""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import jax
import numpy as np

import dfgan_jax
from dfgan_jax import pretrained
from dfgan_jax.cli.input_format import flags_named, refuse_for
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.data import domain
from dfgan_jax.data.pairs_file import holds_pairs, read_pairs, write_slices
from dfgan_jax.denoising import denoised_series, denoised_volume
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.denoising.dicom_tree import SUMMARY, denoise_tree
from dfgan_jax.devices import agreement
from dfgan_jax.scans import dicom, hounsfield, nifti, units
from dfgan_jax.scans.axes import Axes
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_folder import find_files
from dfgan_jax.scans.dicom_output import DicomOutput
from dfgan_jax.scans.other_formats import refuse_other_format
from dfgan_jax.scans.pixel_pitch import square_pitch
from dfgan_jax.scans.scan import read_hu_array
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import check_writable, refuse_existing, scratch_beside, written_whole
from dfgan_jax.support.memory_maps import flush_pages, release_pages
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted


def run(*, checkpoint_path: str | None, source: pathlib.Path, output: pathlib.Path,
        strength: float = 1.0, self_ensemble: bool = False, report: pathlib.Path | None = None,
        unit: Unit | None = None, axes: Axes | None = None, workers: int | None = None) -> None:
    """Denoises a file or a folder, a few slices at a time.

    Args:
      checkpoint_path: see `Denoiser.load`; a description of pretrained weights is printed.
      source: a folder of DICOM files and volumes; one DICOM file; `.npy` of (H, W) or (N, H, W)
        numbers, HU; `.npy` in the published format, whose quarter dose is denoised; or a volume
        of HU, `.nii` or `.nii.gz`.
      output: file or folder to write, whole or not at all, in the same format; arrays are float32.
      strength: of the denoising; see `Denoiser`.
      self_ensemble: see `Denoiser`.
      report: HTML file to write: up to 30 slices before and after.
      unit: of an array, a volume or a folder's volumes, and of the output; None: HU, refused where
        they cannot be.
      axes: of an array and of the output; None: (N, H, W), refused where it looks like (H, W, N).
      workers: of a folder; see `denoise_tree`.

    Raises:
      InputError: the checkpoint or the input cannot be used, the output or the report exists, or
        some slices or volumes of a folder are broken (all others are written).
      OSError: the output cannot be written.
      ProcessError: a worker was killed.
    """
    refuse_existing(output)
    if report is not None:
        refuse_existing(report)
        check_writable(report.parent)
        if report.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--report is {report}; expected a name that ends in .html")
    if described := pretrained.describe(checkpoint_path):
        print(described, flush=True)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    load = functools.partial(Denoiser.load, checkpoint_path, strength=strength,
                             self_ensemble=self_ensemble)
    if source.is_dir():
        refuse_for(source, "a folder, whose files name their axes", axes=axes)
        if unit is not None and not any(map(nifti.is_nifti, find_files(source))):
            refuse_for(source, "DICOM, whose headers give the unit", unit=unit)
        if output.name.lower().endswith((".npy", *nifti.SUFFIXES)):
            raise InputError(f"{output}: expected the name of a folder, as {source} is")
        _denoise_folder(load(), source, output, report=report, workers=workers, unit=unit)
        return
    if workers is not None:
        raise InputError(f"--workers is {workers}, and {source} is one file; only the slices of a "
                         "folder are read by workers")
    if jax.process_count() > 1:
        raise InputError(f"{source} is one file, and this run has {jax.process_count()} processes; "
                         "only the files of a folder are divided among processes")
    kind: Callable[[Denoiser, pathlib.Path, pathlib.Path], str]
    given = unit or "hu"
    suffixes: tuple[str, ...]
    if source.suffix.lower() == ".npy":
        kind, suffixes = functools.partial(denoise_array, unit=given, axes=axes), (".npy",)
        if holds_pairs(source):
            kind = _denoise_pairs
            refuse_for(source, "a file of pairs in 1/mm, (H, W, N)", unit=unit, axes=axes)
        elif unit is None:
            with flags_named():
                stored = read_hu_array(source, axes=axes)
                units.check_hu(stored.reshape(-1, *stored.shape[-2:]), name=str(source))
    elif nifti.is_nifti(source):
        refuse_for(source, "a volume, whose header names its axes", axes=axes)
        kind, suffixes = functools.partial(_denoise_nifti_file, unit=unit), nifti.SUFFIXES
    else:
        refuse_other_format(source)
        refuse_for(source, "DICOM, whose headers give the unit and the axes", unit=unit, axes=axes)
        if output.name.lower().endswith((".npy", *nifti.SUFFIXES)):
            raise InputError(f"{output}: expected a name of DICOM, as {source} is")
        dicom.read_headers(source)
        kind, suffixes = _denoise_dicom_file, ("",)
    if not output.name.lower().endswith(suffixes):
        raise InputError(f"{output}: expected a name that ends in {' or '.join(suffixes)}, as "
                         f"{source} does")
    denoiser = load()
    with flags_named():
        print(f"Wrote {output}: {kind(denoiser, source, output)}", flush=True)
    if report is not None:
        # Here, since its libraries take longer to import than a slice to denoise.
        from dfgan_jax.evaluation import denoising_report

        denoising_report.of_file(report, source, output, denoiser=denoiser,
                                 derivation=_derivation(denoiser), unit=given, axes=axes or "nhw")


def _derivation(denoiser: Denoiser) -> Derivation:
    return Derivation(model=model_name(denoiser.meta["config"]),
                      weights_sha256=denoiser.weights_sha256, version=dfgan_jax.__version__,
                      strength=denoiser.strength, self_ensemble=denoiser.self_ensemble)


def _denoise_folder(denoiser: Denoiser, source: pathlib.Path, output: pathlib.Path, *,
                    report: pathlib.Path | None, workers: int | None, unit: Unit | None) -> None:
    summary = denoise_tree(
        denoiser, derivation=_derivation(denoiser), source=source, output=output, workers=workers,
        denoise_volume=functools.partial(_denoise_volume_of_folder, denoiser, unit=unit),
        volume_unit=unit or "hu")
    parts = [f"{len(summary['series'])} series"] if summary["series"] else []
    parts += [counted(len(summary["volumes"]), "volume")] if summary["volumes"] else []
    print(f"Wrote {output}: {counted(summary['slices'], 'slice')} in {' and '.join(parts)} by "
          f"{summary['model']}; {_beyond(summary['saturated_pixels'])}"
          + (f" in the slices written now, not before ({summary['written_before']})"
             if summary["written_before"] else ""))
    for series in summary["series"]:
        for note in series["notes"]:
            print(f"Series {series['source_series_uid']}: {note}")
    for kind in sorted(set(summary["skipped"].values())):
        names = [name for name, why in summary["skipped"].items() if why == kind]
        print(f"Skipped {len(names)}: {kind} ({names[0]}{', …' if names[1:] else ''})")
    print(f"All of it by name: {output / SUMMARY}", flush=True)
    if report is not None and agreement.is_main():
        from dfgan_jax.evaluation import denoising_report

        denoising_report.of_folder(report, source, output, summary=summary, unit=unit or "hu")
    if summary["broken"] and agreement.is_main():
        (name, why), *rest = summary["broken"].items()
        raise InputError(
            f"{counted(len(rest) + 1, 'broken file')} not denoised, the first {name}: {why}; all "
            f"others are written, and {output / SUMMARY} names all")


def _warn(source: pathlib.Path, denoiser: Denoiser, slices: Iterator[tuple[np.ndarray, float]]
          ) -> None:
    """Warns of slices, (H, W) HU and pixel pitch [mm], unlike those of the model's training."""
    if denoiser.domain is not None:
        scans = [domain.measure(hu, pixel_spacing_mm=spacing) for hu, spacing in slices]
        for line in denoised_series.warnings(scans, denoiser.domain):
            print(f"warning: {source}: {line}", file=sys.stderr, flush=True)


def _denoise_dicom_file(denoiser: Denoiser, source: pathlib.Path, output: pathlib.Path) -> str:
    slices, = dicom.group_by_series(dicom.read_headers(source))
    chosen = [slices[index] for index in denoised_series.measured_slices(len(slices))]
    measured = list(map(dicom.read_pixels, chosen))
    if (found := units.doubt(map(dicom.values_to_doubt, chosen, measured))) is not None:
        raise InputError(f"{source}: {found.reason}")
    if (pitch := square_pitch(slices[0].pixel_spacing_mm)) is not None:
        _warn(source, denoiser, ((pixels.hu, pitch) for pixels in measured))
    of_values = dict.fromkeys(note for pixels in measured for note in pixels.notes)
    for note in [*dicom.series_notes(slices), *of_values]:
        print(f"{source}: {note}")
    size = slices[0].rows, slices[0].columns
    step, saturated = denoiser.slices_per_batch(size, count=len(slices)), 0
    with (DicomOutput({source: output}, derivation=_derivation(denoiser)) as out,
          _bar(len(slices)) as bar):
        for start in range(0, len(slices), step):
            read = [dicom.read_slice_of(header) for header in slices[start:start + step]]
            denoised = denoiser(np.stack([each.hu for each in read]), batch_size=step,
                                progress=bar, unit=None)
            saturated += sum(out.write(each, hu) for each, hu in zip(read, denoised, strict=True))
    return f"{counted(len(slices), 'slice')} of {size[0]}×{size[1]}; {_beyond(saturated)}"


def denoise_array(denoiser: Denoiser, source: pathlib.Path, output: pathlib.Path, *, unit: Unit,
                  axes: Axes | None) -> str:
    """Denoises an `.npy`; see `run` for the arguments. Returns a description of the output."""
    qdct = read_hu_array(source, axes=axes)
    slices = qdct.reshape(-1, *qdct.shape[-2:])
    _check_finite(source, slices)
    is_hwn = axes == "hwn" and qdct.ndim == 3
    shape = (*qdct.shape[1:], qdct.shape[0]) if is_hwn else qdct.shape
    with written_whole(output) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {
            "descr": "<f4", "fortran_order": is_hwn, "shape": shape})
        for _, denoised in _denoised(denoiser, slices,
                                     lambda block: units.to_hu(block, unit, name=f"{source}:")):
            values = units.from_hu(denoised, unit).astype("<f4")
            # In Fortran's order of (H, W, N), one slice follows the other, by its columns.
            file.write(np.ascontiguousarray(values.transpose(0, 2, 1) if is_hwn else values).data)
    name = {"hu": "HU", "mu": "1/mm", "stored": "HU + 1024"}.get(unit, f"normalised ({unit})")
    return f"{counted(len(slices), 'slice')} of {qdct.shape[-2]}×{qdct.shape[-1]}, {name}"


def _denoise_volume_of_folder(denoiser: Denoiser, source: pathlib.Path, output: pathlib.Path, *,
                              unit: Unit | None) -> JsonObject:
    """Denoises a volume unless the output is there; see `dicom_tree.VolumeDenoiser`."""
    saturated = 0
    with flags_named():
        if not output.exists():
            _, saturated = denoise_nifti(denoiser, source, output, unit=unit)
    return {"saturated_pixels": saturated, **denoised_volume.describe(
        source, output, unit=unit or "hu", known=denoiser.domain)}


def _denoise_nifti_file(denoiser: Denoiser, source: pathlib.Path, output: pathlib.Path, *,
                        unit: Unit | None) -> str:
    (count, rows, columns), saturated = denoise_nifti(denoiser, source, output, unit=unit)
    return f"{counted(count, 'slice')} of {rows}×{columns}; {_beyond(saturated)}"


def denoise_nifti(denoiser: Denoiser, source: pathlib.Path, output: pathlib.Path, *,
                  unit: Unit | None) -> tuple[tuple[int, ...], int]:
    """Denoises a volume; see `run` for the arguments.

    Returns:
      (N, H, W), and the number of pixels beyond the stored range.
    """
    with scratch_beside(output) as scratch, written_whole(output) as temporary:
        volume = nifti.open_nifti(source, scratch=scratch)
        _check_finite(source, volume.stored)
        if unit is None:
            units.check_hu(volume.slices(), name=str(source))

        def to_hu(stored: np.ndarray) -> np.ndarray:
            return units.to_hu(volume.hu(stored), unit or "hu", name=f"{source}:")

        if (pitch := square_pitch(volume.pixel_spacing_mm)) is not None:
            _warn(source, denoiser, ((to_hu(volume.stored[index]), pitch) for index in
                                     denoised_series.measured_slices(len(volume.stored))))
        is_packed = output.name.lower().endswith(".gz")
        unpacked = scratch / "denoised.nii" if is_packed else temporary
        target = nifti.create_like(volume, unpacked, description=_derivation(
            denoiser).brief_of(source, unit or "hu"))
        saturated = 0
        for part, denoised in _denoised(denoiser, volume.stored, to_hu):
            values = units.from_hu(denoised, unit or "hu")
            exact = (values.astype(np.float64) - volume.intercept) / volume.slope
            if target.dtype.kind in "iu":
                limits, exact = np.iinfo(target.dtype), np.rint(exact)
                saturated += int(((exact < limits.min) | (exact > limits.max)).sum())
                exact = np.clip(exact, limits.min, limits.max)
            target[part] = exact
            release_pages(target)
        if is_packed:
            nifti.pack(unpacked, temporary)
        else:
            flush_pages(target)
    return volume.stored.shape, saturated


def _denoise_pairs(denoiser: Denoiser, source: pathlib.Path, output: pathlib.Path) -> str:
    pairs = read_pairs(source)

    size = pairs.ndct.shape[1:]

    def denoised() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        step = denoiser.slices_per_batch(size, count=len(pairs))
        with _bar(len(pairs)) as bar:
            for block in pairs.blocks():
                qdct = denoiser(hounsfield.mu_to_hu(np.asarray(block.qdct)), batch_size=step,
                                progress=bar, unit=None)
                yield from zip(block.ndct, hounsfield.hu_to_mu(qdct), strict=True)

    write_slices(output, denoised(), count=len(pairs), shape=size)
    return (f"{counted(len(pairs), 'slice')} in the published format: f_qd is denoised, f_nd as in "
            f"{source}")


def _beyond(saturated: int) -> str:
    return f"{counted(saturated, 'pixel')} beyond the stored range"


def _bar(slices: int) -> AbstractContextManager[Progress]:
    return progress("denoising", total=slices, unit="slices")


def _denoised(denoiser: Denoiser, stored: np.ndarray, to_hu: Callable[[np.ndarray], np.ndarray]
              ) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields part after part of (N, H, W), and its denoised HU."""
    step = denoiser.slices_per_batch(stored.shape[1:], count=len(stored))
    with _bar(len(stored)) as bar:
        for start in range(0, len(stored), step):
            part = slice(start, start + step)
            yield part, denoiser(to_hu(stored[part]), batch_size=step, progress=bar, unit=None)
            release_pages(stored)


def _check_finite(path: pathlib.Path, slices: np.ndarray) -> None:
    """Refuses slices with a NaN or an infinity, and names them, before anything is written."""
    if slices.dtype.kind != "f":
        return
    broken = []
    for index, one in enumerate(slices):
        if not np.isfinite(one).all():
            broken.append(index)
        release_pages(slices)
    if broken:
        names = ", ".join(map(str, broken[:20])) + (", …" if broken[20:] else "")
        raise InputError(f"{path}: a NaN or an infinity in {len(broken)} of "
                         f"{counted(len(slices), 'slice')}: slice {names}; nothing was written")
