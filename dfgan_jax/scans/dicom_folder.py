"""The CT slices and other files of a folder of DICOM files."""

import collections
import os
import pathlib

from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import progress


def find_files(root: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder, sorted; `root` itself if it is a file."""
    if root.is_file():
        return [root]
    return sorted(pathlib.Path(folder, name)
                  for folder, _, names in os.walk(root, onerror=_raise) for name in names)


def _raise(error: OSError) -> None:
    raise error


class DicomFolder:
    """The CT slices, files of other kinds and broken files of a folder.

    Attributes:
      headers: of the CT slices.
      skipped: path → reason, of sound files that are no CT slices.
      broken: path → reason.

    Raises:
      InputError: the folder has no CT slice.
    """

    def __init__(self, root: pathlib.Path):
        self.headers: list[SliceHeader] = []
        self.skipped: dict[pathlib.Path, str] = {}
        self.broken: dict[pathlib.Path, str] = {}
        paths = find_files(root)
        with progress(f"looking through {root}", total=len(paths), unit="files") as bar:
            for path in paths:
                try:
                    self.headers += dicom.read_headers(path)
                except InputError as error:
                    self.refuse(path, error)
                bar.advance()
        if not self.headers:
            raise InputError(f"{root}: no CT slice among {len(paths)} files"
                             + "".join(f"; {line}" for line in self.lines()))

    def refuse(self, path: pathlib.Path, error: InputError) -> None:
        """Counts a file as skipped or broken."""
        reasons = self.skipped if isinstance(error, NotACTSlice) else self.broken
        reasons[path] = str(error).removeprefix(f"{path}: ")

    def is_refused(self, path: pathlib.Path) -> bool:
        """Whether a file counts as skipped or broken."""
        return path in self.skipped or path in self.broken

    def lines(self) -> list[str]:
        """The kinds of skipped files with their numbers, and the names of broken ones."""
        kinds = collections.Counter(self.skipped.values())
        lines = [f"skipped {count} × {kind}" for kind, count in kinds.most_common()]
        shown = list(self.broken.items())[:20]
        lines += [f"broken: {path}: {why}" for path, why in shown]
        if len(self.broken) > len(shown):
            lines.append(f"and {len(self.broken) - len(shown)} more broken files")
        return lines
