"""Denoises a folder of DICOM files and NIfTI volumes into a folder with the same names.

Reading, denoising and writing overlap, with at most three batches in memory. The output is in
OUTPUT.incomplete until it is complete; the same command resumes from this folder.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Final, Literal, TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from dfgan_jax.data import domain
from dfgan_jax.data.domain import ScanProperties
from dfgan_jax.denoising import denoised_series
from dfgan_jax.denoising.batches import Batch, in_batches, programs
from dfgan_jax.denoising.denoised_series import Change
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.denoising.slice_files import OpenSlice, SliceFiles
from dfgan_jax.devices import agreement
from dfgan_jax.devices.backend import has_accelerator
from dfgan_jax.scans import dicom, dicom_folder, nifti, units
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.pixel_pitch import square_pitch
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.digests import text_digest
from dfgan_jax.support.errors import InputError, ProcessError
from dfgan_jax.support.files import remove_leftovers, sync_folder, written_whole
from dfgan_jax.support.locks import locked_itself
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.support.threads import call_ahead
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted
from dfgan_jax.support.workers import MAX_WORKERS, start_workers, usable_cores

SUMMARY = "summary.json"

_OF_SYSTEMS: Final = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\._.*|\.nfs.*")
"""Files that systems put into folders that are looked at."""

_Written: TypeAlias = Literal["whole", "cut off", "other"]
"""A file of an earlier run: as that wrote it, without its end, or not of this input and model."""

_PREAMBLE: Final = slice(128, 132)
"""Bytes of a DICOM file that are `DICM`."""

SLICES_PER_WORKER: Final = 32
"""Fewer slices are read and written before a process has started."""

T = TypeVar("T")

VolumeDenoiser: TypeAlias = Callable[[pathlib.Path, pathlib.Path], JsonObject]
"""Takes a NIfTI volume and the file to write, denoises the volume unless that file is there, and
returns a description for `summary.json`, with `slices` and `saturated_pixels`. Of a broken volume
it raises `InputError`."""


def denoise_tree(denoiser: Denoiser, *, derivation: Derivation, source: pathlib.Path,
                 output: pathlib.Path, workers: int | None = None,
                 denoise_volume: VolumeDenoiser | None = None, volume_unit: Unit = "hu"
                 ) -> JsonObject:
    """Denoises the CT slices and volumes below a folder; each process of a run a share of them.

    Args:
      denoiser: of HU.
      derivation: written to the headers of the slices.
      source: folder.
      output: folder to create, for files of the same names and `summary.json`.
      workers: number of processes that read and write slices; 0: threads of this process do.
        None: beside a GPU or TPU the number of cores, at most `MAX_WORKERS`, of many slices; 0 of
        few, and on a CPU, whose cores the network needs.
      denoise_volume: denoises the NIfTI volumes, one by one; None: they are skipped.
      volume_unit: of their values.

    Returns:
      The content of `summary.json`, in every process. Broken files are listed under `broken`;
      the others are written.

    Raises:
      InputError: there is nothing to denoise, or all of it is broken; or `OUTPUT.incomplete`
        belongs to another input or model.
      OSError: a file cannot be written; `OUTPUT.incomplete` is kept.
      ProcessError: a worker was killed; `OUTPUT.incomplete` is kept.
    """
    incomplete = output.with_name(f"{output.name}.incomplete")
    with _Workers(workers) as started, contextlib.ExitStack() as held:
        files = _found(source, output, incomplete, started,
                       with_volumes=denoise_volume is not None)
        if agreement.is_main():
            held.enter_context(locked_itself(incomplete))
        return _denoise_tree(denoiser, started, files, derivation=derivation, source=source,
                             output=output, incomplete=incomplete, denoise_volume=denoise_volume,
                             volume_unit=volume_unit)


class _Workers:
    """Processes that read and write files, started when there are enough files; a context.

    Args:
      count: see `denoise_tree`.

    Raises:
      ProcessError: at the end of the context, if a process was killed.
    """

    def __init__(self, count: int | None):
        self._least = 0
        if count is None:
            count = min(usable_cores(), MAX_WORKERS) if has_accelerator() else 0
            self._least = SLICES_PER_WORKER * count
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise ProcessError(
                "a process that reads and writes slices was ended by the system, perhaps for lack "
                f"of memory; a smaller number of workers than {self._count} needs less") from error

    def for_files(self, number: int) -> ProcessPoolExecutor | None:
        """The processes for a number of files; None: threads, which take less time to start."""
        if not self._count or number < self._least:
            return None
        if self._pool is None:
            self._pool = start_workers(self._count, modules=[SliceFiles.__module__])
        return self._pool


def _found(source: pathlib.Path, output: pathlib.Path, incomplete: pathlib.Path,
           workers: _Workers, *, with_volumes: bool) -> DicomFolder:
    """The files of the input.

    Raises:
      InputError: there are none, the output lies within them or around them, or process 0 finds
        others.
    """
    _check_apart(source.resolve(), f"the input {source}", output, incomplete)
    files = DicomFolder(source, processes=workers.for_files, with_volumes=with_volumes)
    if agreement.is_main():
        for line in files.link_lines():
            print(line, file=sys.stderr, flush=True)
    for folder in files.linked_folders:
        _check_apart(folder, f"{folder}, which a link in the input {source} leads to", output,
                     incomplete)
    # Each process takes its share of its own list.
    own = text_digest("\n".join([*(header.name for header in files.headers),
                                 *map(str, files.volumes)]))
    if agreement.from_main(lambda: {"files": own})["files"] != own:
        raise InputError(f"{source}: this process finds other files than process 0; expected the "
                         "same in every process, whole before the start")
    return files


def _check_apart(folder: pathlib.Path, name: str, output: pathlib.Path, incomplete: pathlib.Path
                 ) -> None:
    """Refuses an output in a folder of the input, and one whose first name has it within it.

    Raises:
      InputError: names the folder as `name` says.
    """
    if folder.is_relative_to(incomplete.resolve()):
        raise InputError(f"{incomplete}, the name of the output until it is complete, "
                         f"{'is' if folder == incomplete.resolve() else 'holds'} {name}; choose "
                         "another output")
    for path in (output, incomplete):
        if path.resolve().is_relative_to(folder):
            raise InputError(f"{path}: lies within {name}; choose another output")


def _denoise_tree(denoiser: Denoiser, workers: _Workers, files: DicomFolder, *,
                  derivation: Derivation, source: pathlib.Path, output: pathlib.Path,
                  incomplete: pathlib.Path, denoise_volume: VolumeDenoiser | None,
                  volume_unit: Unit) -> JsonObject:
    series = list(dicom.group_by_series(files.headers))
    targets = {path: incomplete / path.relative_to(source)
               for path in [*(header.path for header in files.headers), *files.volumes]}
    there_files = set(agreement.from_main(lambda: sorted(map(str, _written_before(
        files, targets, incomplete=incomplete, derivation=derivation,
        volume_unit=volume_unit)))))
    there = {header.name for header in files.headers if str(header.path) in there_files}
    missing = _share([header for slices in series for header in slices
                      if header.name not in there])
    saturated: dict[str, int] = {}
    volumes: dict[str, JsonObject] = {}
    checks = _Checks(series, denoiser=denoiser)
    for of_series, why in checks.doubtful:
        for header in of_series:
            files.refuse(header.path, InputError(f"{header.path}: its series {why}"))
    if agreement.is_main():
        checks.warn()
        checks.add_written({header.name: header for header in files.headers
                            if header.name in there}, targets)
    # Programs of the whole folder: the pixels of a slice do not depend on the slices left.
    batches = list(in_batches(missing, programs(files.headers, denoiser)))
    processes = workers.for_files(sum(header.frame is None for header in missing))
    try:
        with progress("denoising", total=len(there) + len(missing), unit="slices",
                      initial=len(there)) as bar, SliceFiles(
                          [batch.headers for batch in batches], targets, derivation=derivation,
                          processes=processes) as slices:
            _denoise(batches, denoiser=denoiser, slices=slices, files=files,
                     saturated=saturated, checks=checks, bar=bar)
        for path in files.volumes[jax.process_index()::jax.process_count()]:
            assert denoise_volume is not None
            try:
                volumes[str(path)] = denoise_volume(path, targets[path])
            except InputError as error:
                files.refuse(path, error)
    except (OSError, KeyboardInterrupt, BrokenProcessPool):
        written = [f"{sum(targets[path].exists() for path in paths)} of {counted(len(paths), noun)}"
                   for noun, paths in (("slice", [header.path for header in files.headers]),
                                       ("volume", files.volumes)) if paths]
        print(f"{' and '.join(written)} in {incomplete}; the same command resumes from there",
              file=sys.stderr, flush=True)
        raise
    own: JsonObject = {"saturated": saturated, "changes": checks.changes,
                       "files": files.refused(), "volumes": volumes}
    for found in agreement.gathered(own):
        saturated |= found["saturated"]
        checks.changes |= found["changes"]
        files.refuse_all(found["files"])
        volumes |= found["volumes"]
    if not there and not saturated and not volumes:
        raise InputError("; ".join([f"{source}: no slice could be denoised", *files.lines()]))
    written_volumes = {path: volumes[str(path)] for path in files.volumes if str(path) in volumes}
    summary = _summary(files, series, written_volumes, source=source, derivation=derivation,
                       there=there, there_files=there_files, saturated=saturated, checks=checks)
    if agreement.is_main():
        for path in [*written_volumes, *(header.path for header in files.headers
                                         if header.name in there | saturated.keys())]:
            if not targets[path].exists():
                raise InputError(f"{targets[path]}: not there, though another process has written "
                                 "it; expected one file system for the output of all processes")
        with written_whole(incomplete / SUMMARY) as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + "\n")
        for folder, _, _ in os.walk(incomplete):
            sync_folder(pathlib.Path(folder))
        incomplete.rename(output)
        sync_folder(output.parent)
    agreement.barrier("denoised")
    return summary


def _share(headers: list[SliceHeader]) -> list[SliceHeader]:
    """This process's share: whole files, in turn, so that the shares of each series are equal."""
    paths = {path: index for index, path in enumerate(dict.fromkeys(
        header.path for header in headers))}
    return [header for header in headers
            if paths[header.path] % jax.process_count() == jax.process_index()]


class _Checks:
    """Measurements of some slices of each series, before and after denoising.

    Args:
      series: headers of each series.
      denoiser: with whose domain the series are compared.

    Attributes:
      domain: of the denoiser; None if unknown.
      doubtful: each series whose measured slices cannot be in HU, and the reason.
      changes: name of a measured slice → the fields of its `Change`.
    """

    def __init__(self, series: list[list[SliceHeader]], *, denoiser: Denoiser):
        self.domain = denoiser.domain
        self._series = series
        self._scans: dict[str, ScanProperties] = {}
        self._notes: dict[str, tuple[str, ...]] = {}
        self.changes: dict[str, list[float | None]] = {}
        self.doubtful: list[tuple[list[SliceHeader], str]] = []
        chosen = [_some_of(slices) for slices in series]
        calls = (functools.partial(_look_at, header, pitch)
                 for header, pitch in itertools.chain.from_iterable(chosen))
        with (progress("measuring noise", total=sum(map(len, chosen)), unit="slices") as bar,
              contextlib.closing(call_ahead(calls)) as results):
            for slices, some in zip(series, chosen, strict=True):
                values = []
                # The results go on with those of the next series.
                for (header, _), result in zip(some, results, strict=False):
                    with contextlib.suppress(InputError):  # reported when it is denoised
                        scan, hu, self._notes[header.name] = result()
                        values.append(hu)
                        if scan is not None:
                            self._scans[header.name] = scan
                    bar.advance()
                if (found := units.doubt(values)) is not None:
                    self.doubtful.append((slices, found.reason))

    def warn(self) -> None:
        """Prints a warning for each series outside the scans that the model was trained on."""
        for slices in self._series:
            for line in self.warnings(slices):
                print(f"warning: series {slices[0].series_uid}: {line}", file=sys.stderr,
                      flush=True)

    def warnings(self, slices: list[SliceHeader]) -> list[str]:
        return denoised_series.warnings(self._of(slices, self._scans), self.domain)

    def notes(self, slices: list[SliceHeader]) -> list[str]:
        """Peculiarities of the values of the measured slices, in words."""
        return list(dict.fromkeys(note for notes in self._of(slices, self._notes)
                                  for note in notes))

    def add(self, name: str, hu: Float[np.ndarray, "h w"], denoised: Float[np.ndarray, "h w"]
            ) -> None:
        """Compares a slice with the denoised slice, if it is among the measured slices."""
        if name in self._scans:
            self.changes[name] = list(denoised_series.measure_change(
                hu, denoised, pixel_spacing_mm=self._scans[name].pixel_spacing_mm))

    def add_written(self, headers: dict[str, SliceHeader],
                    targets: dict[pathlib.Path, pathlib.Path]) -> None:
        """Compares the measured ones of the slices that an earlier run wrote.

        Args:
          headers: of these slices, by name.
          targets: path of each source → the path of the denoised file.
        """
        for name in headers.keys() & self._scans.keys():
            header = headers[name]
            written = dicom.read_headers(targets[header.path])[header.instance[1]]
            self.add(name, dicom.read_pixels(header).hu, dicom.read_pixels(written).hu)

    def describe(self, slices: list[SliceHeader]) -> JsonObject:
        """The measurements of a series, for `summary.json`."""
        changes = [Change(*values) for values in self._of(slices, self.changes)]
        return {**denoised_series.describe(self._of(slices, self._scans), changes),
                "outside_training": self.warnings(slices)}

    @staticmethod
    def _of(slices: list[SliceHeader], found: dict[str, T]) -> list[T]:
        return [found[header.name] for header in slices if header.name in found]


def _some_of(slices: list[SliceHeader]) -> list[tuple[SliceHeader, float | None]]:
    """The measured slices of a series with their pixel pitch, if any slice has one."""
    pitches = [(header, square_pitch(header.pixel_spacing_mm)) for header in slices]
    known = [each for each in pitches if each[1] is not None] or pitches
    return [known[index] for index in denoised_series.measured_slices(len(known))]


def _look_at(header: SliceHeader, pixel_spacing_mm: float | None
             ) -> tuple[ScanProperties | None, Float[np.ndarray, "*n"], tuple[str, ...]]:
    """Measures a slice.

    Returns:
      Its properties, if it is in HU and its pitch is known; the values that tell the unit; notes.
    """
    pixels = dicom.read_pixels(header)
    values = dicom.values_to_doubt(header, pixels)
    if pixel_spacing_mm is None or units.doubt([values]) is not None:
        return None, values, pixels.notes
    return domain.measure(pixels.hu, pixel_spacing_mm=pixel_spacing_mm,
                          outside=pixels.outside), values, pixels.notes


def _written_before(files: DicomFolder, targets: dict[pathlib.Path, pathlib.Path], *,
                    incomplete: pathlib.Path, derivation: Derivation, volume_unit: Unit
                    ) -> set[pathlib.Path]:
    """Finds the files whose denoised files an earlier run of the same command wrote.

    Those that were cut off are removed, and so is what that run left beside them.

    Raises:
      InputError: the folder has other files; then nothing is removed.
    """
    ours = {*targets.values(), incomplete / SUMMARY}
    others = [path for path in dicom_folder.find_files(incomplete)
              if path not in ours and not _OF_SYSTEMS.fullmatch(path.name)]
    uids = {header.path: header.sop_uid for header in files.headers}
    before = [path for path, target in targets.items() if target.exists()]
    found: dict[_Written, list[pathlib.Path]] = collections.defaultdict(list)
    with (progress("checking earlier files", total=len(before), unit="files") as bar,
          contextlib.closing(call_ahead(functools.partial(
              _written, targets[path], path, derivation=derivation, source_uid=uids.get(path),
              volume_unit=volume_unit) for path in before)) as results):
        for path, result in zip(before, results, strict=True):
            bar.advance()
            with contextlib.suppress(InputError):  # denoised again, or reported then
                found[result()].append(path)
    others += [targets[path] for path in found["other"]]
    if others:
        raise InputError(
            f"{min(others)}{f' and {len(others) - 1} more' if others[1:] else ''}: not made from "
            f"this input by this model; remove {incomplete}, or choose another output")
    remove_leftovers(ours)
    for path in found["cut off"]:
        targets[path].unlink()
    return set(found["whole"])


def _written(target: pathlib.Path, path: pathlib.Path, *, derivation: Derivation,
             source_uid: str | None, volume_unit: Unit) -> _Written:
    """The state of a file that is the denoised file of another, or is not.

    Args:
      target: the file.
      path: of the input.
      derivation: of the denoised files.
      source_uid: of the first slice of a DICOM file; None for a volume.
      volume_unit: of volumes.

    Raises:
      InputError: a file cannot be read.
    """
    try:
        if not target.stat().st_size:
            return "cut off"  # as a power failure leaves a file
        if source_uid is None:
            if not nifti.has_header_of(target, path,
                                       description=derivation.brief_of(path, volume_unit)):
                return "other"
            return "whole" if nifti.is_whole(target) else "cut off"
        with target.open("rb") as file:
            if file.read(_PREAMBLE.stop)[_PREAMBLE] != b"DICM":
                return "other"
    except OSError as error:
        raise InputError(f"{target}: {error.strerror or error}") from error
    try:
        headers = dicom.read_headers(target)
        if headers[0].sop_uid != derivation.derived_uid(source_uid):
            return "other"
        for header in headers:
            dicom.read_pixels(header)
    except NotACTSlice:
        return "other"
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return "cut off"
    return "whole"


def _denoise(batches: list[Batch], *, denoiser: Denoiser, slices: SliceFiles,
             files: DicomFolder, saturated: dict[str, int], checks: _Checks, bar: Progress
             ) -> None:
    """Denoises slices in batches; each written slice gets an entry in `saturated`.

    A file of frames of which one is broken is not written.
    """
    def settled(results: Iterable[tuple[OpenSlice, Callable[[], T]]]
                ) -> Iterator[tuple[OpenSlice, T]]:
        for each, result in results:
            try:
                yield each, result()
            except InputError as error:
                if not files.is_refused(each.header.path):
                    files.refuse(each.header.path, error)

    def settle(writing: list[tuple[OpenSlice, Callable[[], int]]]) -> None:
        saturated.update((each.header.name, count) for each, count in settled(writing))

    reading: list[OpenSlice] = []
    writing: list[tuple[OpenSlice, Callable[[], int]]] = []
    for batch, following in itertools.pairwise([None, *batches, None]):
        ahead = slices.read([each for each in following.headers
                             if not files.is_refused(each.path)]) if following else []
        whole = list(settled((each, each.hu) for each in reading))
        before = np.stack([hu for _, hu in whole]) if whole else np.empty((0, 0, 0), np.float32)
        after = (denoiser(before, unit=None, **batch.program._asdict()) if batch and whole
                 else before)
        settle(writing)
        writing = [(each, each.write(hu).result)
                   for (each, _), hu in zip(whole, after, strict=True)]
        for (each, _), hu, denoised in zip(whole, before, after, strict=True):
            checks.add(each.header.name, hu, denoised)
        bar.advance(len(reading))
        reading = ahead
    settle(writing)
    for header in itertools.chain.from_iterable(batch.headers for batch in batches):
        if files.is_refused(header.path):
            saturated.pop(header.name, None)


def _summary(files: DicomFolder, series: list[list[SliceHeader]],
             volumes: dict[pathlib.Path, JsonObject], *, source: pathlib.Path,
             derivation: Derivation, there: set[str], there_files: set[str],
             saturated: dict[str, int], checks: _Checks) -> JsonObject:
    def relative(path: pathlib.Path) -> str:
        return str(path.relative_to(source))

    written = there | saturated.keys()
    return {
        "input": str(source), **dataclasses.asdict(derivation),
        "trained_on": checks.domain and checks.domain.as_json(),
        "slices": len(written) + sum(each["slices"] for each in volumes.values()),
        "saturated_pixels": sum(saturated.values()) + sum(
            each["saturated_pixels"] for each in volumes.values()),
        "written_before": len(there) + sum(each["slices"] for path, each in volumes.items()
                                           if str(path) in there_files),
        "series": [{
            "source_series_uid": slices[0].series_uid,
            "series_uid": derivation.derived_uid(slices[0].series_uid),
            "description": slices[0].series_description,
            "slices": sum(header.name in written for header in slices),
            "missing": sorted({relative(header.path) for header in slices
                               if header.name not in written}),
            "saturated_pixels": sum(saturated.get(header.name, 0) for header in slices),
            "notes": dicom.series_notes(slices) + checks.notes(slices),
            **checks.describe(slices),
        } for slices in series],
        "volumes": [{"file": relative(path), **each} for path, each in volumes.items()],
        "broken": {relative(path): why for path, why in files.broken.items()},
        "skipped": {relative(path): why for path, why in files.skipped.items()},
    }
