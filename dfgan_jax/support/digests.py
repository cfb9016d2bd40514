"""SHA-256 digests, in hexadecimal digits.

Caches, manifests and checkpoints keep them: a change of a value makes those unreadable.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Shaped
from numpy.typing import ArrayLike


def file_digest(path: str | os.PathLike[str]) -> str:
    """The digest of a file's content."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """The digest of a text in UTF-8; bytes of file names that are none count as they are."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def json_digest(value: object) -> str:
    """The digest of a JSON value; the order of an object's names does not change it."""
    return text_digest(json.dumps(value, sort_keys=True))


def array_digest(*arrays: Shaped[np.ndarray, "..."], heading: str = "") -> str:
    """The digest of a heading in UTF-8 and of the arrays' values in C order, one after another.

    Types and shapes do not change it, unless the heading names them.
    """
    digest = hashlib.sha256(heading.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def named_arrays_digest(arrays: Iterable[tuple[str, ArrayLike]]) -> str:
    """The digest of arrays' names, types, shapes and values, in their order."""
    digest = hashlib.sha256()
    for name, values in arrays:
        array = np.asarray(values)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
