"""PyTorch's own file formats, read and written without PyTorch.

Since PyTorch 1.6 a file is a zip archive, not compressed: `data.pkl` says which
tensors there are, `data/KEY` holds the bytes of each storage. Before, it was a row
of pickles (magic number, protocol, system, content, keys of storages) and then the
storages, each behind its length.
"""

import collections
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.safe_pickle import (
    NUMPY_NAMES,
    BoundedReader,
    SafeUnpickler,
    StandIn,
    check_items,
    reason,
)

ZIP_MAGIC = b"PK\x03\x04"

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_MAX_READ_BYTES = 16 << 20
"""Of a zip archive's directory, and of its pickle: each is read at once."""
_CHUNK_BYTES = 1 << 20
_MAX_ITEMS = 100_000
"""Of dicts that are made by a call; PyTorch writes empty ones, and fills them."""
_MAX_NDIM = 64
_MAX_EXPANDED = 1 << 24
"""Elements of a tensor whose strides of 0 make more of them than its storage has."""

_STORAGES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# Those of the storages, and those that only files since PyTorch 2.1 name.
_DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16, "int64": np.int64, "int32": np.int32, "int16": np.int16,
    "int8": np.int8, "uint8": np.uint8, "bool": np.bool_, "uint16": np.uint16,
    "uint32": np.uint32, "uint64": np.uint64, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}


class _StorageType(NamedTuple):
    dtype: np.dtype


class _Storage(NamedTuple):
    """The bytes of one storage, or of a part of one, and the type of its elements."""

    dtype: np.dtype
    data: np.ndarray


class _Dict(dict, StandIn):
    """`collections.OrderedDict`, to which PyTorch adds attributes, and `Counter`."""

    def __setstate__(self, state: object) -> None:
        """Ignores `_metadata`, the versions of PyTorch's modules."""


def _size(*arguments: Any) -> tuple:
    """`torch.Size`."""
    (values,) = arguments
    return _integers(values)


def _device(*_: object) -> None:
    """`torch.device`: where a tensor was makes no difference here."""


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or len(values) > _MAX_NDIM or not all(
            type(value) is int and 0 <= value < 2**62 for value in values):
        raise pickle.UnpicklingError("a tensor's size or stride is no list of sensible integers")
    return tuple(values)


def _rebuild_tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: object
                    ) -> np.ndarray:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor has no storage")
    (offset,), size, stride = _integers([offset]), _integers(size), _integers(stride)
    dtype = storage.dtype
    if math.prod(size) > max(storage.data.size, _MAX_EXPANDED):
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    if len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    # NumPy refuses what would reach beyond the buffer.
    return np.ndarray(size, dtype, storage.data, offset * dtype.itemsize,
                      tuple(step * dtype.itemsize for step in stride))


def _rebuild_tensor_v3(storage: _Storage, offset: int, size: tuple, stride: tuple,
                       _requires_grad: object, _hooks: object, dtype: np.dtype, *_: object
                       ) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v3`, whose storage is bytes without a type."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, np.dtype):
        raise pickle.UnpicklingError("a tensor has no storage or no type")
    return _rebuild_tensor(_Storage(dtype, storage.data), offset, size, stride)


def _rebuild_parameter(data: np.ndarray, *_: object) -> np.ndarray:
    """`torch._utils._rebuild_parameter`."""
    if not isinstance(data, np.ndarray):
        raise pickle.UnpicklingError("a parameter has no tensor")
    return data


_NAMES: Mapping[str, Any] = {
    **NUMPY_NAMES,
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.storage.UntypedStorage": _StorageType(np.dtype(np.uint8)),
    **{f"torch.{name}": _StorageType(np.dtype(dtype)) for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(SafeUnpickler):
    """Reads the content; the bytes of its storages are for the caller to fill in.

    Attributes:
      storages: key → storage.
    """

    def __init__(self, file: BoundedReader, *, budget: int):
        super().__init__(file, names=_NAMES, allowed="tensors, dicts and plain values")
        self.storages: dict[str, _Storage] = {}
        self._budget = budget
        self._items_left = _MAX_ITEMS

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name in ("OrderedDict", "Counter"):
            return self._dict
        try:
            return super().find_class(module, name)
        except pickle.UnpicklingError as error:
            hint = ("" if module in ("collections", "builtins", "__builtin__") else
                    ". Was a whole module saved? Save its state_dict() instead")
            raise pickle.UnpicklingError(f"{error}{hint}") from None

    def _dict(self, items: Any = ()) -> _Dict:
        """A dict of no items as PyTorch writes it, of pairs by Python 2, of a dict for Counter."""
        if not isinstance(items, list | tuple | dict):
            raise pickle.UnpicklingError("an OrderedDict is made of no list of items")
        # Many calls could share one list.
        self._items_left -= len(items)
        if self._items_left < 0:
            raise pickle.UnpicklingError("its OrderedDicts are made of too many items")
        pairs = list(items.items()) if isinstance(items, dict) else items
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise pickle.UnpicklingError("an OrderedDict is made of no pairs")
        flat = [part for pair in pairs for part in pair]
        check_items({}, flat)
        return _Dict(zip(flat[::2], flat[1::2], strict=True))

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise pickle.UnpicklingError("it holds a pickled module; save its state_dict() instead")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, _StorageType) or type(key) is not str:
            raise pickle.UnpicklingError("a storage has no type or no key")
        (count,) = _integers([count])
        if key not in self.storages:
            length = count * kind.dtype.itemsize
            self._budget -= length
            if self._budget < 0:
                raise pickle.UnpicklingError("its storages are larger than the file")
            self.storages[key] = _Storage(kind.dtype, np.empty(length, np.uint8))
        storage = self.storages[key]
        if storage.dtype != kind.dtype or storage.data.size != count * kind.dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} has two types or sizes")
        if view and view[0] is not None:
            _, offset, count = view[0]
            offset, count = (n * kind.dtype.itemsize for n in _integers([offset, count]))
            if offset + count > storage.data.size:
                raise pickle.UnpicklingError(f"a view of storage {key} reaches beyond it")
            storage = _Storage(kind.dtype, storage.data[offset:offset + count])
        return storage


def _fill(storage: _Storage, stream: Any) -> None:
    """Reads a storage's bytes."""
    for start in range(0, storage.data.size, _CHUNK_BYTES):
        part = storage.data[start:start + _CHUNK_BYTES]
        part[:] = np.frombuffer(stream.read(part.size), np.uint8)


def _read_zip(file: BoundedReader) -> Any:
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

        def open_record(name: str, *, size: int | None = None) -> Any:
            info = entries.get(root + name)
            if info is None:
                raise pickle.UnpicklingError(f"{name} is missing in the archive")
            # Compressed, a few bytes could stand for gigabytes.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise pickle.UnpicklingError(f"{name} is compressed, which PyTorch never does")
            if size not in (None, info.file_size):
                raise pickle.UnpicklingError(f"{name} has {info.file_size} bytes; expected {size}")
            if info.CRC == 0:  # what PyTorch writes when told not to compute checksums
                del info.CRC
            return archive.open(info)

        with open_record("data.pkl") as record:
            payload = BoundedReader(io.BytesIO(record.read()))
        unpickler = _Unpickler(payload, budget=file.size)
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
        return content


def _read_legacy(file: BoundedReader) -> Any:
    def plain() -> Any:
        return SafeUnpickler(file, names={}, allowed="plain values").load()

    if plain() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("a pickle, but not PyTorch's")
    protocol, _system = plain(), plain()
    if protocol != _LEGACY_PROTOCOL:
        raise pickle.UnpicklingError(f"its protocol is not {_LEGACY_PROTOCOL}")
    unpickler = _Unpickler(file, budget=file.size)
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
    return content


def read_torch_file(path: str | os.PathLike) -> Any:
    """Reads a file that `torch.save` wrote, of any version since 0.1.10.

    Args:
      path: of a `.pth`, `.pt` or `.pth.tar`.

    Returns:
      What was saved: dicts, lists, tuples and plain values, with an array for each
      tensor. Arrays share memory where the tensors did.

    Raises:
      InputError: the file is missing, broken or truncated, or holds anything but
        tensors, dicts and plain values.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
        file.seek(0)
        try:
            if is_zip:
                return _read_zip(BoundedReader(file, limit=_MAX_READ_BYTES))
            return _read_legacy(BoundedReader(file))
        except Exception as error:  # it cannot be told what a broken file raises
            raise InputError(f"{path}: refused, or truncated: {reason(error)}") from error


class _Name(NamedTuple):
    """A name that PyTorch will resolve, written without importing it."""

    module: str
    name: str

    def __call__(self) -> None:
        raise NotImplementedError  # the function of a reduction has to be callable


class _StorageReference(NamedTuple):
    kind: _Name
    key: str
    elements: int


class _TensorReference(NamedTuple):
    storage: _StorageReference
    shape: tuple[int, ...]


class _Pickler(pickle._Pickler):
    """Writes what PyTorch writes for a tensor: a call of `_rebuild_tensor_v2`."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _StorageReference):
            return ("storage", obj.kind, obj.key, "cpu", obj.elements)
        return None

    def save_name(self, obj: _Name) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]

    dispatch[_Name] = save_name

    def save_tensor(self, obj: _TensorReference) -> None:
        strides = tuple(math.prod(obj.shape[i + 1:]) for i in range(len(obj.shape)))
        hooks: dict[int, Any] = collections.OrderedDict()
        self.save_reduce(  # type: ignore[attr-defined]
            _Name("torch._utils", "_rebuild_tensor_v2"),
            (obj.storage, 0, obj.shape, strides, False, hooks), obj=obj)  # no gradient required

    dispatch[_TensorReference] = save_tensor


def write_torch_file(file: BinaryIO, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as PyTorch does since 1.6; `torch.load(weights_only=True)` reads it.

    The same arrays give the same bytes.

    Args:
      file: to write to.
      state_dict: key → array of any type among `torch.*Storage`.

    Raises:
      KeyError: an array is of a type that PyTorch does not have.
    """
    names = {np.dtype(dtype): name for name, dtype in _STORAGES.items()}
    content = collections.OrderedDict()
    for index, (key, array) in enumerate(state_dict.items()):
        storage = _StorageReference(_Name("torch", names[array.dtype]), str(index), array.size)
        content[key] = _TensorReference(storage, array.shape)
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=2).dump(content)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        def write(name: str, data: Any) -> None:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        write("data.pkl", pickled.getvalue())
        write("byteorder", b"little")
        for index, array in enumerate(state_dict.values()):
            write(f"data/{index}", array.tobytes())
        write("version", b"3\n")
