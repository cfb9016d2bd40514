"""Pairs of slices in the published file format, read without trusting the file.

A file is an `.npy` that holds a pickled dict, as `np.save` writes it:
`{"f_nd": normal dose, "f_qd": quarter dose}`, each float32 (H, W, N) in linear
attenuation [1/mm].
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dfgan_jax.ct import hounsfield
from dfgan_jax.errors import InputError
from dfgan_jax.files import written_whole
from dfgan_jax.safe_pickle import NUMPY_NAMES, BoundedReader, PickledArray, SafeUnpickler, reason

NDCT_KEY, QDCT_KEY = "f_nd", "f_qd"

PREPROCESSING_VERSION = 1
"""Raise it with every change of `preprocess` that changes a pixel: caches are named by it."""

# Attenuation of the densest metal stays below this [1/mm]; HU never do.
_MAX_MU = 10.0


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Slices of two doses, index by index the same anatomy.

    Attributes:
      ndct: (N, H, W) float32, normal dose; unit as the function that made them says.
      qdct: (N, H, W) float32, quarter dose.
    """

    ndct: np.ndarray
    qdct: np.ndarray

    def __len__(self) -> int:
        return len(self.ndct)

    def fingerprint(self) -> str:
        """Names the pairs: their shape and every eighth pixel of every eighth row."""
        digest = hashlib.sha256(str(self.ndct.shape).encode())
        for slices in (self.ndct, self.qdct):
            digest.update(np.ascontiguousarray(slices[:, ::8, ::8]).data)
        return digest.hexdigest()


def _read_dict(path: pathlib.Path) -> dict[Any, Any]:
    """Reads the dict in an `.npy` file, resolving no name but those of NumPy arrays."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                           (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read_header(file)
        except Exception as error:  # a broken header can raise anything; nothing is swallowed
            raise InputError(f"{path}: not an .npy file, or a broken one ({reason(error)})"
                             ) from error
        if dtype != np.dtype(object) or shape != ():
            raise InputError(f"{path}: holds an array of shape {shape} and type {dtype}; expected "
                             f"a dict of {NDCT_KEY} and {QDCT_KEY}, saved by np.save")
        try:
            content = SafeUnpickler(BoundedReader(file), names=NUMPY_NAMES,
                                    allowed="NumPy arrays, dicts and plain values").load()
        except Exception as error:  # nor can it be told what a broken pickle raises
            raise InputError(f"{path}: refused, or truncated: {reason(error)}") from error
    if isinstance(content, PickledArray):  # np.save puts the dict into an array of one object
        content = content.value
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}; expected a dict of {NDCT_KEY} "
                         f"and {QDCT_KEY}")
    return {key: value.value if isinstance(value, PickledArray) else value
            for key, value in content.items()}


def read_pairs(path: str | os.PathLike) -> Pairs:
    """Reads a file in the published format.

    Args:
      path: an `.npy` file.

    Returns:
      The pairs in linear attenuation [1/mm].

    Raises:
      InputError: the file is missing, broken or hostile; a key is missing; shapes
        differ, are not (H, W, N), or hold no slice; values are not finite floats or
        cannot be linear attenuation.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    content = _read_dict(path)
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
    for key, array in zip((NDCT_KEY, QDCT_KEY), arrays, strict=True):
        for index in range(array.shape[-1]):
            lowest, highest = array[..., index].min(), array[..., index].max()
            if not (np.isfinite(lowest) and np.isfinite(highest)):
                raise InputError(f"{path}: {key} has a NaN or an infinity in slice {index}")
            if max(-lowest, highest) > _MAX_MU:
                raise InputError(f"{path}: {key} has values {lowest:g} to {highest:g} in slice "
                                 f"{index}; expected linear attenuation in 1/mm, where water is "
                                 f"{hounsfield.MU_WATER} (are they HU?)")
    ndct, qdct = (np.ascontiguousarray(np.moveaxis(array, -1, 0), np.float32) for array in arrays)
    return Pairs(ndct, qdct)


def write_pairs(path: str | os.PathLike, pairs: Pairs) -> None:
    """Writes pairs in the published format, whole or not at all.

    Args:
      path: of the `.npy` file; replaced if it exists.
      pairs: in linear attenuation [1/mm].
    """
    content = {NDCT_KEY: np.ascontiguousarray(np.moveaxis(pairs.ndct, 0, -1), np.float32),
               QDCT_KEY: np.ascontiguousarray(np.moveaxis(pairs.qdct, 0, -1), np.float32)}
    with written_whole(pathlib.Path(path)) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def preprocess(mu: np.ndarray, *, size: int) -> np.ndarray:
    """The published preprocessing: to HU, resized, normalised.

    Args:
      mu: (..., H, W) float32, linear attenuation [1/mm].
      size: height and width after the bilinear resize [pixels]; 0 keeps the native ones.

    Returns:
      (..., size, size) or (..., H, W) float32, normalised HU.
    """
    target = (size, size) if size else mu.shape[-2:]
    return hounsfield.normalise(hounsfield.resize(hounsfield.mu_to_hu(mu), target))


def slice_digests(slices: np.ndarray) -> list[str]:
    """The SHA-256 of each slice of (N, H, W), in hexadecimal digits."""
    return [hashlib.sha256(np.ascontiguousarray(one).data).hexdigest() for one in slices]


def check_no_overlap(splits: dict[str, Sequence[str]]) -> None:
    """Refuses a quarter-dose slice that stands in more than one split.

    Args:
      splits: name of the file or split → `slice_digests` of its quarter dose, as read.

    Raises:
      InputError: naming the first such slice.
    """
    seen: dict[str, tuple[str, int]] = {}
    for name, digests in splits.items():
        for index, digest in enumerate(digests):
            other, other_index = seen.setdefault(digest, (name, index))
            if other != name:
                raise InputError(f"{name}: slice {index} is also slice {other_index} of {other}; "
                                 "a score on slices that were trained on means nothing")
