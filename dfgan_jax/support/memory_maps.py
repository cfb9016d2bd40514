"""The pages of memory-mapped arrays."""

import mmap

import numpy as np
from jaxtyping import Shaped


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
