"""`--mode=pair`: DICOM files of two doses, as pairs for training."""

import contextlib
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from dfgan_jax.data import dataset, doses
from dfgan_jax.data.dataset import Entry
from dfgan_jax.data.entries import check_not_blank, patients_by, slice_columns, tell_written
from dfgan_jax.data.exchanged import is_noisier
from dfgan_jax.data.overlap import slice_digests
from dfgan_jax.data.pairing import SlicePair, match_slices
from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.support.digests import file_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import progress
from dfgan_jax.support.threads import call_ahead
from dfgan_jax.support.wording import counted

Folders = Sequence[Sequence[pathlib.Path]]
"""Groups of folders or files. Each group has a slice, but not each folder of several."""


def run(*, ndct: Folders = (), qdct: Folders = (), trees: Folders = (), output: pathlib.Path,
        split: str | None, patients: str) -> None:
    """Writes the slices that both doses have, in the published format, with a manifest.

    Args:
      ndct: folders of the normal dose.
      qdct: folders of the low dose.
      trees: instead of both, folders of either dose, told apart by the description of the series.
      output: `.npy` file; with `split`, a folder.
      split: shares of train, valid and test, by patient.
      patients: the identity of a patient: the `id` (the study, if the ID is a placeholder), the
        `study`, or the `folder` directly below those given.

    Raises:
      InputError: the folders cannot be paired, or some files are broken (all other pairs are
        written).
      OSError: a file cannot be written.
    """
    shares = None if split is None else dataset.parse_split(split)
    dataset.outputs_of(output, shares)
    found = [DicomFolder(*(_existing(name, folder) for folder in folders))
             for name, groups in (("ndct", ndct), ("qdct", qdct), ("input", trees))
             for folders in groups]
    notes = [line for files in found for line in files.lines()]
    if trees:
        try:
            normal, low, left_out = doses.by_description(_headers(found))
        except InputError as error:
            raise InputError(f"{error}; or name the folders of each dose: --ndct=DIR --qdct=DIR"
                             ) from error
        notes += left_out
    else:
        normal, low = _headers(found[:len(ndct)]), _headers(found[len(ndct):])
    matching = match_slices(normal, low)
    notes += matching.notes
    odd = dataset.of_other_sizes({pair.ndct.name: (pair.ndct.rows, pair.ndct.columns)
                                  for pair in matching.pairs})
    patient_of = patients_by(patients, normal, list(itertools.chain(*(trees or ndct))))
    entries, broken = _entries([pair for pair in matching.pairs if pair.ndct.name not in odd],
                               patient_of, notes)
    broken += [f"{name} {why}" for name, why in odd.items()]
    entries, dropped = dataset.without_duplicates(entries)
    if not entries:
        raise InputError("; ".join(["no pair is left", *broken, *notes]))
    noisier = sum(entry.manifest["noisier"] == "ndct" for entry in entries)
    if noisier > len(entries) / 2:
        notes.append(f"the normal dose is noisier than the low dose in {noisier} of {len(entries)} "
                     "slices: are " + ("the descriptions of the series"
                                       if trees else "--ndct and --qdct") + " exchanged?")
    for note in [*notes, *dropped]:
        print(note, file=sys.stderr)
    written = dataset.write_dataset(output, entries, shares=shares, description="writing pairs")
    tell_written(written, entries)
    broken += [f"{path}: {why}" for files in found for path, why in files.broken.items()]
    if broken:
        raise InputError(f"{counted(len(broken), 'broken file')} left out, the first {broken[0]}; "
                         "all other pairs are written")


def _existing(name: str, folder: pathlib.Path) -> pathlib.Path:
    if not folder.exists():
        raise InputError(f"--{name}: {folder}: no such folder")
    return folder


def _headers(found: Sequence[DicomFolder]) -> list[SliceHeader]:
    return [header for files in found for header in files.headers]


def _entries(pairs: Sequence[SlicePair], patient_of: Callable[[SliceHeader], str],
             notes: list[str]) -> tuple[list[Entry], list[str]]:
    """Reads every pair once, to hash it and to check that it can be read."""
    entries, broken = [], []
    digest_of = functools.cache(file_digest)  # frames share their file
    calls = (functools.partial(_entry, pair, patient_of(pair.ndct), digest_of) for pair in pairs)
    with (progress("checking pairs", total=len(pairs), unit="slices") as bar,
          contextlib.closing(call_ahead(calls)) as results):
        for result in results:
            try:
                entries.append(result())
            except NotACTSlice as error:
                notes.append(f"left out: {error}")
            except InputError as error:
                broken.append(str(error))
            bar.advance()
    return entries, broken


def _read(pair: SlicePair) -> tuple[np.ndarray, np.ndarray]:
    return dicom.read_pixels(pair.ndct).hu, dicom.read_pixels(pair.qdct).hu


def _checked(header: SliceHeader) -> np.ndarray:
    pixels = dicom.read_pixels(header)
    check_not_blank(header.name, pixels.hu)
    dicom.check_hu(header, pixels)
    return pixels.hu


def _entry(pair: SlicePair, patient: str, digest_of: Callable[[pathlib.Path], str]) -> Entry:
    ndct, qdct = _checked(pair.ndct), _checked(pair.qdct)
    if np.array_equal(ndct, qdct):
        raise InputError(f"{pair.qdct.name}: has the pixels of {pair.ndct.name}: the doses are "
                         "the same")
    ndct_digest, qdct_digest = slice_digests([ndct, qdct])
    return Entry(
        patient=patient, ndct_digest=ndct_digest, qdct_digest=qdct_digest,
        source=pair.qdct.name, shape=(pair.ndct.rows, pair.ndct.columns),
        read=functools.partial(_read, pair),
        manifest={**slice_columns(pair.ndct), "qdct_series_uid": pair.qdct.series_uid,
                  "ndct_file": pair.ndct.name, "ndct_sha256": digest_of(pair.ndct.path),
                  "qdct_file": pair.qdct.name, "qdct_sha256": digest_of(pair.qdct.path),
                  "noisier": "ndct" if is_noisier(ndct, qdct) else "qdct"})
