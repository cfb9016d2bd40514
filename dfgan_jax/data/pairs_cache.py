"""A cache of preprocessed pairs on disk: a file is converted once and not at each start.

An entry is a folder: `ndct.npy` and `qdct.npy`, (N, H, W) float32 in normalised HU, mapped
into memory instead of read; and `entry.json`, with the source and the settings of the entry
and the digests that it is checked against.
"""

import contextlib
import io
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from dfgan_jax.data.overlap import slice_digests
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import PairsFile, read_pairs
from dfgan_jax.scans import hounsfield
from dfgan_jax.scans.resizing import resize
from dfgan_jax.support.digests import file_digest, json_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.locks import one_at_a_time
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.support.safe_pickle import reason
from dfgan_jax.support.types import JsonObject

_NDCT, _QDCT, _SIDECAR = "ndct.npy", "qdct.npy", "entry.json"

_ENTRY_VERSION = 2
"""Raise it with every change of an entry's content."""

PREPROCESSING_VERSION = 1
"""Part of the names of entries: raise it when a change of `preprocess` changes a pixel."""


class PreprocessedPairs(NamedTuple):
    """The content of an entry of the cache."""

    pairs: Pairs
    """In normalised HU, mapped into memory: read-only, and read as they are used."""

    raw_ndct_digests: list[str]
    """`slice_digests` of the normal dose before preprocessing."""

    raw_qdct_digests: list[str]
    """The same of the quarter dose."""


def preprocess(mu: Float[np.ndarray, "*n h w"], *, size: int) -> Float32[np.ndarray, "*n h2 w2"]:
    """The published preprocessing: to HU, resized, normalised.

    Args:
      mu: (..., H, W) float32, linear attenuation [1/mm].
      size: height and width after the bilinear resize [pixels]; 0 keeps the native ones.

    Returns:
      (..., size, size) or (..., H, W) float32, normalised HU.
    """
    target = (size, size) if size else mu.shape[-2:]
    hu = resize(hounsfield.mu_to_hu(mu), target)
    return hounsfield.normalise(hu)


def read_preprocessed(path: str | os.PathLike[str], *, size: int, folder: pathlib.Path
                      ) -> PreprocessedPairs:
    """Reads a file in the published format, preprocessed; converts it at the first call only.

    The entry's name is a digest of the file and of everything else that determines a pixel: an
    entry is never stale. A damaged entry is reported to stderr and made again. Of several processes
    that need an entry at once, one makes it, and the others wait.

    Args:
      path: an `.npy` file.
      size: height and width after the bilinear resize [pixels]; 0 keeps the native ones.
      folder: of the cache.

    Raises:
      InputError: `read_pairs` or `PairsFile.blocks` refuses the file, or the cache cannot
        be written.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    made_from = {"entry": _ENTRY_VERSION, "source_sha256": file_digest(path), "size": size,
                 "preprocessing": PREPROCESSING_VERSION, "mu_water": hounsfield.MU_WATER,
                 "hu_offset": hounsfield.HU_OFFSET, "hu_scale": hounsfield.HU_SCALE}
    entry = folder / f"preprocessed-{json_digest(made_from)[:32]}"
    kept = _kept(entry)
    if kept is None:
        raw = read_pairs(path)
        with written_to_cache(folder), one_at_a_time(entry / "lock"):
            # Again: another process may have made it while this one waited.
            kept = _kept(entry, remade_from=path) or _write(entry, raw, size=size,
                                                            made_from=made_from)
    return kept


@contextlib.contextmanager
def written_to_cache(folder: pathlib.Path) -> Iterator[None]:
    """Reports errors of writing the cache, such as a full disk, in one line.

    Raises:
      InputError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: the cache cannot be written ({error.strerror or error}); "
                         "config.data.cache_dir puts it elsewhere") from error


def _kept(entry: pathlib.Path, *, remade_from: pathlib.Path | None = None
          ) -> PreprocessedPairs | None:
    """A whole entry; None where it is missing or damaged.

    Args:
      remade_from: damage is reported to stderr, with this file. None: it is not.
    """
    if not (entry / _SIDECAR).exists():
        return None
    try:
        return _load(entry)
    except (OSError, ValueError, KeyError, TypeError) as error:  # damage can take any form
        if remade_from is not None:
            print(f"{entry}: {reason(error)}; made again from {remade_from}", file=sys.stderr,
                  flush=True)
        return None


def _load(entry: pathlib.Path) -> PreprocessedPairs:
    """Checks the digests of an entry and maps it into memory; a damaged one raises some error."""
    sidecar = json.loads((entry / _SIDECAR).read_text())
    content = sidecar["content"]
    if sidecar["content_sha256"] != json_digest(content):
        raise ValueError(f"{_SIDECAR} was changed")
    for name in (_NDCT, _QDCT):
        if file_digest(entry / name) != content["sha256"][name]:
            raise ValueError(f"{name} was changed")
    return PreprocessedPairs(Pairs(_mapped(entry / _NDCT), _mapped(entry / _QDCT)),
                             content["raw_ndct_sha256"], content["raw_qdct_sha256"])


def _write(entry: pathlib.Path, raw: PairsFile, *, size: int, made_from: JsonObject
           ) -> PreprocessedPairs:
    """Makes an entry from a file of pairs, with one block at a time in memory."""
    raw_ndct_digests: list[str] = []
    raw_qdct_digests: list[str] = []
    # The sidecar, which completes the entry, is entered first and thus gets its name last.
    with (written_whole(entry / _SIDECAR) as sidecar, written_whole(entry / _NDCT) as ndct,
          written_whole(entry / _QDCT) as qdct):
        with (progress(f"preprocessing {raw.path.name}", total=2 * len(raw), unit="slices") as bar,
              ndct.open("wb") as ndct_file, qdct.open("wb") as qdct_file):
            for block in raw.blocks():
                raw_ndct_digests += slice_digests(block.ndct)
                raw_qdct_digests += slice_digests(block.qdct)
                _append_preprocessed(ndct_file, block.ndct, count=len(raw), size=size, bar=bar)
                _append_preprocessed(qdct_file, block.qdct, count=len(raw), size=size, bar=bar)
                del block  # else it would stay in memory beside the next one
        # Mapped under its temporary name: another process may replace the entry's files.
        pairs = Pairs(_mapped(ndct), _mapped(qdct))
        content = {"source": raw.path.name, "made_from": made_from, "shape": pairs.ndct.shape,
                   "sha256": {_NDCT: file_digest(ndct), _QDCT: file_digest(qdct)},
                   "raw_ndct_sha256": raw_ndct_digests, "raw_qdct_sha256": raw_qdct_digests}
        sidecar.write_text(json.dumps({"content": content, "content_sha256": json_digest(content)},
                                      indent=1) + "\n")
    return PreprocessedPairs(pairs, raw_ndct_digests, raw_qdct_digests)


def _append_preprocessed(file: io.BufferedIOBase, mu: Iterable[np.ndarray], *, count: int,
                         size: int, bar: Progress) -> None:
    """Writes slices of linear attenuation [1/mm] into an `.npy` of `count` preprocessed ones.

    Not through mapped memory: there, a full disk kills the process.
    """
    for one in mu:
        image = np.ascontiguousarray(preprocess(one, size=size), np.float32)
        if file.tell() == 0:
            np.lib.format.write_array_header_1_0(file, {
                "descr": image.dtype.str, "fortran_order": False,
                "shape": (count, *image.shape)})
        file.write(image.data)
        bar.advance()


def _mapped(path: pathlib.Path) -> np.ndarray:
    """An array mapped from its file, which NumPy and JAX take for a plain one."""
    return np.asarray(np.load(path, mmap_mode="r"))
