"""Pairs of slices of two doses, in memory or mapped into it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dfgan_jax.support.digests import array_digest, text_digest


class SliceStack:
    """Slices of several arrays, one array after the other, read as they are used.

    It is indexed as the one array would be: by a number, a slice, or an array of numbers.

    Args:
      parts: (N, H, W) each, of one dtype; H and W may differ from part to part, where nobody
        asks for slices of several parts at once.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = tuple(parts)
        self.dtype = parts[0].dtype
        self.nbytes = sum(part.nbytes for part in parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W); raises `ValueError` where parts have several sizes."""
        sizes = {part.shape[1:] for part in self.parts}
        if len(sizes) > 1:
            raise ValueError(f"slices of several sizes: {sorted(sizes)}")
        return len(self), *sizes.pop()

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        index = np.asarray(index)
        if index.ndim:
            return np.stack([self[one] for one in index]) if len(index) else np.empty(
                (0, *self.shape[1:]), self.dtype)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][index - self._ends[part]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Slices of two doses, index by index the same anatomy.

    Attributes:
      ndct: (N, H, W) float32, normal dose; unit as the function that made them says. An array,
        or a `SliceStack`.
      qdct: the same of the quarter dose.
    """

    ndct: Any
    qdct: Any

    def __len__(self) -> int:
        return len(self.ndct)

    @property
    def parts(self) -> list["Pairs"]:
        """Those of each file, in order."""
        if isinstance(self.ndct, SliceStack) and isinstance(self.qdct, SliceStack):
            return [Pairs(*doses) for doses in zip(self.ndct.parts, self.qdct.parts, strict=True)]
        return [self]

    @property
    def counts(self) -> list[int]:
        """How many each file has."""
        return [len(part) for part in self.parts]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each file's slices."""
        return [part.ndct.shape[1:] for part in self.parts]

    def size_of(self, row: int) -> tuple[int, ...]:
        """Height and width of one pair."""
        return self.ndct[row].shape

    def fingerprint(self) -> str:
        """Names the pairs: their shape and every eighth pixel of every eighth row."""
        if len(self.parts) > 1:
            return text_digest(" ".join(part.fingerprint() for part in self.parts))
        return array_digest(*(slices[:, ::8, ::8] for slices in (self.ndct, self.qdct)),
                            heading=str(self.ndct.shape))


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of several files, one file after the other; nothing is copied."""
    if len(parts) == 1:
        return parts[0]
    return Pairs(SliceStack([part.ndct for part in parts]),
                 SliceStack([part.qdct for part in parts]))
