"""Files of weights in PyTorch's or the safetensors format, distinguished by content."""

import os
import pathlib
import pickle
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from dfgan_jax.porting.torch_file import ZIP_MAGIC, read_torch_file, write_torch_file
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import refuse_existing, written_whole
from dfgan_jax.support.misplaced import content_of_failed_download
from dfgan_jax.support.safe_pickle import reason
from dfgan_jax.support.wording import printable

SAFETENSORS = ".safetensors"
SUFFIXES = (".pth", ".pt", ".pth.tar", SAFETENSORS)

_KINDS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL",
          "C64")
"""Types in safetensors that its library reads into arrays."""

_FLOAT8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}

_MAX_HEADER_BYTES = 16 << 20


def has_suffix(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of a file of weights, and so is meant as a file, no folder."""
    return str(path).lower().endswith(SUFFIXES)


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of a safetensors file."""
    return str(path).lower().endswith(SAFETENSORS)


def read_weight_file(path: str | os.PathLike[str]) -> object:
    """Reads a file of weights, whatever its name.

    Returns:
      The content: see `read_torch_file`; of safetensors, key → array.

    Raises:
      InputError: the file is missing, broken, or refused.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(9)
    header_bytes, file_bytes = int.from_bytes(start[:8], "little"), path.stat().st_size
    if start[8:] != b"{" or header_bytes > file_bytes:
        if start.lstrip().startswith(b"{"):  # which starts no pickle
            raise InputError(f"{path}: is a JSON text, such as the index of a model in several "
                             "files, and holds no weights; expected one file, of "
                             f"{', '.join(SUFFIXES)}")
        if (is_safetensors(path) and not start.startswith((ZIP_MAGIC, pickle.PROTO))
                and not content_of_failed_download(path)):
            raise InputError(f"{path}: is truncated, or no safetensors file: its header says "
                             f"{header_bytes:,} bytes, the file has {file_bytes:,}")
        return read_torch_file(path)
    if header_bytes > _MAX_HEADER_BYTES:
        raise InputError(f"{path}: refused: its header has {header_bytes:,} bytes; at most "
                         f"{_MAX_HEADER_BYTES:,} are expected")
    try:
        return _read_safetensors(path)
    except InputError:
        raise
    except Exception as error:  # a broken file may raise any exception
        raise InputError(f"{path}: refused, or truncated: {reason(error)}") from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(path, "np") as file:
        keys = file.keys()  # the file cannot be iterated over
        kinds = {key: file.get_slice(key).get_dtype() for key in keys}
    for key, kind in kinds.items():
        if kind not in (*_KINDS, *_FLOAT8):
            raise InputError(f"{path}: {printable(key)} is of the type {kind}; expected one of "
                             f"{', '.join((*_KINDS, *_FLOAT8))}")
    if not _FLOAT8.keys() & kinds.values():
        return safetensors.numpy.load_file(path)
    # The library looks for float8 among NumPy's own types.
    views = dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    with safetensors.safe_open(path, "np") as file:
        return {key: np.frombuffer(views[key]["data"], _FLOAT8[kind]).reshape(views[key]["shape"])
                if kind in _FLOAT8 else file.get_tensor(key) for key, kind in kinds.items()}


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file; {} for every other file.

    Args:
      path: of a file that `read_weight_file` has read.
    """
    with pathlib.Path(path).open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file.read(1) != b"{" or header_bytes > _MAX_HEADER_BYTES:
            return {}
    with safetensors.safe_open(path, "np") as opened:
        return opened.metadata() or {}


def write_weight_file(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray], *,
                      metadata: Mapping[str, str]) -> None:
    """Writes a state dict to a new file, atomically.

    Args:
      path: its suffix, one of `SUFFIXES`, selects the format.
      state_dict: key → array.
      metadata: written to safetensors only.

    Raises:
      InputError: the file exists.
    """
    path = pathlib.Path(path)
    refuse_existing(path)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        if is_safetensors(path):
            # The library needs C order, and `ascontiguousarray` changes the shape of scalars.
            contiguous = {key: np.asarray(array, order="C") for key, array in state_dict.items()}
            file.write(safetensors.numpy.save(contiguous, {"format": "pt", **metadata}))
        else:
            write_torch_file(file, state_dict)
