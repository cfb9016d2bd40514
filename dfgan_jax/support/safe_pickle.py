"""Reads untrusted pickles: no name in a pickle is ever imported.

A pickle is a program. This reader runs only its harmless part, in memory and time
bounded by the size of the file: plain values, lists, tuples and dicts, and the few
names that its caller lists, each replaced by a stand-in of this project.
"""

import io
import mmap
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from dfgan_jax.support.wording import printable

_MAX_OPCODES = 2_000_000
"""Twenty times those of a checkpoint with optimizer and history; each makes one object at most."""

_MAX_ARGUMENTS = 16
_MAX_KEY_LENGTH = 1000
_MAX_NAME_LENGTH = 200


def reason(error: Exception) -> str:
    """The reason why a file cannot be read, in one line."""
    text = printable(error)
    if text and isinstance(error, EOFError | pickle.UnpicklingError | zipfile.BadZipFile):
        return text
    return f"it is broken ({type(error).__name__}: {text})"


class BoundedReader:
    """A binary file in which a read past the end fails before it allocates.

    Attributes:
      size: bytes in the file.

    Args:
      file: seekable.
      limit: greatest number of bytes of one read; None: no limit but the file's size.
    """

    def __init__(self, file: io.BufferedIOBase, *, limit: int | None = None):
        self._file, self._limit = file, limit
        here = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(here)

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self._file.tell(), 0)
        size = left if size < 0 else size
        if size > left:
            raise EOFError("the file ends early, or a length in it is wrong")
        if self._limit is not None and size > self._limit:
            raise EOFError(f"a part has {size:,} bytes; at most {self._limit:,} are expected")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self.size}[whence]
        if not 0 <= start + offset <= self.size:
            raise EOFError("the file ends early, or an offset in it is wrong")
        return self._file.seek(start + offset)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


class StandIn:
    """Base of the objects whose state a pickle may set, with `__setstate__`."""


class Inert(StandIn):
    """Stands for an object that no reader needs: its state and its items are dropped."""

    def __setstate__(self, state: object) -> None:
        """Ignores the state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Ignores an item of a dict."""

    def extend(self, values: object) -> None:
        """Ignores items of a list."""

    def append(self, value: object) -> None:
        """Ignores an item of a list."""


class PickledDtype(StandIn):
    """Stands for `numpy.dtype` in a pickle: of plain numbers, or `O` of an array around a dict.

    `numpy.dtype` itself would take flags from the file that make NumPy read or free
    memory that is not its own.
    """

    def __init__(self, code: str, *_: object):
        if not re.fullmatch(r"O8?|[biuf][1248]", code):
            raise pickle.UnpicklingError(f"an array holds {code!r}, no plain numbers")
        self.code, self.byte_order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if type(state) is not tuple or len(state) > _MAX_ARGUMENTS:  # many calls could share one
            raise pickle.UnpicklingError("the state of an array's type is no short tuple")
        _, byte_order, subdtype, names, fields, *_ = state
        if byte_order not in ("<", ">", "=", "|") or (subdtype, names, fields) != (None,) * 3:
            raise pickle.UnpicklingError("an array holds no plain numbers")
        self.byte_order = byte_order

    def array(self, data: object, shape: tuple[int, ...], order: str,
              axes: tuple[int, ...] | None = None) -> object:
        """An array from its bytes; of `O`, the single object in it.

        Args:
          data: the bytes.
          shape: of the array; with `axes`, before its axes are exchanged.
          order: `C` or `F`; with `axes`, `K`.
          axes: order of the axes, for `transpose`.
        """
        if self.code.startswith("O"):
            if shape != () or not isinstance(data, list) or len(data) != 1:
                raise pickle.UnpicklingError("an array holds several objects")
            return data[0]
        if not isinstance(data, bytes | bytearray | memoryview):
            raise pickle.UnpicklingError("an array's numbers are not bytes")
        if type(order) is not str:  # the text of a list of lists may be as long as 2 ** its depth
            raise pickle.UnpicklingError(f"an array has a memory order of type "
                                         f"{type(order).__name__}")
        if order not in ("C", "F", "K") or (order == "K") != (axes is not None):
            raise pickle.UnpicklingError(f"an array has the memory order {printable(order)!r}")
        dtype = np.dtype(self.byte_order + self.code)
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
        return array if axes is None else array.transpose(axes)


class PickledArray(StandIn):
    """Stands for `numpy.ndarray` in a pickle: named, made empty, then given its state.

    Attributes:
      value: the array; the object itself where the array only wraps one.
    """

    value: object = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = dtype.array(data, shape, "F" if is_fortran else "C")


def _reconstruct(*_: object) -> PickledArray:
    """`numpy.core.multiarray._reconstruct`; type, shape and values follow as state."""
    return PickledArray()


def _frombuffer(data: object, dtype: PickledDtype, shape: tuple[int, ...], order: str,
                axes: tuple[int, ...] | None = None) -> PickledArray:
    """`numpy.core.numeric._frombuffer`, which protocol 5 uses; NumPy 2.3 added the axes."""
    array = PickledArray()
    array.value = dtype.array(data, shape, order, axes)
    return array


def _scalar(dtype: PickledDtype, data: object) -> object:
    """`numpy.core.multiarray.scalar`."""
    array = dtype.array(data, (), "C")
    if not isinstance(array, np.ndarray):
        raise pickle.UnpicklingError("a scalar is no plain number")
    return array[()]


NUMPY_NAMES: Mapping[str, object] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": PickledDtype,
    **{f"{core}.{name}": stand_in
       for core in ("numpy.core", "numpy._core")
       for name, stand_in in (("multiarray._reconstruct", _reconstruct),
                              ("multiarray.scalar", _scalar),
                              ("numeric._frombuffer", _frombuffer))},
}
"""Names of NumPy's arrays and scalars of plain numbers, for `SafeUnpickler`."""


_Dispatch = dict[int, Callable[..., None]]


class _Countdown(_Dispatch):
    """A table of opcodes with a limited number of look-ups."""

    left = _MAX_OPCODES

    def __getitem__(self, code: int) -> Callable[..., None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"it has more than {_MAX_OPCODES:,} opcodes")
        if code not in self:
            raise pickle.UnpicklingError(f"it is no pickle, or a broken one: {bytes([code])!r} is "
                                         "no opcode")
        return super().__getitem__(code)


class SafeUnpickler(pickle._Unpickler):
    """Resolves plain values, lists, tuples, dicts and the given names; refuses the rest.

    A name is refused when the pickle mentions it, before anything can call it. This is the
    Python implementation: the C one sizes its memo by an index that the file chooses.

    Args:
      file: read from its current position.
      names: `module.name` → its stand-in.
      allowed: describes the names, for the message of a refusal.
      mapping: of the whole file, read-only. Byte strings are then views of it and not read,
        except those of up to 255 bytes and of protocols below 3.
    """

    read: Callable[[int], bytes]
    append: Callable[[object], None]
    stack: list[Any]
    dispatch: ClassVar[_Dispatch] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BoundedReader, *, names: Mapping[str, object], allowed: str,
                 mapping: mmap.mmap | None = None):
        super().__init__(file, encoding="utf-8")
        self._file, self._names, self._allowed, self._mapping = file, names, allowed, mapping
        self._bytes_left = file.size
        self.dispatch = _Countdown(type(self).dispatch)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> object:
        # Many mentions could share one long text, and a message be made of each.
        if len(module) + len(name) > _MAX_NAME_LENGTH:
            raise pickle.UnpicklingError(f"it names something of {len(module) + len(name):,} "
                                         f"letters; at most {_MAX_NAME_LENGTH} are expected")
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        known = f"{module}.{name}"
        return self._names[known] if known in self._names else self.unknown(module, name)

    def unknown(self, module: str, name: str) -> object:
        """Refuses a name that is none of the given; a subclass may return a stand-in."""
        raise pickle.UnpicklingError(
            f"it names {module}.{name}; only {self._allowed} are allowed")

    def _encode(self, text: str, encoding: str) -> bytes:
        """`_codecs.encode`, through which protocol 2 writes bytes."""
        # A file holds each text that it encodes, so together they are no longer than it is.
        self._bytes_left -= len(text)
        if encoding != "latin1" or self._bytes_left < 0:
            raise pickle.UnpicklingError("bytes are encoded in an unusual way")
        return text.encode("latin1")

    def load_reduce(self) -> None:
        # Else any iterable would be unpacked into arguments.
        arguments = self.stack[-1]
        if type(arguments) is not tuple or len(arguments) > _MAX_ARGUMENTS:
            raise pickle.UnpicklingError("it calls a function with no short tuple of arguments")
        super().load_reduce()  # type: ignore[misc]

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_frame(self) -> None:
        # A frame has a length, for reading ahead. Nothing is read ahead: the file's position
        # stays that of the next opcode, and no large frame comes into memory.
        self.read(8)

    dispatch[pickle.FRAME[0]] = load_frame

    def _read_or_map(self, length: int) -> bytes | memoryview:
        if self._mapping is None:
            return self.read(length)
        start = self._file.tell()
        end = self._file.seek(length, io.SEEK_CUR)
        return memoryview(self._mapping)[start:end]

    def load_binbytes(self) -> None:
        (length,) = struct.unpack("<I", self.read(4))
        self.append(self._read_or_map(length))

    dispatch[pickle.BINBYTES[0]] = load_binbytes

    def load_binbytes8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(self._read_or_map(length))

    dispatch[pickle.BINBYTES8[0]] = load_binbytes8

    # NumPy's byte arrays of protocol 5. Nothing here changes one, so it may be read-only; the
    # inherited method allocates the stated length before it reads.
    dispatch[pickle.BYTEARRAY8[0]] = load_binbytes8

    def load_build(self) -> None:
        # Else the attributes of any object, functions among them, would be set.
        if not isinstance(self.stack[-2], StandIn):
            raise pickle.UnpicklingError(f"it sets the state of a {type(self.stack[-2]).__name__}")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        check_items(self.stack[-3], self.stack[-2:])
        super().load_setitem()  # type: ignore[misc]

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        check_items(self.metastack[-1][-1], self.stack)  # type: ignore[attr-defined]
        super().load_setitems()  # type: ignore[misc]

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        check_items({}, self.stack)
        super().load_dict()  # type: ignore[misc]

    dispatch[pickle.DICT[0]] = load_dict

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it uses a part of the pickle format that no such file needs")

    # Further ways to make and name objects; sets, whose elements would be hashed.
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1,
                  pickle.EXT2, pickle.EXT4, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET,
                  pickle.PERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_code[0]] = refuse


def check_items(target: object, items: list[Any]) -> None:
    """Refuses targets other than dicts, and keys that could take forever to hash or compare.

    Args:
      target: receives the items.
      items: key, value, key, value …
    """
    if isinstance(target, Inert):  # which hashes none
        return
    if not isinstance(target, dict):
        raise pickle.UnpicklingError(f"it puts items into a {type(target).__name__}")
    for key in items[::2]:
        if not (key is None or type(key) in (bool, float)
                or (type(key) is str and len(key) <= _MAX_KEY_LENGTH)
                or (type(key) is int and abs(key) < 2**63)):
            raise pickle.UnpicklingError("a dict has a key that is neither a short text nor a "
                                         "plain number")
