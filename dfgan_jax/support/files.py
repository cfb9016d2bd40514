"""Places of files, and writing that leaves no file half written."""

import contextlib
import datetime
import errno
import mmap
import os
import pathlib
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np
from jaxtyping import Shaped

from dfgan_jax.support.errors import InputError, ProcessError

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{16}")
"""A name beside that of a file which is being written; see `_temporary`."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a full disk, or of one's full share of it."""


def user_cache() -> pathlib.Path:
    """The folder of files that can be made again: ~/.cache/dfgan_jax, or below XDG_CACHE_HOME.

    Raises:
      RuntimeError: there is neither a home nor XDG_CACHE_HOME.
    """
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache",
                        "dfgan_jax")


def expanded(text: str) -> str:
    """A path as the user means it, with its home for `~`, which shells expand only at the start.

    A path that exists as it is, or of a user without a home, stays.
    """
    return text if not text.startswith("~") or os.path.lexists(text) else os.path.expanduser(text)


def one_or_several(parts: Sequence[str]) -> list[str]:
    """The paths of a text that commas separate: one, if the whole is the path of a file or folder.

    Args:
      parts: of the text, between its commas.
    """
    whole = expanded(",".join(parts))
    return [whole] if len(parts) > 1 and os.path.exists(whole) else list(map(expanded, parts))


def refuse_url(text: str, *, name: str) -> None:
    """Refuses a URL, such as gs://bucket/run, which would become a path below the folder `gs:`.

    Args:
      text: one path or several.
      name: of the flag or field, for the message.

    Raises:
      InputError: it is a URL.
    """
    if "://" in text:
        raise InputError(f"{name} is {text!r}; expected a path in a mounted file system: a bucket "
                         "has to be mounted first, or its files copied")


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


def release_pages(array: Shaped[np.ndarray, "..."]) -> None:
    """Releases the pages of a mapped file, which otherwise count as this process's memory.

    Written values are kept; later accesses read from the file again.

    Args:
      array: view of a mapping, or of a part of one; other arrays are left alone.
    """
    if (mapping := _mapping_of(array)) is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)  # not on Windows


def flush_pages(array: Shaped[np.ndarray, "..."]) -> None:
    """Writes what was changed in a mapped file to the file, which is then ready to be synced.

    Args:
      array: as for `release_pages`.
    """
    if (mapping := _mapping_of(array)) is not None:
        mapping.flush()


def _mapping_of(array: np.ndarray) -> mmap.mmap | None:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


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
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder and locks it for this process; its file `lock` names the process.

    The system releases the lock however the process ends. On a file system without locks the
    folder is not locked, and a warning is printed to stderr.

    Raises:
      InputError: another process of this machine holds the lock.
      ProcessError: one of another machine does. It may be gone with its machine, whose lock the
        file server keeps for a while.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+b", buffering=0) as file:
        try:
            is_ours = _lock(file)
        except OSError as error:
            _warn_unlocked(folder, error)
        else:
            if not is_ours:
                file.seek(0)
                holder = file.read().decode().strip() or "another run"
                if _may_be_elsewhere(holder):
                    raise ProcessError(
                        f"{folder}: in use by {holder}; wait until it has ended, or, once it is "
                        f"certain that no run does, remove {folder / 'lock'}")
                raise InputError(f"{folder}: in use by {holder}; wait until it has ended, or "
                                 "choose another workdir")
        with full_disk_named(folder / "lock"):
            file.truncate(0)
            file.write(
                f"process {os.getpid()} on {socket.gethostname()} since "
                f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')}\n".encode())
        yield


def _may_be_elsewhere(holder: str) -> bool:
    """Whether the holder of a lock, as its file names it, is no other process of this machine.

    A container on another machine may have this one's name, such as a pod that is started again.
    """
    named = re.match(r"process (\d+) on (\S+) since", holder)
    if named is None or named[2] != socket.gethostname() or int(named[1]) == os.getpid():
        return named is not None
    try:
        os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


@contextlib.contextmanager
def locked_itself(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder and locks it for this process, without a file in it.

    The folder may be renamed meanwhile; one that stays empty is removed. The system releases the
    lock however the process ends. On a file system without locks of folders, such as NFS, the
    folder is not locked, and a warning is printed to stderr.

    Raises:
      InputError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        try:
            is_ours = opened.enter_context(_lock_of_folder(folder))
        except OSError as error:
            _warn_unlocked(folder, error)
        else:
            if not is_ours:
                raise InputError(f"{folder}: another process is writing into it; wait until it has "
                                 "ended, or choose another output")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it has files, or another name
                folder.rmdir()


@contextlib.contextmanager
def one_at_a_time(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a file, which is made; waits while another process or thread holds it.

    The system releases the lock however its holder ends; the file stays. On a file system without
    locks nobody waits, and a warning is printed to stderr.

    Raises:
      OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            if not _lock(file):
                print(f"Waiting for the process that holds {path}", flush=True)
                _lock(file, waits=True)
        except OSError as error:
            print(f"warning: {path}: cannot be locked ({error}); other processes may do the same "
                  "work at once", file=sys.stderr, flush=True)
        yield


@contextlib.contextmanager
def _lock_of_folder(folder: pathlib.Path) -> Iterator[bool]:
    """Holds the lock of a folder; yields False where another holds it.

    Raises:
      OSError: it is no folder, or the file system has no locks of folders.
    """
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _warn_unlocked(folder: pathlib.Path, error: OSError) -> None:
    print(f"warning: {folder}: cannot be locked ({error}); see that no second run uses it",
          file=sys.stderr, flush=True)


def _lock(file: IO[bytes] | int, *, waits: bool = False) -> bool:
    """Locks a file until it is closed; False where another holds the lock, unless this waits.

    Raises:
      OSError: the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "no locks on this system")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


@contextlib.contextmanager
def full_disk_named(path: pathlib.Path) -> Iterator[None]:
    """Adds a file's name to the error of a full disk or quota, which has none."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK and error.filename is None:
            error.filename = str(path)
        raise


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
        with contextlib.suppress(OSError), _lock_of_folder(left) as is_ours:
            if is_ours:
                shutil.rmtree(left)
    folder = _temporary(path)
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            held.enter_context(_lock_of_folder(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """A name beside a path, which no other process has: process ids repeat between machines."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")
