"""Where files go, and writing them so that they are never half there and never lost."""

import contextlib
import datetime
import errno
import hashlib
import json
import mmap
import os
import pathlib
import re
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dfgan_jax.support.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def user_cache() -> pathlib.Path:
    """The folder that keeps what can be made again: ~/.cache/dfgan_jax, or as XDG says."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache",
                        "dfgan_jax")


def refuse_existing(path: pathlib.Path) -> None:
    """Refuses an output that would replace something.

    Raises:
      InputError: the path exists.
    """
    if path.exists():
        raise InputError(f"{path}: exists; choose another output, or remove it")


def file_digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """The SHA-256 of a JSON value, in hexadecimal digits; the order of names is nothing to it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def arrays_digest(arrays: Iterable[tuple[str, Any]]) -> str:
    """The SHA-256 of arrays' names, types, shapes and values in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for name, values in arrays:
        array = np.asarray(values)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_writable(folder: pathlib.Path) -> None:
    """Refuses a folder, which may not be there yet, that no file could be written into.

    Raises:
      InputError: something else stands at its name, or the rights are missing.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise InputError(f"{there}: is no folder; choose another output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: cannot be written into; choose another output")


def allocate(path: pathlib.Path, size: int) -> None:
    """Appends zeros to a file until it has `size` bytes.

    What is then mapped into memory can be written: on a full disk, a write into a mapping
    of bytes that are not there would kill the process.

    Raises:
      OSError: the disk has less room.
    """
    block = bytes(2**22)
    with path.open("ab") as file:
        while (left := size - file.tell()) > 0:
            file.write(block[:left])


def release_pages(array: np.ndarray) -> None:
    """Lets go of the pages of a mapped file, which else count as this process's memory.

    What was written into them is kept, and what is asked for again is read again.

    Args:
      array: on a mapping, or on a part of one.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        base.madvise(mmap.MADV_DONTNEED)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what `written_whole` left below a folder when its process was killed."""
    for path in folder.rglob(".*"):
        if re.search(r"\.[0-9a-f]{16}$", path.name):
            path.unlink()


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder, which is made, for this process alone; the file `lock` in it says whose.

    The system lets go of it however the process ends. Where the file system has no locks,
    stderr says so.

    Raises:
      InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+b", buffering=0) as file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOLCK, "no locks on this system")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                holder = file.read().decode().strip() or "another run"
                raise InputError(f"{folder}: in use by {holder}; wait until it has ended, or "
                                 "choose another workdir") from error
            print(f"warning: {folder}: cannot be locked ({error}); see that no second run uses it",
                  file=sys.stderr, flush=True)
        with full_disk_named(folder / "lock"):
            file.truncate(0)
            file.write(
                f"process {os.getpid()} on {socket.gethostname()} since "
                f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')}\n".encode())
        yield


@contextlib.contextmanager
def full_disk_named(path: pathlib.Path) -> Iterator[None]:
    """Has the error of a full disk, which tells of no file, name what was written to."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which becomes `path` when all went well.

    Its folder is made. What stood at `path` is replaced; after an error it stays. Of
    several writers at once, the last one's file stays, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process ids repeat between the machines and containers that share a folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with full_disk_named(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
