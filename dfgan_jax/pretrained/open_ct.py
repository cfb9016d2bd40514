"""The openly licensed CT slices that the pretrained weights are trained and tested on.

    python -m dfgan_jax.pretrained.open_ct --input=download/ --output=open_ct/

searches a folder of DICOM files from The Cancer Imaging Archive for the slices of `open_ct.csv`,
by series and by the SHA-256 of the pixels, and copies them to
OUTPUT/SPLIT/COLLECTION/PATIENT/NNN.dcm. Without `--output` it copies nothing. Other slices are
ignored; the exit status is 1 if a listed slice is missing or has other pixels.

docs/weights.md lists the collections with licences and DOIs, and the steps that follow.
"""

import collections
import contextlib
import csv
import importlib.resources
import pathlib
import shutil
import sys
from typing import Final, NamedTuple

import pydicom
from absl import app, flags

from dfgan_jax.scans import dicom_folder
from dfgan_jax.support.digests import array_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import refuse_existing
from dfgan_jax.support.progress import progress

SPLITS: Final = ("train", "test")


class OpenSlice(NamedTuple):
    """A row of `open_ct.csv`.

    Attributes:
      file: place below the output: SPLIT/COLLECTION/PATIENT/NNN.dcm.
      collection: of The Cancer Imaging Archive.
      licence: such as CC BY 4.0.
      doi: of the collection.
      series_uid: DICOM's SeriesInstanceUID.
      sop_uid: DICOM's SOPInstanceUID.
      pixels_sha256: of the stored values, 16 bits each, row by row.
    """

    file: str
    collection: str
    licence: str
    doi: str
    series_uid: str
    sop_uid: str
    pixels_sha256: str

    @property
    def split(self) -> str:
        return self.file.split("/")[0]


def read_manifest() -> list[OpenSlice]:
    """The slices, in the order of `open_ct.csv`."""
    table = importlib.resources.files(__package__) / "open_ct.csv"
    return [OpenSlice(**{name: row[name] for name in OpenSlice._fields})
            for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]


def pixels_sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file's stored values; it does not depend on the transfer syntax.

    Raises:
      InputError: the file cannot be decoded.
    """
    try:
        pixels = pydicom.dcmread(path).pixel_array
    except Exception as error:  # a broken file can raise anything
        raise InputError(f"{path}: cannot be decoded ({error})") from error
    return array_digest(pixels.astype(pixels.dtype.newbyteorder("<")))


def files_of_series(folder: pathlib.Path, series_uids: set[str]) -> dict[pathlib.Path, str]:
    """File → SOP instance UID of the files of some series below a folder.

    Raises:
      InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"--input: {folder}: no such folder")
    found = {}
    paths = dicom_folder.find_files(folder)
    with progress(f"looking through {folder}", total=len(paths), unit="files") as bar:
        for path in paths:
            bar.advance()
            with contextlib.suppress(Exception):  # other or broken files, without a listed slice
                header = pydicom.dcmread(path, stop_before_pixels=True,
                                         specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
                if header.get("SeriesInstanceUID") in series_uids:
                    found[path] = str(header.get("SOPInstanceUID"))
    return found


def check(folder: pathlib.Path, *, output: pathlib.Path | None, splits: tuple[str, ...]
          ) -> tuple[int, list[str]]:
    """Compares the slices below a folder with `open_ct.csv`, and copies the right ones.

    Args:
      folder: of DICOM files, in any order.
      output: folder to make; None copies nothing.
      splits: some of `SPLITS`.

    Returns:
      Number of right slices; and a line on each that is missing or has other pixels.

    Raises:
      InputError: there is no such folder, or the output exists.
      OSError: a file cannot be written.
    """
    wanted = [each for each in read_manifest() if each.split in splits]
    if output is not None:
        refuse_existing(output)
    files = files_of_series(folder, {each.series_uid for each in wanted})
    by_pixels: dict[str, pathlib.Path] = {}
    problems = {}
    with progress("comparing pixels", total=len(files), unit="slices") as bar:
        for path, sop_uid in files.items():
            bar.advance()
            try:
                by_pixels.setdefault(pixels_sha256(path), path)
                problems[sop_uid] = f"{path}: other pixels than in open_ct.csv"
            except InputError as error:
                problems[sop_uid] = str(error)
    wrong = []
    for each in wanted:
        source = by_pixels.get(each.pixels_sha256)
        if source is None:
            wrong.append(problems.get(each.sop_uid) or (
                f"missing: {each.file}: {each.collection}, series {each.series_uid}, SOP instance "
                f"{each.sop_uid}"))
        elif output is not None:
            target = output / each.file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return len(wanted) - len(wrong), wrong


_INPUT = flags.DEFINE_string("input", None, "Folder of DICOM files.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make, for the slices in their places.")
_SPLITS = flags.DEFINE_list("splits", list(SPLITS), f"Which: {', '.join(SPLITS)}.")


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options start with --")
    if not _INPUT.value:
        raise InputError("--input is missing; expected a folder of DICOM files")
    for split in _SPLITS.value:
        if split not in SPLITS:
            raise InputError(f"--splits has {split!r}; expected some of {', '.join(SPLITS)}")
    output = None if _OUTPUT.value is None else pathlib.Path(_OUTPUT.value)
    right, wrong = check(pathlib.Path(_INPUT.value), output=output, splits=tuple(_SPLITS.value))
    for line in wrong:
        print(line)
    counts = collections.Counter(line.split(":")[0] == "missing" for line in wrong)
    print(f"{right} slices as listed, {counts[True]} missing, {counts[False]} of other pixels"
          + (f"; copied to {output}" if output is not None and right else ""))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    try:
        app.run(main)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
