"""Broken files, for the readers of files that nobody vouches for."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from dfgan_jax.support.errors import InputError


def mutated(content: bytes, *, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Copies of a file's content in which one to three bytes are drawn anew."""
    for _ in range(count):
        copy = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            copy[position] = rng.integers(256)
        yield bytes(copy)


def refusals(read: Callable[[Path], object], path: Path, contents: Iterable[bytes]) -> list[str]:
    """The messages with which contents, put at `path`, are refused."""
    messages = []
    for content in contents:
        path.write_bytes(content)
        try:
            read(path)
        except InputError as error:
            messages.append(str(error))
    return messages
