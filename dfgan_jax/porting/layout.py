"""What a layout is: the entries of a PyTorch state dict, mapped to the Flax variables.

A *path* names a leaf of the Flax variables with its collection in front, as in
`params/inc/conv1/kernel` or `batch_stats/inc/norm1/mean`; a *key* names an
entry of a PyTorch state dict, as in `inc.conv.conv.0.weight`.

PyTorch's norms also count the batches that moved their statistics. Nothing reads
the counts; they are kept, so that a file comes back as it was, in a collection of
their own, `batches_tracked`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dfgan_jax.models.architecture import Architecture

COUNTS = "batches_tracked"
"""The collection of the norms' counts of batches."""


class Axes(NamedTuple):
    """A change of layout.

    Letters: o and i are channels out and in, h and w height and width.

    Attributes:
      order: axes of Flax's array, taken from PyTorch's.
      torch: PyTorch's axes.
      flax: Flax's.
    """

    order: tuple[int, ...]
    torch: str
    flax: str


CONV = Axes((2, 3, 1, 0), "oihw", "hwio")
DENSE = Axes((1, 0), "oi", "io")
UP_CONV = Axes((0, 2, 3, 1), "iohw", "ihwo")
TRANSPOSED_CONV = Axes((2, 3, 0, 1), "iohw", "hwio")


class Entry(NamedTuple):
    """Where an entry of a state dict goes.

    Attributes:
      path: of the Flax variable.
      shape: PyTorch's.
      axes: the change of layout; None where there is none.
    """

    path: str
    shape: tuple[int, ...]
    axes: Axes | None = None

    @property
    def collection(self) -> str:
        """`params`, `batch_stats` or `batches_tracked`."""
        return self.path.split("/")[0]

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else np.transpose(array, self.axes.order)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else np.transpose(array, np.argsort(self.axes.order))


Layout = Mapping[str, Entry]
"""Key → entry, in PyTorch's order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkLayout:
    """How a generator lies in files of PyTorch. All of it stands in one file of this folder.

    Attributes:
      architecture: the generator; options are its `Architecture.options`.
      layout: of a network with some options.
      keys: every key that a network of the architecture may have.
      shown: the options that tensors show by their keys and shapes, the published ones where some
        are missing; None where they are not of such a network at all.
      published: options of the published networks, of which a reader is told.
      describe: a network with some options, in words, but for its width.
      is_told_by_one_key: a single key is enough to take tensors for such a network, since no
        others have keys like these; else half of them are needed.
    """

    architecture: Architecture
    layout: Callable[[Any], Layout]
    keys: Layout
    shown: Callable[[Mapping[str, np.ndarray]], Any | None]
    published: Sequence[Any]
    describe: Callable[[Any], str]
    is_told_by_one_key: bool = False


def needed(layout: Layout) -> list[str]:
    """The keys but for the counts, which some files lack."""
    return [key for key, entry in layout.items() if entry.collection != COUNTS]


def size_of(tensors: Mapping[str, np.ndarray], key: str, axis: int, *, default: int) -> int:
    """A size of a kernel, from which a network's width is told; from 1 to 2²⁰.

    Args:
      tensors: key → array.
      key: of a kernel, four-dimensional.
      axis: of it.
      default: where there is no such kernel.
    """
    if key not in tensors or tensors[key].ndim != 4:
        return default
    return min(max(tensors[key].shape[axis], 1), 1 << 20)


def kernel(key: str, path: str, shape: tuple[int, ...], axes: Axes) -> Layout:
    return {f"{key}.weight": Entry(f"params/{path}/kernel", shape, axes)}


def bias(key: str, path: str, features: int) -> Layout:
    return {f"{key}.bias": Entry(f"params/{path}/bias", (features,))}


def conv(key: str, path: str, features_in: int, features: int, size: int) -> Layout:
    return {**kernel(key, path, (features, features_in, size, size), CONV),
            **bias(key, path, features)}


def dense(key: str, path: str, features_in: int, features: int) -> Layout:
    return {**kernel(key, path, (features, features_in), DENSE), **bias(key, path, features)}


def norm(key: str, path: str, features: int) -> Layout:
    return {f"{key}.weight": Entry(f"params/{path}/scale", (features,)),
            f"{key}.bias": Entry(f"params/{path}/bias", (features,)),
            f"{key}.running_mean": Entry(f"batch_stats/{path}/mean", (features,)),
            f"{key}.running_var": Entry(f"batch_stats/{path}/var", (features,)),
            f"{key}.num_batches_tracked": Entry(f"{COUNTS}/{path}", ())}


def affine(key: str, path: str, features: int) -> Layout:
    return {f"{key}.weight": Entry(f"params/{path}/scale", (features,)),
            **bias(key, path, features)}
