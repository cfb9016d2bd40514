"""Pairs of slices of two doses, in memory or mapped into it."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Integer, Num
from numpy.typing import DTypeLike

from dfgan_jax.support.digests import array_digest, text_digest
from dfgan_jax.support.spacing import evenly_spaced


class SliceStack:
    """Slices of several arrays, one array after the other, read as they are used.

    The index is that of a single array: a number, a slice, or an array of numbers.

    Args:
      parts: (N, H, W) each, of one dtype. H and W may differ between parts; slices of different
        sizes cannot be read together.
    """

    def __init__(self, parts: Sequence[Num[np.ndarray, "_ _ _"]]):
        self.parts = tuple(parts)
        self.dtype = parts[0].dtype
        self.nbytes = sum(part.nbytes for part in parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W); raises `ValueError` if parts have several sizes."""
        sizes = {part.shape[1:] for part in self.parts}
        if len(sizes) > 1:
            raise ValueError(f"slices of several sizes: {sorted(sizes)}")
        return len(self), *sizes.pop()

    def __iter__(self) -> Iterator[Num[np.ndarray, "h w"]]:
        return (one for part in self.parts for one in part)

    def __getitem__(self, index: int | np.integer | slice | Sequence[int]
                    | Integer[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
        rows = (np.arange(*index.indices(len(self))) if isinstance(index, slice)
                else np.asarray(index))
        if rows.ndim:
            return np.stack([self[one] for one in rows]) if len(rows) else np.empty(
                (0, *self.shape[1:]), self.dtype)
        part = int(np.searchsorted(self._ends, rows, side="right"))
        one: np.ndarray = self.parts[part][rows - self._ends[part]]
        return one

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None
                  ) -> Num[np.ndarray, "..."]:
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)


Slices: TypeAlias = Num[np.ndarray, "n h w"] | SliceStack


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Slices of two doses; those of one index show the same anatomy.

    Attributes:
      ndct: (N, H, W) float32, normal dose; the function that makes them documents the unit.
      qdct: the same of the quarter dose.
    """

    ndct: Slices
    qdct: Slices

    def __len__(self) -> int:
        return len(self.ndct)

    def some(self, most: int) -> "Pairs":
        """At most `most` of the pairs, evenly spaced, in memory; `self` if there are no more."""
        if len(self) <= most:
            return self
        rows = evenly_spaced(len(self), most=most)
        return Pairs(self.ndct[rows], self.qdct[rows])

    @property
    def parts(self) -> list["Pairs"]:
        """The pairs of each file, in order."""
        if isinstance(self.ndct, SliceStack) and isinstance(self.qdct, SliceStack):
            return [Pairs(*doses) for doses in zip(self.ndct.parts, self.qdct.parts, strict=True)]
        return [self]

    @property
    def counts(self) -> list[int]:
        """Number of pairs of each file."""
        return [len(part) for part in self.parts]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each file's slices."""
        return [(height, width) for _, height, width in (part.ndct.shape for part in self.parts)]

    def size_of(self, row: int) -> tuple[int, ...]:
        """Height and width of one pair."""
        shape: tuple[int, ...] = self.ndct[row].shape
        return shape

    def sha256(self) -> str:
        """SHA-256 of the shape and of all pixels of both doses, in hexadecimal digits."""
        return text_digest(" ".join(array_digest(self.ndct[index], self.qdct[index],
                                                 heading=str(self.size_of(index)))
                                    for index in range(len(self))))

    def fingerprint(self) -> str:
        """Digest of the pairs' shape and of every eighth pixel of every eighth row."""
        if len(self.parts) > 1:
            return text_digest(" ".join(part.fingerprint() for part in self.parts))
        return array_digest(*(np.asarray(slices)[:, ::8, ::8] for slices in (self.ndct, self.qdct)),
                            heading=str(self.ndct.shape))


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of several files, one file after the other; nothing is copied."""
    if len(parts) == 1:
        return parts[0]
    return Pairs(SliceStack([np.asarray(part.ndct) for part in parts]),
                 SliceStack([np.asarray(part.qdct) for part in parts]))
