"""PyTorch's file formats, read and written without PyTorch.

Since PyTorch 1.6 a file is an uncompressed zip archive: `data.pkl` describes the tensors, and
`data/KEY` holds the bytes of each storage. Older files are a sequence of pickles (magic number,
protocol, system, content, keys of storages), followed by the storages, each after its length.
"""

import io
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import cast

import numpy as np

from dfgan_jax.porting.torch_pickle import Storage, TensorUnpickler, pickled
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.misplaced import content_of_failed_download
from dfgan_jax.support.safe_pickle import BoundedReader, PickledArray, SafeUnpickler, reason

ZIP_MAGIC = b"PK\x03\x04"

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_MAX_READ_BYTES = 16 << 20
"""Largest directory and largest pickle of a zip archive, each of which is read at once."""
_CHUNK_BYTES = 1 << 20


def _fill(storage: Storage, stream: io.BufferedIOBase | BoundedReader) -> None:
    """Reads a storage's bytes."""
    for start in range(0, storage.data.size, _CHUNK_BYTES):
        part = storage.data[start:start + _CHUNK_BYTES]
        part[:] = np.frombuffer(stream.read(part.size), np.uint8)


def _check_useful(content: object, refusal: str | None) -> None:
    """Refuses a content without arrays of a file with foreign objects, such as a whole module."""
    if refusal is None:
        return
    seen, waiting = {id(content)}, [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, np.ndarray | PickledArray):
            return
        parts = (node.values() if isinstance(node, dict) else
                 node if isinstance(node, list | tuple) else ())
        for part in parts:
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    raise pickle.UnpicklingError(refusal)


def _read_zip(file: BoundedReader) -> object:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries
                 if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise pickle.UnpicklingError("a zip archive without the data.pkl of PyTorch")
        (root,) = roots
        if f"{root}constants.pkl" in entries:
            raise pickle.UnpicklingError("a TorchScript archive, which holds code; save the "
                                         "state_dict() instead")

        def open_record(name: str, *, size: int | None = None) -> zipfile.ZipExtFile:
            info = entries.get(root + name)
            if info is None:
                raise pickle.UnpicklingError(f"{name} is missing in the archive")
            # A few compressed bytes could expand to gigabytes.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise pickle.UnpicklingError(f"{name} is compressed, which PyTorch never does")
            if size not in (None, info.file_size):
                raise pickle.UnpicklingError(f"{name} has {info.file_size} bytes; expected {size}")
            if info.CRC == 0:  # PyTorch's value without checksums
                del info.CRC
            return cast(zipfile.ZipExtFile, archive.open(info))

        with open_record("data.pkl") as record:
            payload = BoundedReader(io.BytesIO(record.read()))
        unpickler = TensorUnpickler(payload, budget=file.size)
        content = unpickler.load()
        byte_order = b"little"
        if f"{root}byteorder" in entries:
            with open_record("byteorder") as record:
                byte_order = record.read()
        if byte_order not in (b"little", b"big"):
            raise pickle.UnpicklingError(f"its byte order is {byte_order[:20]!r}")
        for key, storage in unpickler.storages.items():
            with open_record(f"data/{key}", size=storage.data.size) as record:
                _fill(storage, record)
            if byte_order == b"big":
                elements = storage.data.reshape(-1, storage.dtype.itemsize)
                elements[:] = elements[:, ::-1].copy()
    _check_useful(content, unpickler.refusal)
    return content


def _read_legacy(file: BoundedReader) -> object:
    def plain() -> object:
        return SafeUnpickler(file, names={}, allowed="plain values").load()

    if plain() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("a pickle, but not PyTorch's")
    protocol, _system = plain(), plain()
    if protocol != _LEGACY_PROTOCOL:
        raise pickle.UnpicklingError(f"its protocol is not {_LEGACY_PROTOCOL}")
    unpickler = TensorUnpickler(file, budget=file.size)
    content, keys = unpickler.load(), plain()
    if (not isinstance(keys, list) or not all(type(key) is str for key in keys)
            or sorted(keys) != sorted(unpickler.storages)):
        raise pickle.UnpicklingError("its storages are not those that its tensors need")
    for key in keys:
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count * storage.dtype.itemsize != storage.data.size:
            raise pickle.UnpicklingError(f"storage {key} has {count} elements; expected "
                                         f"{storage.data.size // storage.dtype.itemsize}")
        _fill(storage, file)
    _check_useful(content, unpickler.refusal)
    return content


def read_torch_file(path: str | os.PathLike[str]) -> object:
    """Reads a file that `torch.save` wrote, of any version since 0.1.10.

    Args:
      path: of a `.pth`, `.pt` or `.pth.tar`.

    Returns:
      The content: dicts, lists, tuples and plain values, with an array for each tensor.
      Arrays share memory if the tensors did. Objects of other classes, such as
      `argparse.Namespace`, are inert.

    Raises:
      InputError: the file is missing, broken or truncated, calls a function that plain
        checkpoints do not need, or holds no tensor outside of foreign objects.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if other := content_of_failed_download(path):
        raise InputError(f"{path}: refused: it {other}")
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
        file.seek(0)
        try:
            if is_zip:
                return _read_zip(BoundedReader(file, limit=_MAX_READ_BYTES))
            return _read_legacy(BoundedReader(file))
        except Exception as error:  # a broken file may raise any exception
            raise InputError(f"{path}: refused, or truncated: {reason(error)}") from error


def write_torch_file(file: io.BufferedIOBase, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict in the format of PyTorch 1.6, for `torch.load(weights_only=True)`.

    Equal arrays result in equal bytes.

    Args:
      file: open for writing.
      state_dict: key → array of a type of `torch.*Storage`.

    Raises:
      KeyError: PyTorch has no such type.
    """
    payload = pickled(state_dict)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        def write(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        write("data.pkl", payload)
        write("byteorder", b"little")
        for index, array in enumerate(state_dict.values()):
            write(f"data/{index}", array.tobytes())
        write("version", b"3\n")
