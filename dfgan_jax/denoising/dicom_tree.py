"""Denoises a folder of DICOM files into a folder with the same names.

Reading, denoising and writing overlap, with at most three batches in memory. The output is in
OUTPUT.incomplete until it is complete; the same command resumes from this folder.
"""

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from dfgan_jax.data import domain
from dfgan_jax.data.domain import ScanProperties
from dfgan_jax.denoising import denoised_series
from dfgan_jax.denoising.denoised_series import Change
from dfgan_jax.denoising.denoiser import Denoiser, batch_size_of
from dfgan_jax.scans import dicom, dicom_folder
from dfgan_jax.scans.dicom import CTSlice
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.dicom_output import DicomOutput
from dfgan_jax.scans.scan import square_pitch
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import remove_leftovers, written_whole
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.support.threads import THREADS, call_ahead
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

SUMMARY = "summary.json"

T = TypeVar("T")


def denoise_tree(denoiser: Denoiser, *, derivation: Derivation, source: pathlib.Path,
                 output: pathlib.Path) -> JsonObject:
    """Denoises every CT slice below a folder.

    Args:
      denoiser: of HU.
      derivation: written to the headers of the slices.
      source: folder.
      output: folder to create, for files of the same names and `summary.json`.

    Returns:
      The content of `summary.json`. Broken files are listed under `broken`; the others are
      written.

    Raises:
      InputError: there is no CT slice, or every slice is broken; or `OUTPUT.incomplete` belongs
        to another input or model.
      OSError: a file cannot be written; `OUTPUT.incomplete` is kept.
    """
    if output.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{output}: lies within the input {source}; choose another output")
    files = DicomFolder(source)
    for line in files.link_lines():
        print(line, file=sys.stderr, flush=True)
    for folder in files.linked_folders:
        if output.resolve().is_relative_to(folder):
            raise InputError(f"{output}: lies within {folder}, which a link in the input {source} "
                             "leads to; choose another output")
    incomplete = output.with_name(f"{output.name}.incomplete")
    series = list(dicom.group_by_series(files.headers))
    targets = {header.path: incomplete / header.path.relative_to(source)
               for header in files.headers}
    there = _written_before(files.headers, targets, incomplete=incomplete, derivation=derivation)
    missing = [header for slices in series for header in slices if header.name not in there]
    saturated: dict[str, int] = {}
    checks = _Checks(series, denoiser=denoiser)
    checks.warn()
    try:
        with progress("denoising", total=len(files.headers), unit="slices",
                      initial=len(there)) as bar, DicomOutput(
                          targets, derivation=derivation) as out, \
                ThreadPoolExecutor(THREADS) as pool:
            _denoise(missing, denoiser=denoiser, out=out, files=files, saturated=saturated,
                     checks=checks, pool=pool, bar=bar)
    except (OSError, KeyboardInterrupt):
        written = sum(targets[header.path].exists() for header in files.headers)
        print(f"{written} of {counted(len(files.headers), 'slice')} in {incomplete}; the same "
              "command resumes from there", file=sys.stderr, flush=True)
        raise
    if not there and not saturated:
        raise InputError("; ".join([f"{source}: no slice could be denoised", *files.lines()]))
    summary = _summary(files, series, source=source, derivation=derivation, there=there,
                       saturated=saturated, checks=checks)
    with written_whole(incomplete / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n")
    incomplete.rename(output)
    return summary


class _Checks:
    """Measurements of some slices of each series, before and after denoising.

    Args:
      series: headers of each series.
      denoiser: with whose domain the series are compared.

    Attributes:
      domain: of the denoiser; None if unknown.
    """

    def __init__(self, series: list[list[SliceHeader]], *, denoiser: Denoiser):
        self.domain = denoiser.domain
        self._series = series
        self._scans: dict[str, ScanProperties] = {}
        self._changes: dict[str, Change] = {}
        chosen = [each for slices in series for each in _some_of(slices)]
        calls = (functools.partial(_scan_properties, header, pitch) for header, pitch in chosen)
        with (progress("measuring noise", total=len(chosen), unit="slices") as bar,
              contextlib.closing(call_ahead(calls)) as results):
            for (header, _), result in zip(chosen, results, strict=True):
                with contextlib.suppress(InputError):  # reported when it is denoised
                    self._scans[header.name] = result()
                bar.advance()

    def warn(self) -> None:
        """Prints a warning for each series outside the scans that the model was trained on."""
        for slices in self._series:
            for line in self.warnings(slices):
                print(f"warning: series {slices[0].series_uid}: {line}", file=sys.stderr,
                      flush=True)

    def warnings(self, slices: list[SliceHeader]) -> list[str]:
        return denoised_series.warnings(self._of(slices, self._scans), self.domain)

    def add(self, read: CTSlice, denoised: Float[np.ndarray, "h w"]) -> None:
        """Compares a slice with the denoised slice, if it is among the measured slices."""
        name = read.header.name
        if name in self._scans:
            self._changes[name] = denoised_series.measure_change(
                read.hu, denoised, pixel_spacing_mm=self._scans[name].pixel_spacing_mm)

    def describe(self, slices: list[SliceHeader]) -> JsonObject:
        """The measurements of a series, for `summary.json`."""
        return {**denoised_series.describe(self._of(slices, self._scans),
                                           self._of(slices, self._changes)),
                "outside_training": self.warnings(slices)}

    @staticmethod
    def _of(slices: list[SliceHeader], found: dict[str, T]) -> list[T]:
        return [found[header.name] for header in slices if header.name in found]


def _some_of(slices: list[SliceHeader]) -> list[tuple[SliceHeader, float]]:
    """The measured slices of a series with their pixel pitch; slices without pitch are skipped."""
    known = [(header, pitch) for header in slices
             if (pitch := square_pitch(header.pixel_spacing_mm)) is not None]
    return [known[index] for index in denoised_series.measured_slices(len(known))]


def _scan_properties(header: SliceHeader, pixel_spacing_mm: float) -> ScanProperties:
    read = dicom.read_slice_of(header)
    return domain.measure(read.hu, pixel_spacing_mm=pixel_spacing_mm, outside=read.outside)


def _written_before(headers: list[SliceHeader], targets: dict[pathlib.Path, pathlib.Path], *,
                    incomplete: pathlib.Path, derivation: Derivation) -> set[str]:
    """Finds the slices that an earlier run of the same command wrote.

    Raises:
      InputError: the folder has other files.
    """
    remove_leftovers(incomplete)
    left = set(dicom_folder.find_files(incomplete)) if incomplete.exists() else set()
    uids = {header.path: header.sop_uid for header in headers}
    there = set()
    for path, sop_uid in uids.items():
        target = targets[path]
        if target in left:
            with contextlib.suppress(InputError):  # the file is broken, or no CT slice
                if dicom.read_headers(target)[0].sop_uid == derivation.derived_uid(sop_uid):
                    there.add(path)
                    left.remove(target)
    left.discard(incomplete / SUMMARY)
    if left:
        raise InputError(f"{min(left)}: was not made from this input by this model; remove the "
                         "folder, or choose another output")
    return {header.name for header in headers if header.path in there}


def _denoise(headers: list[SliceHeader], *, denoiser: Denoiser, out: DicomOutput,
             files: DicomFolder, saturated: dict[str, int], checks: _Checks,
             pool: ThreadPoolExecutor, bar: Progress) -> None:
    """Denoises slices in batches; each written slice gets an entry in `saturated`.

    A file of frames of which one is broken is not written.
    """
    def settled(futures: list[tuple[SliceHeader, Future[T]]]) -> Iterator[tuple[SliceHeader, T]]:
        for header, future in futures:
            try:
                yield header, future.result()
            except InputError as error:
                if not files.is_refused(header.path):
                    files.refuse(header.path, error)

    reading: list[tuple[SliceHeader, Future[CTSlice]]] = []
    writing: list[tuple[SliceHeader, Future[int]]] = []
    for batch in [*_batches(headers), []]:
        ahead = [(header, pool.submit(dicom.read_slice_of, header)) for header in batch
                 if not files.is_refused(header.path)]
        slices = [each for _, each in settled(reading)]
        denoised = denoiser(np.stack([each.hu for each in slices])) if slices else ()
        saturated.update((header.name, count) for header, count in settled(writing))
        writing = [(each.header, pool.submit(out.write, each, hu))
                   for each, hu in zip(slices, denoised, strict=True)]
        for each, hu in zip(slices, denoised, strict=True):
            checks.add(each, hu)
        bar.advance(len(reading))
        reading = ahead
    saturated.update((header.name, count) for header, count in settled(writing))
    for header in headers:
        if files.is_refused(header.path):
            saturated.pop(header.name, None)


def _batches(headers: list[SliceHeader]) -> Iterator[list[SliceHeader]]:
    """Groups slices by size across series, for few shapes and full batches."""
    sizes: dict[tuple[int, int], list[SliceHeader]] = {}
    for header in headers:
        sizes.setdefault((header.rows, header.columns), []).append(header)
    for size, same in sizes.items():
        step = batch_size_of(size)
        yield from (same[start:start + step] for start in range(0, len(same), step))


def _summary(files: DicomFolder, series: list[list[SliceHeader]], *, source: pathlib.Path,
             derivation: Derivation, there: set[str],
             saturated: dict[str, int], checks: _Checks) -> JsonObject:
    def relative(path: pathlib.Path) -> str:
        return str(path.relative_to(source))

    written = there | saturated.keys()
    return {
        "input": str(source), "model": derivation.model,
        "weights_sha256": derivation.weights_sha256, "version": derivation.version,
        "strength": derivation.strength,
        "trained_on": checks.domain and checks.domain.as_json(),
        "slices": len(written), "saturated_pixels": sum(saturated.values()),
        "written_before": len(there),
        "series": [{
            "source_series_uid": slices[0].series_uid,
            "series_uid": derivation.derived_uid(slices[0].series_uid),
            "description": slices[0].series_description,
            "slices": sum(header.name in written for header in slices),
            "missing": sorted({relative(header.path) for header in slices
                               if header.name not in written}),
            "saturated_pixels": sum(saturated.get(header.name, 0) for header in slices),
            "notes": dicom.series_notes(slices),
            **checks.describe(slices),
        } for slices in series],
        "broken": {relative(path): why for path, why in files.broken.items()},
        "skipped": {relative(path): why for path, why in files.skipped.items()},
    }
