"""The CT slices, NIfTI volumes and other files of a folder."""

import collections
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final, NamedTuple

from dfgan_jax.scans import dicom, nifti
from dfgan_jax.scans.dicom_file import NPY, NotACTSlice
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import is_leftover
from dfgan_jax.support.progress import progress
from dfgan_jax.support.wording import counted

_MOST_NAMED: Final = 20

_MANY_FILES: Final = 2000
"""Fewer headers are read before the processes have started."""

_FILES_PER_CALL: Final = 16
"""Files whose headers a process reads at a time."""


class FoundFiles(NamedTuple):
    """The files below a folder, and those links below it that lead to no further file.

    Attributes:
      files: sorted.
      skipped: link → reason, of links to folders whose files are found without them.
      unreadable: path → reason, of links to nothing and of folders that cannot be read.
      folders: the real folder behind each link that was followed.
      leftovers: what killed runs have left, such as an unpacked volume; not among `files`.
    """

    files: list[pathlib.Path]
    skipped: dict[pathlib.Path, str]
    unreadable: dict[pathlib.Path, str]
    folders: list[pathlib.Path]
    leftovers: list[pathlib.Path]


def search(root: pathlib.Path) -> FoundFiles:
    """Looks for the files below a folder, also behind links to folders.

    Every folder is searched once: folders without a link before those behind links.

    Args:
      root: a folder; a file is the only one found.

    Raises:
      OSError: the folder cannot be read.
    """
    found = FoundFiles([], {}, {}, [], [])
    if root.is_file():
        return found._replace(files=[root])
    searched = set()
    links: list[pathlib.Path] = []
    waiting = [root]
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            status = folder.stat()
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise
            found.unreadable[folder] = error.strerror or str(error)
            continue
        identity = status.st_dev, status.st_ino
        if folder != root and folder.is_symlink():
            real = folder.resolve()
            if real in (here := folder.parent.resolve(), *here.parents):
                found.skipped[folder] = f"a link to {real}, a folder that it lies in"
                continue
            if identity not in searched:
                found.folders.append(real)
        if identity in searched:
            found.skipped[folder] = (f"the folder {folder.resolve()}, which is read under another "
                                     "name")
            continue
        searched.add(identity)
        for entry in entries:
            path = pathlib.Path(entry.path)
            if is_leftover(entry.name):
                found.leftovers.append(path)
            elif entry.is_symlink() and not path.exists():
                found.unreadable[path] = f"a link to {os.readlink(path)}, which leads to no file"
            elif entry.is_dir():
                (links if entry.is_symlink() else waiting).append(path)
            else:
                found.files.append(path)
    found.files.sort()
    return found


def find_files(root: pathlib.Path) -> list[pathlib.Path]:
    """The files of `search`."""
    return search(root).files


class DicomFolder:
    """The CT slices, files of other kinds and broken files of a folder, or of several.

    Args:
      root: a folder, or a file.
      more: other folders.
      processes: number of files → the processes that may read their headers, or None. They read
        them if there are `_MANY_FILES`.
      with_volumes: NIfTI files are `volumes`; otherwise they are skipped.

    Attributes:
      headers: of the CT slices.
      volumes: NIfTI files, by their names; they are not opened.
      skipped: path → reason, of sound files that are no CT slices.
      broken: path → reason.
      linked_folders: the real folder behind each link that was followed.

    Raises:
      InputError: no folder has a CT slice or a volume.
    """

    def __init__(self, root: pathlib.Path, *more: pathlib.Path,
                 processes: Callable[[int], ProcessPoolExecutor | None] = lambda number: None,
                 with_volumes: bool = False):
        self._with_volumes = with_volumes
        self.headers: list[SliceHeader] = []
        self.volumes: list[pathlib.Path] = []
        self.skipped: dict[pathlib.Path, str] = {}
        self.broken: dict[pathlib.Path, str] = {}
        self.linked_folders: list[pathlib.Path] = []
        self._links: dict[pathlib.Path, str] = {}
        self._without: dict[pathlib.Path, str] = {}
        found = {each: self._search(each) for each in (root, *more)}
        name = f"{root} and {len(more)} more" if more else str(root)
        count = sum(map(len, found.values()))
        pool = processes(count)
        none = "no CT slice or NIfTI volume" if with_volumes else "no CT slice"
        with progress(f"looking through {name}", total=count, unit="files") as bar:
            for folder, paths in found.items():
                before = len(self.headers) + len(self.volumes)
                volumes = [path for path in paths if with_volumes and _is_volume(path)]
                self.volumes += volumes
                bar.advance(len(volumes))
                others = sorted(set(paths) - set(volumes))
                for path, read in zip(others, _read_all(others, pool), strict=True):
                    if isinstance(read, InputError):
                        self.refuse(path, read)
                    else:
                        self.headers += read
                    bar.advance()
                if len(self.headers) + len(self.volumes) == before and not folder.is_file():
                    self._without[folder] = f"{none} among {counted(len(paths), 'file')}"
        if not self.headers and not self.volumes:
            self._without.clear()
            raise InputError(f"{name}: {none} among {counted(count, 'file')}"
                             + "".join(f"; {line}" for line in self.lines()))

    def _search(self, root: pathlib.Path) -> list[pathlib.Path]:
        """The files below a folder; remembers its links."""
        paths, skipped, unreadable, linked, leftovers = search(root)
        self.skipped |= skipped | dict.fromkeys(
            leftovers, "unfinished, of a run that was killed or is writing")
        self.broken |= unreadable
        self._links |= skipped | unreadable
        self.linked_folders += linked
        return paths

    def refuse(self, path: pathlib.Path, error: InputError) -> None:
        """Counts a file as skipped or broken."""
        reasons = self.skipped if isinstance(error, NotACTSlice) else self.broken
        reason = str(error).removeprefix(f"{path}: ")
        if reason == NPY and self._with_volumes:  # whose readers take arrays, too
            reason = "an .npy, which is read only if the file is named itself, not its folder"
        reasons[path] = reason

    def refused(self) -> dict[str, dict[str, str]]:
        """The skipped and the broken files with their reasons, as JSON."""
        return {"skipped": {str(path): why for path, why in self.skipped.items()},
                "broken": {str(path): why for path, why in self.broken.items()}}

    def refuse_all(self, refused: Mapping[str, Mapping[str, str]]) -> None:
        """Counts the files of `refused` of another process as skipped or broken, too."""
        self.skipped |= {pathlib.Path(path): why for path, why in refused["skipped"].items()}
        self.broken |= {pathlib.Path(path): why for path, why in refused["broken"].items()}

    def is_refused(self, path: pathlib.Path) -> bool:
        """Whether a file counts as skipped or broken."""
        return path in self.skipped or path in self.broken

    def lines(self) -> list[str]:
        """The kinds of skipped files with their numbers; links, broken files, idle folders."""
        kinds = collections.Counter(why for path, why in self.skipped.items()
                                    if path not in self._links)
        lines = [f"skipped {count} × {kind}" for kind, count in kinds.most_common()]
        broken = {path: why for path, why in self.broken.items() if path not in self._links}
        return [*self.link_lines(), *lines, *_named(broken, "broken", "broken files"),
                *_named(self._without, "skipped", "skipped folders")]

    def link_lines(self) -> list[str]:
        """The names of links whose files are not read, or not once more."""
        return _named(self._links, "skipped", "skipped links")


def _is_volume(path: pathlib.Path) -> bool:
    """Whether a file is NIfTI by its name, and none of the attributes that macOS puts beside."""
    return nifti.is_nifti(path) and not path.name.startswith("._")


def _read_all(paths: Sequence[pathlib.Path], processes: ProcessPoolExecutor | None
              ) -> Iterator[list[SliceHeader] | InputError]:
    """The headers of each file, or its fault."""
    if processes is None or len(paths) < _MANY_FILES:
        return map(_read_headers, paths)
    return processes.map(_read_headers, paths, chunksize=_FILES_PER_CALL)


def _read_headers(path: pathlib.Path) -> list[SliceHeader] | InputError:
    try:
        return dicom.read_headers(path)
    except InputError as error:
        return error


def _named(reasons: dict[pathlib.Path, str], word: str, plural: str) -> list[str]:
    lines = [f"{word}: {path}: {why}" for path, why in list(reasons.items())[:_MOST_NAMED]]
    left = len(reasons) - len(lines)
    return [*lines, f"and {left} more {plural}"] if left else lines
