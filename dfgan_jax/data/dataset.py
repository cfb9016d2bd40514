"""Files of pairs for training, with a manifest of the source of each slice.

Pairs are divided by patient, so that no near-copy of a slice that was trained on is scored.
"""

import collections
import contextlib
import csv
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from dfgan_jax.data.pairs_file import write_slices
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.digests import text_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import check_writable, refuse_existing, written_whole
from dfgan_jax.support.progress import progress
from dfgan_jax.support.threads import call_ahead
from dfgan_jax.support.wording import counted, printable

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A pair before its pixels are read.

    Attributes:
      patient: name; a patient's pairs are in one split.
      ndct_digest: of the normal dose's pixels.
      qdct_digest: of the low dose's pixels, or of the data that determine them.
      source: name of the file, for messages.
      shape: (H, W).
      manifest: further columns of the manifest.
      read: returns the normal and the low dose, (H, W) float32, HU.
    """

    patient: str
    ndct_digest: str
    qdct_digest: str
    source: str
    shape: tuple[int, int]
    manifest: dict[str, object]
    read: Callable[[], tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]]


def _adding_up_to_one(text: str) -> tuple[float, ...]:
    """Numbers of 0 or more, separated by commas, which add up to 1; empty for any other text."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return shares if min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6 else ()


def parse_split(text: str) -> tuple[float, ...]:
    """The shares of train, valid and test, such as `0.7,0.1,0.2`.

    Raises:
      InputError: the text is not three numbers of 0 or more that add up to 1.
    """
    shares = _adding_up_to_one(text)
    if len(shares) != 3:
        raise InputError(f"split is {text!r}; expected the shares of {', '.join(SPLITS)}, such "
                         "as 0.7,0.1,0.2, which add up to 1")
    return shares


def parse_shares(text: str, files: Sequence[str], *, name: str) -> tuple[float, ...]:
    """The shares of some files, such as `0.7,0.3`.

    Args:
      text: a number above 0 for each file, separated by commas, which add up to 1.
      files: one for each share.
      name: of the field, for errors.

    Raises:
      InputError: the text has another form.
    """
    shares = _adding_up_to_one(text)
    if len(shares) != len(files) or 0 in shares:
        raise InputError(f"{name} is {text!r}; expected a share above 0 for each of the "
                         f"{counted(len(files), 'file')} ({', '.join(files) or 'none is given'}), "
                         "which add up to 1")
    return shares


def split_patients(patients: Iterable[str], shares: Sequence[float]) -> dict[str, str]:
    """Assigns each patient to a split; each split with a share gets at least one.

    The order is that of the names' digests and depends on nothing else.

    Args:
      patients: names.
      shares: of `SPLITS`, which add up to 1.

    Returns:
      Patient → split.

    Raises:
      InputError: there are fewer patients than splits.
    """
    names = sorted(set(patients), key=text_digest)
    wanted = [index for index, share in enumerate(shares) if share > 0]
    if len(names) < len(wanted):
        raise InputError(f"split: {counted(len(names), 'patient')} "
                         f"({', '.join(sorted(names)[:5])}) cannot be divided into {len(wanted)} "
                         "splits; a patient's slices belong to one split. A share of 0, as in "
                         "0.8,0.2,0, leaves a split out. If several patients share an ID, use "
                         "patients=study or patients=folder")
    counts = [1 if share > 0 else 0 for share in shares]
    while sum(counts) < len(names):  # the next to the split that lacks most of its share
        lack = [share * len(names) - count for share, count in zip(shares, counts, strict=True)]
        counts[int(np.argmax(lack))] += 1
    split_of = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(names, split_of, strict=True))


def without_duplicates(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Drops pairs with the low dose of an earlier pair.

    Returns:
      The remaining pairs, and a note in words on each dropped one.

    Raises:
      InputError: two patients share the pixels of a dose.
    """
    owners: dict[str, Entry] = {}
    first: dict[str, Entry] = {}
    notes = []
    for entry in entries:
        for digest in (entry.ndct_digest, entry.qdct_digest):
            other = owners.setdefault(digest, entry)
            if other.patient != entry.patient:
                raise InputError(f"{entry.source} of patient {entry.patient!r} holds pixels of "
                                 f"{other.source} of patient {other.patient!r}: one patient under "
                                 "two names, whose slices could be in two splits")
        other = first.setdefault(entry.qdct_digest, entry)
        if other is not entry:
            notes.append(f"{entry.source} left out: the same pixels as {other.source}")
    return list(first.values()), notes


def of_other_sizes(sizes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """The slices that do not fit into a file of the others, since a file holds one size.

    Args:
      sizes: name → height and width.

    Returns:
      Name → reason, of each slice that does not have the size of most slices.
    """
    counts = collections.Counter(sizes.values())
    usual = max(counts, key=counts.__getitem__, default=(0, 0))
    return {name: f"is {size[0]}×{size[1]}, and most slices are {usual[0]}×{usual[1]}; a file "
                  "holds one size: take the folders apart"
            for name, size in sizes.items() if size != usual}


def outputs_of(output: pathlib.Path, shares: Sequence[float] | None) -> dict[str, pathlib.Path]:
    """The outputs of `write_dataset`: split → file, and `manifest`.

    Raises:
      InputError: a file exists, the name does not fit a file or a folder, or the folder cannot
        be written.
    """
    if shares is None:
        if output.suffix != ".npy":
            raise InputError(f"{output}: expected a name that ends in .npy; with a split, a folder")
        paths = {"": output, "manifest": output.with_suffix(".manifest.csv")}
    else:
        if output.suffix == ".npy":
            raise InputError(f"{output}: expected the name of a folder, since a split is given")
        paths = {split: output / f"{split}.npy" for split in SPLITS}
        paths["manifest"] = output / "manifest.csv"
    for path in paths.values():
        refuse_existing(path)
    check_writable(paths["manifest"].parent)
    return {split: path for split, path in paths.items()
            if split not in SPLITS or shares is None or shares[SPLITS.index(split)] > 0}


def write_dataset(output: pathlib.Path, entries: Sequence[Entry], *,
                  shares: Sequence[float] | None, description: str) -> dict[str, int]:
    """Writes pairs in the published format, a file for each split, and a manifest.

    The manifest is a CSV with a row for each slice. It gets its name last: a manifest shows that
    all files are complete. After an error no file is left.

    Args:
      output: `.npy` file; with `shares`, a folder for train, valid and test.npy.
      entries: of one size (`of_other_sizes`); read one after another.
      shares: of the splits; None for one file.
      description: of the work, for its progress.

    Returns:
      File → number of slices.

    Raises:
      InputError: an output exists, a pair cannot be read, or patients cannot be
        divided.
      OSError: a file cannot be written.
    """
    paths = outputs_of(output, shares)
    shape = entries[0].shape
    split_of = ({entry.patient: "" for entry in entries} if shares is None
                else split_patients((entry.patient for entry in entries), shares))
    parts = {split: [entry for entry in entries if split_of[entry.patient] == split]
             for split in paths if split != "manifest"}
    with (contextlib.ExitStack() as undo, written_whole(paths["manifest"]) as manifest,
          progress(description, total=len(entries), unit="slices") as bar):
        for split, part in parts.items():
            undo.callback(paths[split].unlink, missing_ok=True)

            def pairs(part: list[Entry] = part) -> Iterator[tuple[np.ndarray, np.ndarray]]:
                with contextlib.closing(call_ahead(entry.read for entry in part)) as results:
                    for result in results:
                        ndct, qdct = result()
                        yield hounsfield.hu_to_mu(ndct), hounsfield.hu_to_mu(qdct)
                        bar.advance()

            write_slices(paths[split], pairs(), count=len(part), shape=shape)
        _write_manifest(manifest, parts)
        undo.pop_all()
    return {str(paths[split]): len(part) for split, part in parts.items()}


def read_manifest(path: pathlib.Path, count: int) -> list[dict[str, str]] | None:
    """The row of each slice of a file of pairs, from the manifest beside it.

    The manifest is `NAME.manifest.csv` beside `NAME.npy`, or the rows of `manifest.csv` in its
    folder whose `split` is NAME; both have the columns `index` (of the slice, from 0) and
    `patient`.

    Args:
      path: `.npy` file.
      count: number of its slices.

    Returns:
      Column → text for each slice, in order; None without a manifest.

    Raises:
      InputError: the manifest does not have one row for each slice, with its patient; or a pixel
        pitch, dose or thickness is impossible.
    """
    for manifest, split in ((path.with_suffix(".manifest.csv"), None),
                            (path.parent / "manifest.csv", path.stem)):
        if not manifest.is_file():
            continue
        try:
            with manifest.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader
                        if split is None or (row.get("split") or "") == split]
        except UnicodeDecodeError as error:
            raise InputError(f"{manifest}: not in UTF-8 ({error})") from error
        missing = {"index", "patient"} - set(reader.fieldnames or ())
        if missing:
            raise InputError(f"{manifest}: has the columns {', '.join(reader.fieldnames or ())}, "
                             "separated by commas; expected index and patient among them")
        if not rows and split is not None:
            continue  # the manifest of other files in the folder
        row_of = {row.get("index"): row for row in rows}
        in_order = [row_of.get(str(index), {}) for index in range(count)]
        if len(rows) != count or not all((row.get("patient") or "").strip() for row in in_order):
            raise InputError(f"{manifest}: {counted(len(rows), 'row')} for the "
                             f"{counted(count, 'slice')} of {path}; expected one for each, with "
                             "its index, from 0, and a patient")
        for row in in_order:
            _check_numbers(manifest, row)
        return in_order
    return None


_BOUNDS: Final = {"pixel_spacing_mm": (0.0, math.inf), "dose_fraction": (0.0, 1.0),
                  # Some DICOM files have a thickness of 0 or below.
                  "thickness_mm": (-math.inf, math.inf), "location_mm": (-math.inf, math.inf)}
"""Column of a manifest that is read as a number → its bounds, which are not among its values."""


def _check_numbers(manifest: pathlib.Path, row: Mapping[str, str]) -> None:
    """Refuses texts and impossible values in the columns that are read as numbers."""
    for column, (lowest, highest) in _BOUNDS.items():
        if not (text := row.get(column)):
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest < value < highest:
            limits = [f"{word} {bound:g}" for word, bound in (("above", lowest), ("below", highest))
                      if math.isfinite(bound)]
            raise InputError(f"{manifest}: {column} of index {row['index']} is {printable(text)}; "
                             f"expected {' '.join(['a number', ' and '.join(limits)]).strip()}, "
                             "or nothing")


def _write_manifest(path: pathlib.Path, parts: dict[str, list[Entry]]) -> None:
    rows = [{"split": split, "index": index, "patient": entry.patient, **entry.manifest}
            for split, part in parts.items() for index, entry in enumerate(part)]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        # Columns differ between entries of DICOM files and of arrays.
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
