"""Places of files, and writing that leaves no file half written."""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.full_disk import full_disk_named
from dfgan_jax.support.locks import lock_of_folder

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{16}")
"""A name beside that of a file which is being written; see `_temporary`."""


def user_cache() -> pathlib.Path:
    """The folder of files that can be made again: ~/.cache/dfgan_jax, or below XDG_CACHE_HOME.

    Raises:
      RuntimeError: there is neither a home nor XDG_CACHE_HOME.
    """
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache",
                        "dfgan_jax")


def refuse_existing(path: pathlib.Path) -> None:
    """Refuses an output that would replace a file or folder.

    Raises:
      InputError: the path exists.
    """
    if path.exists():
        raise InputError(f"{path}: exists; choose another output, or remove it")


def check_writable(folder: pathlib.Path) -> None:
    """Refuses a folder that no file can be written into; the folder itself may be missing.

    Raises:
      InputError: its name is that of a file, or the rights are missing.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise InputError(f"{there}: is no folder; choose another output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: cannot be written into; choose another output")


def allocate(path: pathlib.Path, size: int) -> None:
    """Appends zeros to a file until it has `size` bytes.

    The file can then be mapped into memory and written: on a full disk, a write into a mapping
    of unallocated bytes would kill the process.

    Raises:
      OSError: the disk has less room.
    """
    block = bytes(2**22)
    with path.open("ab") as file:
        while (left := size - file.tell()) > 0:
            file.write(block[:left])


def allow_open_files(count: int) -> None:
    """Lets this process keep some more files open at once, as far as the system allows it."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count
        resource.setrlimit(resource.RLIMIT_NOFILE, (
            wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def is_leftover(name: str) -> bool:
    """Whether a file or folder has a name that ours have while we write beside them."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(paths: Iterable[pathlib.Path]) -> None:
    """Removes what a killed process left of `written_whole` and `scratch_beside` of some paths."""
    for path in _leftovers(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _leftovers(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    paths = set(paths)
    return [each for folder in {path.parent for path in paths} if folder.is_dir()
            for each in folder.iterdir() if (found := _LEFTOVER.fullmatch(each.name))
            and folder / found[1] in paths]


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, which is renamed to `path` at the end.

    The folder is made. A file at `path` is replaced; after an error it stays. Of several
    writers at once, the last one's file stays, whole. The file is on the disk before it has its
    name: after a power failure, no file of this name is cut off, or zeros.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with full_disk_named(path):
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: pathlib.Path) -> None:
    """Writes the names of a folder to the disk, where its file system can do this."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def scratch_beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside a file, for files as large: /tmp may be in memory.

    Those that killed processes left beside the same path are removed. Their locks, which ended
    with them, tell them from those in use; without locks all stay.
    """
    for left in _leftovers([path]):
        with contextlib.suppress(OSError), lock_of_folder(left) as is_ours:
            if is_ours:
                shutil.rmtree(left)
    folder = _temporary(path)
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            held.enter_context(lock_of_folder(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """A name beside a path, which no other process has: process ids repeat between machines."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")
