"""Builds PyTorch files byte by byte, also those that PyTorch would not write."""

import io
import pickle
import struct
import zipfile
from typing import Any, NamedTuple


class Name(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Any
    arguments: tuple


class New(NamedTuple):
    """An object of a class, made without `__init__`, with its state and its items."""

    kind: Any
    state: Any = None
    items: Any = None
    values: Any = None


class Persistent(NamedTuple):
    pid: Any


class Bytes2(NamedTuple):
    """A `str` of Python 2."""

    text: bytes


def opcodes(value: Any) -> bytes:
    """The opcodes of protocol 2 that push a value."""
    match value:
        case Name(module, name):
            return pickle.GLOBAL + f"{module}\n{name}\n".encode()
        case Call(function, arguments):
            return opcodes(function) + opcodes(arguments) + pickle.REDUCE
        case New(kind, state, items, values):
            made = opcodes(kind) + opcodes(()) + pickle.NEWOBJ
            if values is not None:
                made += opcodes(values).removeprefix(pickle.EMPTY_LIST)
            if items is not None:
                made += opcodes(items).removeprefix(pickle.EMPTY_DICT)
            return made + (b"" if state is None else opcodes(state) + pickle.BUILD)
        case Persistent(pid):
            return opcodes(pid) + pickle.BINPERSID
        case Bytes2(text):
            return pickle.SHORT_BINSTRING + bytes([len(text)]) + text
        case tuple():
            return pickle.MARK + b"".join(map(opcodes, value)) + pickle.TUPLE
        case list():
            return (pickle.EMPTY_LIST + pickle.MARK + b"".join(map(opcodes, value))
                    + pickle.APPENDS)
        case dict():
            items = b"".join(opcodes(part) for item in value.items() for part in item)
            return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    return pickle.dumps(value, protocol=2)[2:-1]  # without the protocol and the stop


def dump(value: Any) -> bytes:
    return pickle.PROTO + b"\x02" + opcodes(value) + pickle.STOP


def storage(key: str = "0", count: int = 4, *, kind: str = "FloatStorage", view: Any = ...
            ) -> Persistent:
    pid = ("storage", Name("torch", kind), key, "cpu", count)
    return Persistent(pid if view is ... else (*pid, view))


def tensor(stored: Any = None, *, offset: Any = 0, size: Any = (4,), stride: Any = (1,)) -> Call:
    return Call(Name("torch._utils", "_rebuild_tensor_v2"),
                (stored or storage(), offset, size, stride, False,
                 Call(Name("collections", "OrderedDict"), ())))


FOUR = struct.pack("<4f", 0, 1, 2, 3)


def zip_file(payload: bytes, storages: dict[str, bytes] | None = None, *,
             byte_order: bytes = b"little", compression: int = zipfile.ZIP_STORED) -> bytes:
    storages = {"0": FOUR} if storages is None else storages
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/byteorder", byte_order)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def legacy_file(payload: bytes, storages: dict[str, tuple[int, bytes]] | None = None, *,
                keys: list | None = None) -> bytes:
    """Storages: key → number of elements, bytes."""
    storages = {"0": (4, FOUR)} if storages is None else storages
    head = [dump(0x1950A86A20F9469CFC6C), dump(1001), dump({"little_endian": True})]
    tail = [struct.pack("<q", count) + data for count, data in storages.values()]
    return b"".join([*head, payload, dump(list(storages) if keys is None else keys), *tail])
