"""Untrusted files of pairs of slices, in the published format.

A file is an `.npy` that holds a pickled dict, as `np.save` writes it:
`{"f_nd": normal dose, "f_qd": quarter dose}`, each float32 (H, W, N) in linear
attenuation [1/mm]. It may be larger than memory: it is mapped and read in blocks of
slices, and written slice by slice.
"""

import dataclasses
import io
import math
import mmap
import os
import pathlib
import pickle
import pickletools
import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from dfgan_jax.data.pairs import Pairs
from dfgan_jax.scans import axes, hounsfield, units
from dfgan_jax.scans.npy_header import read_npy_header
from dfgan_jax.scans.unit_names import REDCNN
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.safe_pickle import (
    NUMPY_NAMES,
    BoundedReader,
    PickledArray,
    SafeUnpickler,
    reason,
)

NDCT_KEY, QDCT_KEY = "f_nd", "f_qd"

# Size of a block of one dose [bytes]. Published files have the slice axis innermost: each block
# passes through the whole file.
_BLOCK_BYTES = 2**28

# Attenuation of the densest metal stays below this [1/mm]; HU never do.
_MAX_MU = 10.0

# For values of other units below _MAX_MU. Those below the first are not even padding (-14,000 HU);
# those above the second are metal (4,200 HU), which takes a small share of any slice.
_MIN_MU, _METAL_MU, _METAL_SHARE = -0.25, 0.1, 0.05


@dataclasses.dataclass(frozen=True)
class PairsFile:
    """The pairs of a file, mapped into memory: paged in as they are used.

    Attributes:
      path: of the file.
      ndct: (N, H, W), normal dose in linear attenuation [1/mm]: floats of the file's type,
        read-only and not checked. One slice may touch all of the file; `blocks` reads all
        slices in fewer passes.
      qdct: the same of the quarter dose.
    """

    path: pathlib.Path
    ndct: Float[np.ndarray, "n h w"]
    qdct: Float[np.ndarray, "n h w"]
    _mapping: mmap.mmap

    def __len__(self) -> int:
        return len(self.ndct)

    def blocks(self) -> Iterator[Pairs]:
        """Yields checked blocks of the pairs in order, (n, H, W) in memory.

        Raises:
          InputError: values are not finite, or cannot be linear attenuation in 1/mm.
        """
        count = max(1, _BLOCK_BYTES // max(self.ndct[0].nbytes, self.qdct[0].nbytes))
        for start in range(0, len(self), count):
            part = slice(start, start + count)
            yield Pairs(self._block(NDCT_KEY, self.ndct, part),
                        self._block(QDCT_KEY, self.qdct, part))

    def _block(self, key: str, mapped: np.ndarray, part: slice) -> np.ndarray:
        source = mapped[part]
        block = np.empty(source.shape, source.dtype)
        # Copied in the order of the file: each page is read once a block.
        slowest = int(np.argmax(source.strides))
        for target, values in zip(np.moveaxis(block, slowest, 0), np.moveaxis(source, slowest, 0),
                                  strict=True):
            target[...] = values
            if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
                # Else read pages would count as this process's memory.
                self._mapping.madvise(mmap.MADV_DONTNEED)
        dense, least, most = 0, 0.0, 0.0
        for index, one in enumerate(block, part.start):
            lowest, highest = one.min(), one.max()
            if not (np.isfinite(lowest) and np.isfinite(highest)):
                raise InputError(f"{self.path}: {key} has a NaN or an infinity in slice {index}")
            if max(-lowest, highest) > _MAX_MU:
                raise InputError(f"{self.path}: {key} has values {lowest:g} to {highest:g} in "
                                 f"slice {index}; expected linear attenuation in 1/mm, where "
                                 f"water is {hounsfield.MU_WATER} (are they HU?)")
            dense += int(np.count_nonzero(one > _METAL_MU))
            least, most = min(least, float(lowest)), max(most, float(highest))
        if least < _MIN_MU or dense > _METAL_SHARE * block.size:
            like = (units.NAMES["dfgan"] if least < _MIN_MU else
                    f"{units.NAMES[REDCNN]}, or attenuation in 1/cm")
            raise InputError(f"{self.path}: {key} has values from {least:.4g} to {most:.4g}; "
                             f"expected {units.NAMES['mu']}; they look like {like}; HU become "
                             f"1/mm by HU * {hounsfield.MU_WATER} / 1000 + {hounsfield.MU_WATER}")
        return block.astype(np.float32, copy=False)


def holds_pairs(path: str | os.PathLike[str]) -> bool:
    """Whether an `.npy` holds an object, as in the published format, instead of an array.

    Raises:
      InputError: the file is no `.npy`, or is broken.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        return read_npy_header(path, file)[1] == np.dtype(object)


def _map_dict(path: pathlib.Path) -> tuple[dict[object, object], mmap.mmap]:
    """Maps the dict in an `.npy` file; of all names it resolves only those of NumPy arrays."""
    with path.open("rb") as file:
        shape, dtype = read_npy_header(path, file)
        if dtype != np.dtype(object) or shape != ():
            raise InputError(f"{path}: holds an array of shape {shape} and type {dtype}; expected "
                             f"a dict of {NDCT_KEY} and {QDCT_KEY}, saved by np.save")
        try:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            content = SafeUnpickler(BoundedReader(file), names=NUMPY_NAMES, mapping=mapping,
                                    allowed="NumPy arrays, dicts and plain values").load()
        except Exception as error:  # a broken pickle can raise anything, too
            raise InputError(f"{path}: refused, or truncated: {reason(error)}") from error
    if isinstance(content, PickledArray):  # np.save puts the dict into an array of one object
        content = content.value
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}; expected a dict of {NDCT_KEY} "
                         f"and {QDCT_KEY}")
    return {key: value.value if isinstance(value, PickledArray) else value
            for key, value in content.items()}, mapping


def read_pairs(path: str | os.PathLike[str]) -> PairsFile:
    """Opens a file in the published format; `PairsFile.blocks` reads and checks the values.

    Args:
      path: an `.npy` file.

    Returns:
      The pairs, mapped. Those of a file of a pickle protocol below 3 are in memory.

    Raises:
      InputError: the file is missing, broken or hostile; a key is missing; shapes
        differ, are not (H, W, N), or have no slice; values are not floats.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    content, mapping = _map_dict(path)
    arrays = []
    for key in (NDCT_KEY, QDCT_KEY):
        if key not in content:
            raise InputError(f"{path}: has no key {key!r}, but "
                             f"{sorted(name for name in content if isinstance(name, str))}")
        array = content[key]
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"{path}: {key} is {kind}; expected an array of float32")
        if array.ndim != 3 or 0 in array.shape:
            raise InputError(f"{path}: {key} has shape {array.shape}; expected (H, W, N) with at "
                             "least one slice")
        arrays.append(array)
    if arrays[0].shape != arrays[1].shape:
        raise InputError(f"{path}: {NDCT_KEY} has shape {arrays[0].shape}, {QDCT_KEY} "
                         f"{arrays[1].shape}; expected the same")
    _check_axes(path, arrays)
    ndct, qdct = (np.moveaxis(array, -1, 0) for array in arrays)
    return PairsFile(path, ndct, qdct, mapping)


def _check_axes(path: pathlib.Path, arrays: Sequence[np.ndarray]) -> None:
    """Refuses arrays that look like (N, H, W).

    Slices that differ in height and width, and are as many as these are wide, lie one after the
    other in files of this package, and so in Fortran's order.
    """
    first, second, third = shape = arrays[0].shape
    is_ours = all(array.flags.f_contiguous for array in arrays)
    if axes.look_like_nhw(shape) or (axes.only_first_differs(shape) and not is_ours):
        remedy = "" if is_ours else "; arrays that are (H, W, N) are taken from np.asfortranarray"
        raise InputError(f"{path}: {NDCT_KEY} and {QDCT_KEY} have shape {shape}; expected "
                         f"(H, W, N), {third} slices of {first}×{second}; they look like "
                         f"(N, H, W), {first} slices of {second}×{third}: np.moveaxis(array, 0, "
                         f"-1) exchanges the axes{remedy}")


def write_pairs(path: str | os.PathLike[str], pairs: Pairs) -> None:
    """Writes pairs in the published format, whole or not at all; see `write_slices`.

    Args:
      path: of the `.npy` file; replaced if it exists.
      pairs: in linear attenuation [1/mm].
    """
    write_slices(path, zip(pairs.ndct, pairs.qdct, strict=True), count=len(pairs),
                 shape=pairs.ndct.shape[1:])


def write_slices(path: str | os.PathLike[str], slices: Iterable[Sequence[Float[np.ndarray, "..."]]],
                 *, count: int, shape: tuple[int, ...]) -> None:
    """Writes pairs in the published format one by one, whole or not at all.

    One pair is in memory at a time. `np.load(path, allow_pickle=True).item()` returns the
    dict; its arrays are Fortran-ordered, so that one slice follows the other in the file.

    Args:
      path: of the `.npy` file; replaced if it exists.
      slices: normal and quarter dose of each slice, (H, W) float32 in linear attenuation
        [1/mm].
      count: number of pairs.
      shape: (H, W), of each slice.

    Raises:
      ValueError: there are fewer or more pairs, or one has another shape.
      OSError: the file cannot be written, as on a full disk.
    """
    slice_bytes = 4 * math.prod(shape)
    with written_whole(pathlib.Path(path)) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()})
        starts = []
        for part in _pickled_around((*shape, count)):
            file.write(part)
            starts.append(file.tell())
            file.seek(count * slice_bytes, io.SEEK_CUR)
        written = 0
        for pair in slices:
            if written == count:
                raise ValueError(f"more than the {count} slices expected came")
            if any(one.shape != shape for one in pair):
                raise ValueError(f"slice {written} has shapes {[one.shape for one in pair]}; "
                                 f"expected {shape}")
            for start, one in zip(starts[:2], pair, strict=True):
                file.seek(start + written * slice_bytes)
                file.write(np.ascontiguousarray(one.T, "<f4").data)
            written += 1
        if written < count:
            raise ValueError(f"only {written} slices came; expected {count}")


def _pickled_around(shape: tuple[int, ...]) -> tuple[bytes, bytes, bytes]:
    """The parts of the published dict's pickle before, between and after its arrays' bytes.

    The arrays are float32 and Fortran-ordered.
    """
    def plain(value: object) -> bytes:
        # Without protocol, STOP and memo, which belong to the whole pickle.
        return pickletools.optimize(pickle.dumps(value, protocol=3))[2:-1]

    # An array is made empty; its state (version, shape, dtype, is_fortran, content) follows. The
    # name of its maker is known to older and newer NumPy.
    array = (pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n"
             + plain((np.ndarray, (0,), b"b")) + pickle.REDUCE + pickle.MARK + plain(1))
    numbers = (array + plain(shape) + plain(np.dtype("<f4")) + pickle.NEWTRUE
               + pickle.BINBYTES8 + struct.pack("<Q", 4 * math.prod(shape)))
    made = pickle.TUPLE + pickle.BUILD
    # np.save puts the dict into an array of one object.
    before = (pickle.PROTO + b"\x04" + array + plain(()) + plain(np.dtype(object))
              + pickle.NEWFALSE + pickle.EMPTY_LIST + pickle.EMPTY_DICT + pickle.MARK
              + plain(NDCT_KEY) + numbers)
    return (before, made + plain(QDCT_KEY) + numbers,
            made + pickle.SETITEMS + pickle.APPEND + made + pickle.STOP)
