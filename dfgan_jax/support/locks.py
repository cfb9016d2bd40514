"""Locks of folders and files, for one process at a time."""

import contextlib
import datetime
import errno
import os
import pathlib
import re
import socket
import sys
from collections.abc import Iterator
from typing import IO

from dfgan_jax.support.errors import InputError, ProcessError
from dfgan_jax.support.full_disk import full_disk_named

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


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
            is_ours = opened.enter_context(lock_of_folder(folder))
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
def lock_of_folder(folder: pathlib.Path) -> Iterator[bool]:
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
