"""Layouts: the entries of a PyTorch state dict, mapped to the Flax variables.

A *path* names a leaf of the Flax variables, starting with its collection, as in
`params/inc/conv1/kernel` or `batch_stats/inc/norm1/mean`; a *key* names an
entry of a PyTorch state dict, as in `inc.conv.conv.0.weight`.

PyTorch's norms also count the batches that updated their statistics. The counts are unused, but
kept in the collection `batches_tracked`, so that a conversion back restores the file.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple

import flax.traverse_util
import numpy as np
from jaxtyping import Array, PyTree

from dfgan_jax.models.architecture import Architecture, OptionsT

COUNTS = "batches_tracked"
"""The collection of the norms' counts of batches."""


class Axes(NamedTuple):
    """A permutation of axes.

    Letters: o and i are output and input channels, h and w height and width.

    Attributes:
      order: PyTorch's axes in the order of Flax's array.
      torch: letters of PyTorch's axes.
      flax: letters of Flax's axes.
    """

    order: tuple[int, ...]
    torch: str
    flax: str


CONV = Axes((2, 3, 1, 0), "oihw", "hwio")
DENSE = Axes((1, 0), "oi", "io")
UP_CONV = Axes((0, 2, 3, 1), "iohw", "ihwo")
TRANSPOSED_CONV = Axes((2, 3, 0, 1), "iohw", "hwio")


class Entry(NamedTuple):
    """The Flax variable of an entry of a state dict.

    Attributes:
      path: of the Flax variable.
      shape: PyTorch's.
      axes: the permutation of axes; None for the identity.
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
class NetworkLayout(Generic[OptionsT]):
    """The layout of a generator in files of PyTorch, defined in one file of this folder.

    Attributes:
      architecture: the generator; options are its `Architecture.options`.
      layout: options → layout.
      keys: every key that a network of the architecture may have.
      shown: tensors → options, read from keys and shapes, with published values for missing
        tensors; None if the tensors belong to another network.
      published: options of the published networks, named in error messages.
      describe: options → description of the network, without its width.
      is_told_by_one_key: recognise the network by a single key, since its keys are unique;
        otherwise half of the keys are needed.
    """

    architecture: Architecture[OptionsT]
    layout: Callable[[OptionsT], Layout]
    keys: Layout
    shown: Callable[[Mapping[str, np.ndarray]], OptionsT | None]
    published: Sequence[OptionsT]
    describe: Callable[[OptionsT], str]
    is_told_by_one_key: bool = False


def flattened(variables: Mapping[str, PyTree]) -> dict[str, Array | np.ndarray]:
    """Variables by their paths: nested → path → array."""
    flatten: Callable[..., dict[str, Array | np.ndarray]] = flax.traverse_util.flatten_dict
    return flatten(dict(variables), sep="/")


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, PyTree]:
    """The inverse of `flattened`."""
    unflatten: Callable[..., dict[str, PyTree]] = flax.traverse_util.unflatten_dict
    return unflatten(arrays, sep="/")


def needed(layout: Layout) -> list[str]:
    """The keys without those of the counts, which some files lack."""
    return [key for key, entry in layout.items() if entry.collection != COUNTS]


def size_of(tensors: Mapping[str, np.ndarray], key: str, axis: int, *, default: int) -> int:
    """The size of an axis of a kernel, limited to 1 to 2²⁰; it determines a network's width.

    Args:
      tensors: key → array.
      key: of a four-dimensional kernel.
      axis: of the kernel.
      default: for a missing kernel.
    """
    if key not in tensors or tensors[key].ndim != 4:
        return default
    return min(max(int(tensors[key].shape[axis]), 1), 1 << 20)


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
