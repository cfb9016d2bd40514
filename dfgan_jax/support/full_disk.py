"""The errors of a full disk."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a full disk, or of one's full share of it."""


@contextlib.contextmanager
def full_disk_named(path: pathlib.Path) -> Iterator[None]:
    """Adds a file's name to the error of a full disk or quota, which has none."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK and error.filename is None:
            error.filename = str(path)
        raise
