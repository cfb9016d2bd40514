"""Tensors in PyTorch's pickles, read and written without PyTorch.

A pickle describes each tensor by a call, resolved here to a function that makes an array, and by
the key of a storage, whose bytes are elsewhere in the file.

Checkpoints have other objects beside their tensors: `argparse.Namespace`, Lightning's
hyper-parameters. Their classes are never imported; a name and what is made of it are inert.
"""

import collections
import io
import math
import pickle
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import UInt8

from dfgan_jax.support.safe_pickle import (
    NUMPY_NAMES,
    BoundedReader,
    Inert,
    SafeUnpickler,
    StandIn,
    check_items,
)

_MAX_ITEMS = 100_000
"""Largest number of items in calls that make dicts; PyTorch makes empty dicts and fills them."""
_MAX_NDIM = 64
_MAX_EXPANDED = 1 << 24
"""Largest number of elements of a tensor that strides of 0 expand beyond its storage."""

_STORAGES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# The types of the storages, and further types of files since PyTorch 2.1.
_DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16, "int64": np.int64, "int32": np.int32, "int16": np.int16,
    "int8": np.int8, "uint8": np.uint8, "bool": np.bool_, "uint16": np.uint16,
    "uint32": np.uint32, "uint64": np.uint64, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}


_INERT = frozenset((
    "argparse.Namespace", "collections.defaultdict", "collections.deque", "datetime.date",
    "datetime.datetime", "datetime.timedelta", "decimal.Decimal", "functools.partial",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath", "pathlib.WindowsPath",
    "types.SimpleNamespace",
    "__builtin__.xrange",  # range, in protocol 2
    *(f"{builtins}.{name}" for builtins in ("builtins", "__builtin__") for name in (
        "bytearray", "complex", "frozenset", "range", "set", "slice"))))
"""Names that plain hyper-parameters call; the result of the call is inert."""


_OF_TENSORS = frozenset(("torch", "torch._tensor", "torch._utils", "torch.serialization",
                         "torch.storage"))
"""Modules of PyTorch's functions, storages, types and layouts."""


class _StorageType(NamedTuple):
    dtype: np.dtype


class Storage(NamedTuple):
    """The bytes of a storage, or of a part of it, (n,) uint8, and the type of its elements."""

    dtype: np.dtype
    data: UInt8[np.ndarray, " n"]


class _Foreign:
    """A name that the pickle mentions and nothing resolves; to call it is refused.

    Attributes:
      refusal: the message of a file that needs it.
    """

    def __init__(self, name: str, refusal: str):
        self._name, self.refusal = name, refusal

    def __call__(self, *_: object) -> Inert:
        if self._name in _INERT:
            return Inert()
        raise pickle.UnpicklingError(self.refusal)


class _Dict(dict[object, object], StandIn):
    """`collections.OrderedDict`, whose instances get attributes in PyTorch, and `Counter`."""

    def __setstate__(self, state: object) -> None:
        """Ignores `_metadata`, the versions of PyTorch's modules."""


def _size(*arguments: object) -> tuple[int, ...]:
    """`torch.Size`."""
    (values,) = arguments
    return _integers(values)


def _device(*_: object) -> None:
    """`torch.device`, which is ignored."""


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or len(values) > _MAX_NDIM or not all(
            type(value) is int and 0 <= value < 2**62 for value in values):
        raise pickle.UnpicklingError("a tensor's size or stride is no list of sensible integers")
    return tuple(values)


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object, *_: object
                    ) -> np.ndarray:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor has no storage")
    (start,), shape, steps = _integers([offset]), _integers(size), _integers(stride)
    dtype = storage.dtype
    if math.prod(shape) > max(storage.data.size, _MAX_EXPANDED):
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    if len(shape) != len(steps):
        raise pickle.UnpicklingError(f"a tensor has {len(shape)} sizes and {len(steps)} strides")
    # NumPy raises an error for elements beyond the buffer.
    return np.ndarray(shape, dtype, storage.data, start * dtype.itemsize,
                      tuple(step * dtype.itemsize for step in steps))


def _rebuild_tensor_v3(storage: object, offset: object, size: object, stride: object,
                       _requires_grad: object, _hooks: object, dtype: object, *_: object
                       ) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v3`, whose storage is bytes without a type."""
    if isinstance(dtype, _Foreign):
        raise pickle.UnpicklingError(dtype.refusal)
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise pickle.UnpicklingError("a tensor has no storage or no type")
    return _rebuild_tensor(Storage(dtype, storage.data), offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> np.ndarray:
    """`torch._utils._rebuild_parameter`."""
    if not isinstance(data, np.ndarray):
        raise pickle.UnpicklingError("a parameter has no tensor")
    return data


_NAMES: Mapping[str, object] = {
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


class TensorUnpickler(SafeUnpickler):
    """Reads the content, with empty storages, which the caller fills.

    Attributes:
      storages: key → storage.
      refusal: the message of a file of which the reader needs the first name that is none of
        tensors, dicts and plain values; None if it has no such name.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(SafeUnpickler.dispatch)

    def __init__(self, file: BoundedReader, *, budget: int):
        super().__init__(file, names=_NAMES, allowed="tensors, dicts and plain values")
        self.storages: dict[str, Storage] = {}
        self.refusal: str | None = None
        self._budget = budget
        self._items_left = _MAX_ITEMS

    def find_class(self, module: str, name: str) -> object:
        if module == "collections" and name in ("OrderedDict", "Counter"):
            return self._dict
        return super().find_class(module, name)

    def unknown(self, module: str, name: str) -> object:
        try:
            return super().unknown(module, name)
        except pickle.UnpicklingError as error:
            hint = (". It is of a kind of tensor that is not supported (such as sparse, quantised, "
                    "complex or meta)" if module in _OF_TENSORS else
                    "" if module in ("collections", "builtins", "__builtin__") else
                    ". Was a whole module saved? Save its state_dict() instead")
            foreign = _Foreign(f"{module}.{name}", f"{error}{hint}")
            self.refusal = self.refusal or foreign.refusal
            return foreign

    def load_newobj(self) -> None:
        """Makes an instance without a call of `__init__`: of a foreign class, an inert one."""
        _arguments, made = self.stack.pop(), self.stack.pop()
        if not isinstance(made, _Foreign):
            self.refuse()
        self.append(Inert())

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """The same with keywords."""
        _keywords = self.stack.pop()
        self.load_newobj()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _dict(self, items: object = ()) -> _Dict:
        """Makes a dict: of no items in PyTorch, of pairs in Python 2, of a dict for `Counter`."""
        if not isinstance(items, list | tuple | dict):
            raise pickle.UnpicklingError("an OrderedDict is made of no list of items")
        # The sum over all calls is limited, since many calls could share one list.
        self._items_left -= len(items)
        if self._items_left < 0:
            raise pickle.UnpicklingError("its OrderedDicts are made of too many items")
        pairs = list(items.items()) if isinstance(items, dict) else items
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise pickle.UnpicklingError("an OrderedDict is made of no pairs")
        flat = [part for pair in pairs for part in pair]
        check_items({}, flat)
        return _Dict(zip(flat[::2], flat[1::2], strict=True))

    def persistent_load(self, pid: object) -> Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise pickle.UnpicklingError("it holds a pickled module; save its state_dict() instead")
        _, kind, key, _, count, *view = pid
        if isinstance(kind, _Foreign):
            raise pickle.UnpicklingError(kind.refusal)
        if not isinstance(kind, _StorageType) or type(key) is not str:
            raise pickle.UnpicklingError("a storage has no type or no key")
        (count,) = _integers([count])
        if key not in self.storages:
            length = count * kind.dtype.itemsize
            self._budget -= length
            if self._budget < 0:
                raise pickle.UnpicklingError("its storages are larger than the file")
            self.storages[key] = Storage(kind.dtype, np.empty(length, np.uint8))
        storage = self.storages[key]
        if storage.dtype != kind.dtype or storage.data.size != count * kind.dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} has two types or sizes")
        if view and view[0] is not None:
            _, offset, count = view[0]
            offset, count = (n * kind.dtype.itemsize for n in _integers([offset, count]))
            if offset + count > storage.data.size:
                raise pickle.UnpicklingError(f"a view of storage {key} reaches beyond it")
            storage = Storage(kind.dtype, storage.data[offset:offset + count])
        return storage


class _Name(NamedTuple):
    """A name for PyTorch to resolve, written without importing it."""

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
    """Writes a tensor as PyTorch does, as a call of `_rebuild_tensor_v2`."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)

    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, _StorageReference):
            return ("storage", obj.kind, obj.key, "cpu", obj.elements)
        return None

    def save_name(self, obj: _Name) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]

    dispatch[_Name] = save_name

    def save_tensor(self, obj: _TensorReference) -> None:
        strides = tuple(math.prod(obj.shape[i + 1:]) for i in range(len(obj.shape)))
        hooks: dict[int, object] = collections.OrderedDict()
        self.save_reduce(  # type: ignore[attr-defined]
            _Name("torch._utils", "_rebuild_tensor_v2"),
            (obj.storage, 0, obj.shape, strides, False, hooks), obj=obj)  # no gradient required

    dispatch[_TensorReference] = save_tensor


def pickled(state_dict: Mapping[str, np.ndarray]) -> bytes:
    """Pickles a state dict, with storages numbered from 0 in its order.

    Args:
      state_dict: key → array of a type of `torch.*Storage`.

    Raises:
      KeyError: PyTorch has no such type.
    """
    names = {np.dtype(dtype): name for name, dtype in _STORAGES.items()}
    content = collections.OrderedDict()
    for index, (key, array) in enumerate(state_dict.items()):
        storage = _StorageReference(_Name("torch", names[array.dtype]), str(index), array.size)
        content[key] = _TensorReference(storage, array.shape)
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(content)
    return file.getvalue()
