"""`--mode=pair`: two folders of DICOM files, of two doses, as pairs for training."""

import functools
import hashlib
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from dfgan_jax.ct import dataset, dicom
from dfgan_jax.ct.dataset import Entry
from dfgan_jax.ct.dicom import SliceHeader
from dfgan_jax.ct.pairing import SlicePair, is_placeholder, match_slices
from dfgan_jax.dicom_tree import Files
from dfgan_jax.errors import InputError
from dfgan_jax.progress import progress
from dfgan_jax.threads import call_ahead

PATIENTS = ("id", "scan", "folder")


def run(*, ndct: Sequence[pathlib.Path], qdct: Sequence[pathlib.Path], output: pathlib.Path,
        split: str | None, patients: str) -> None:
    """Writes the slices that both doses have, in the published format, with a manifest.

    Args:
      ndct: folders of the normal dose.
      qdct: folders of the low dose.
      output: `.npy` file; with `split`, a folder.
      split: shares of train, valid and test, by patient.
      patients: what tells patients apart: their `id` (where that is a placeholder, the scan),
        the `scan`, or the `folder` right below those given.

    Raises:
      InputError: the folders cannot be paired, or some files are broken (the others are
        written all the same).
      OSError: a file cannot be written.
    """
    shares = None if split is None else dataset.parse_split(split)
    dataset.outputs_of(output, shares)
    found = {name: [Files(_existing(name, folder)) for folder in folders]
             for name, folders in (("ndct", ndct), ("qdct", qdct))}
    headers = {name: [header for files in each for header in files.headers]
               for name, each in found.items()}
    matching = match_slices(headers["ndct"], headers["qdct"])
    notes = [line for each in found.values() for files in each for line in files.lines()]
    notes += matching.notes
    patient_of = patients_by(patients, headers["ndct"], ndct)
    entries, broken = _entries(matching.pairs, patient_of)
    entries, dropped = dataset.without_duplicates(entries)
    if not entries:
        raise InputError("; ".join(["no pair is left", *broken, *notes]))
    kernels = sorted({entry.manifest["kernel"] for entry in entries})
    if len(kernels) > 1:
        notes.append(f"several kernels: {', '.join(kernels)}; their noise differs, so train and "
                     "score them apart")
    noisier = sum(entry.manifest["noisier"] == "ndct" for entry in entries)
    if noisier > len(entries) / 2:
        notes.append(f"the normal dose is noisier than the low dose in {noisier} of {len(entries)} "
                     "slices: are --ndct and --qdct exchanged?")
    for note in [*notes, *dropped]:
        print(note, file=sys.stderr)
    written = dataset.write_dataset(output, entries, shares=shares, description="writing pairs")
    report(written, entries)
    broken += [f"{path}: {why}" for each in found.values() for files in each
               for path, why in files.broken.items()]
    if broken:
        raise InputError(f"{len(broken)} broken files were left out, the first {broken[0]}; all "
                         "other pairs are written")


def report(written: dict[str, int], entries: Sequence[Entry]) -> None:
    """Prints what was written."""
    for path, count in written.items():
        print(f"Wrote {path}: {count} slices")
    patients = sorted({entry.patient for entry in entries})
    print(f"{len(patients)} patients: {', '.join(patients[:10])}"
          f"{', …' if patients[10:] else ''}", flush=True)


def _existing(name: str, folder: pathlib.Path) -> pathlib.Path:
    if not folder.exists():
        raise InputError(f"--{name}: {folder}: no such folder")
    return folder


def patients_by(choice: str, headers: Sequence[SliceHeader], roots: Sequence[pathlib.Path]
                ) -> Callable[[SliceHeader], str]:
    """What names the patient of a slice.

    Args:
      choice: one of `PATIENTS`.
      headers: of all slices.
      roots: the folders given.

    Raises:
      InputError: `folder` is chosen, and files lie right in one that is given.
    """
    def scan(header: SliceHeader) -> str:
        name = header.acquisition or header.study_uid or header.series_uid
        return f"scan {hashlib.sha256(name.encode()).hexdigest()[:8]}"

    def folder(header: SliceHeader) -> str:
        root = next(root for root in roots if header.path.is_relative_to(root))
        below = header.path.relative_to(root).parts
        if len(below) < 2:
            raise InputError(f"{header.path}: lies right in {root}; --patients=folder takes the "
                             "name of a folder below it")
        return below[0]

    if choice == "folder":
        return folder
    if choice == "scan":
        return scan
    if any(is_placeholder(header.patient_id) for header in headers):
        print("Some patient IDs are placeholders: those patients are told apart by scan",
              file=sys.stderr)
    return lambda header: scan(header) if is_placeholder(header.patient_id) else header.patient_id


def _entries(pairs: Sequence[SlicePair], patient_of: Callable[[SliceHeader], str]
             ) -> tuple[list[Entry], list[str]]:
    """Reads every pair once, to hash it and to know that it can be read."""
    entries, broken = [], []
    with progress("checking pairs", total=len(pairs), unit="slices") as bar:
        for result in call_ahead(
                functools.partial(_entry, pair, patient_of(pair.ndct)) for pair in pairs):
            try:
                entries.append(result())
            except InputError as error:
                broken.append(str(error))
            bar.advance()
    return entries, broken


def _read(pair: SlicePair) -> tuple[np.ndarray, np.ndarray]:
    return dicom.read_slice(pair.ndct.path).hu, dicom.read_slice(pair.qdct.path).hu


def _entry(pair: SlicePair, patient: str) -> Entry:
    ndct, qdct = _read(pair)
    if np.array_equal(ndct, qdct):
        raise InputError(f"{pair.qdct.path}: has the pixels of {pair.ndct.path}: the doses are "
                         "the same")
    return Entry(
        patient=patient, digest=hashlib.sha256(qdct.data).hexdigest(), source=str(pair.qdct.path),
        shape=(pair.ndct.rows, pair.ndct.columns), read=functools.partial(_read, pair),
        manifest={**slice_columns(pair.ndct), "qdct_series_uid": pair.qdct.series_uid,
                  "ndct_file": pair.ndct.path, "ndct_sha256": file_sha256(pair.ndct.path),
                  "qdct_file": pair.qdct.path, "qdct_sha256": file_sha256(pair.qdct.path),
                  "noisier": "ndct" if _roughness(ndct) > _roughness(qdct) else "qdct"})


def _roughness(hu: np.ndarray) -> float:
    """Mean second difference along rows: noise far more than anatomy."""
    return float(np.abs(np.diff(hu, 2, axis=1)).mean())


def slice_columns(header: SliceHeader) -> dict[str, object]:
    """What a manifest says of a slice."""
    spacing = header.pixel_spacing_mm
    return {"patient_id": header.patient_id, "series_uid": header.series_uid,
            "instance_number": header.instance_number, "location_mm": header.location_mm,
            "kernel": header.kernel, "thickness_mm": header.thickness_mm,
            "pixel_spacing_mm": None if spacing is None else spacing[0]}


def file_sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
