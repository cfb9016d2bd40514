"""Batches of pairs for training and evaluation (grain).

A batch is {"ndct": …, "qdct": …}, each (N, H, W, 1) float32, normalised HU. Each of several
processes reads its share of every batch. The pairs of a batch, their crops and their orientations
depend on the seed and the step alone, so that a run continues with any number of processes.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple, TypeAlias, TypeVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dfgan_jax.data.pairs import Pairs, Slices
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import counted

ORIENTATIONS = 8

HostBatch: TypeAlias = dict[str, Float[np.ndarray, "n h w 1"]]

Share: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""An array with an entry for each pair of a batch → the entries of this process."""

_Image = TypeVar("_Image", np.ndarray, jax.Array)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How training takes its batches from the pairs.

    Attributes:
      global_batch_size: pairs in a batch, over all devices.
      seed: of the order, of the crops and of their orientation.
      crop: height and width of the random crops, the same of both doses [pixels]; 0: whole
        slices.
      augment: each slice or crop has a random one of the eight orientations by flips and quarter
        turns.
      shares: shares of the files in the batches, which add up to 1; None: each slice is as
        frequent as any other.
    """

    global_batch_size: int
    seed: int
    crop: int = 0
    augment: bool = False
    shares: Sequence[float] | None = None


class Views(NamedTuple):
    """The pairs of a batch, and the crop and orientation of each; arrays of one shape.

    Attributes:
      rows: indices of the pairs.
      tops: first row of each crop.
      lefts: first column of each crop.
      orientations: of each, 0 to 7: bit 0 flips rows, bit 1 columns, bit 2 transposes.
    """

    rows: Int[Array | np.ndarray, "..."]
    tops: Int[Array | np.ndarray, "..."]
    lefts: Int[Array | np.ndarray, "..."]
    orientations: Int[Array | np.ndarray, "..."]


def batch_of(pairs: Pairs, index: slice | Int[np.ndarray, " n"] = slice(None)) -> HostBatch:
    """Some pairs, or all of them, as a batch.

    A slice of the pairs of one file gives views. All else gives copies; copies of mapped pairs are
    read from the file in the threads that read ahead.
    """
    return {"ndct": pairs.ndct[index][..., None], "qdct": pairs.qdct[index][..., None]}


def _oriented(image: _Image, orientation: int | jax.Array, xp: ModuleType) -> _Image:
    """A square image (H, H, …) in one of its eight orientations; `xp` is NumPy or JAX's."""
    image = xp.where(orientation & 1, image[::-1], image)
    image = xp.where(orientation & 2, image[:, ::-1], image)
    turned: _Image = xp.where(orientation & 4, xp.swapaxes(image, 0, 1), image)
    return turned


def view_batch(pairs: Pairs, views: Views, sampling: Sampling) -> HostBatch:
    """The batch of some views, on the host; reads no more of each slice than its crop."""
    def view(slices: Slices, row: int, top: int, left: int, orientation: int) -> np.ndarray:
        size = sampling.crop or None
        image = slices[row][top:size and top + size, left:size and left + size]
        return _oriented(image, orientation, np) if sampling.augment else image

    if not sampling.crop and not sampling.augment:
        return batch_of(pairs, np.asarray(views.rows))
    return {name: np.stack([view(slices, *map(int, each))
                            for each in zip(*views, strict=True)])[..., None]
            for name, slices in (("ndct", pairs.ndct), ("qdct", pairs.qdct))}


def take_views(pairs: Mapping[str, Float[Array, "m h w 1"]], views: Views, *, sampling: Sampling
               ) -> dict[str, Float[Array, "n height width 1"]]:
    """The batch of some views of pairs that are on the device, each (M, H, W, 1)."""
    def view(images: jax.Array, row: jax.Array, top: jax.Array, left: jax.Array,
             orientation: jax.Array) -> jax.Array:
        image = images[row]
        if sampling.crop:
            image = jax.lax.dynamic_slice(image, (top, left, 0),
                                          (sampling.crop, sampling.crop, 1))
        return _oriented(image, orientation, jnp) if sampling.augment else image

    if not sampling.crop and not sampling.augment:
        return {name: jnp.take(images, views.rows, axis=0) for name, images in pairs.items()}
    return {name: jax.vmap(lambda *each, images=images: view(images, *each))(*views)
            for name, images in pairs.items()}


def train_views(pairs: Pairs, sampling: Sampling) -> grain.MapDataset:
    """The views of each batch of training, without end: `ds[step]` is `Views` of (N,).

    The order of an epoch depends on the seed and the epoch. Slices that do not fill the last
    batch of an epoch are left out of it. With shares, each file has its own order, and begins
    again when it ends. Every batch depends on the seed and the step alone, so that a run
    continues from a step.

    Returns:
      A dataset whose first `steps_per_epoch` batches are the first epoch.

    Raises:
      InputError: there are fewer pairs than one batch takes, a crop is larger than a slice, or
        slices that are not square are to be turned.
    """
    steps_per_epoch(pairs, global_batch_size=sampling.global_batch_size)
    if sampling.crop:
        for height, width in pairs.sizes:
            if sampling.crop > min(height, width):
                raise InputError(f"data.crop is {sampling.crop}, larger than slices of data.train "
                                 f"({height}×{width})")
    elif sampling.augment and any(height != width for height, width in pairs.sizes):
        raise InputError("data.augment turns slices of data.train that are not square; expected "
                         "data.crop as well")

    def views(step: int, rows: np.ndarray) -> Views:
        random = np.random.default_rng([sampling.seed, int(step)])
        tops, lefts, orientations = np.zeros((3, len(rows)), np.int32)
        if sampling.crop:
            room = np.array([pairs.size_of(int(row)) for row in rows]) - sampling.crop + 1
            tops, lefts = random.integers(room.T, dtype=np.int32)
        if sampling.augment:
            orientations = random.integers(ORIENTATIONS, size=len(rows), dtype=np.int32)
        return Views(rows.astype(np.int32), tops, lefts, orientations)

    return _rows(pairs, sampling).map_with_index(views)


def _rows(pairs: Pairs, sampling: Sampling) -> grain.MapDataset:
    """The indices of the pairs of each batch, (N,)."""
    if sampling.shares is None:
        return (grain.MapDataset.range(len(pairs))
                .shuffle(seed=_order_seed(sampling.seed))
                .batch(sampling.global_batch_size, drop_remainder=True)
                .repeat())
    ends = itertools.accumulate(pairs.counts)
    files = [grain.MapDataset.range(start, end).shuffle(seed=_order_seed(sampling.seed, number))
             .repeat() for number, (start, end) in enumerate(itertools.pairwise([0, *ends]))]
    mixed = grain.MapDataset.mix(files, list(sampling.shares))
    return mixed.batch(sampling.global_batch_size, drop_remainder=True)


def _order_seed(seed: int, file: int = 0) -> int:
    """The seed of the order of a file's slices.

    Grain adds the epoch to it, so that near seeds would have the same orders, some epochs apart.
    """
    return int(np.random.SeedSequence([seed, file]).generate_state(1)[0])


def _all(rows: np.ndarray) -> np.ndarray:
    return rows


def train_batches(pairs: Pairs, sampling: Sampling, *, share: Share = _all) -> grain.MapDataset:
    """The batches of `train_views`: `ds[step]` is the batch of that step.

    Args:
      pairs: normalised HU.
      sampling: how they are taken.
      share: takes this process's part of a batch's indices; all of them by default.
    """
    return train_views(pairs, sampling).map(
        lambda views: view_batch(pairs, Views(*map(share, views)), sampling))


def steps_per_epoch(pairs: Pairs, *, global_batch_size: int) -> int:
    """Batches in an epoch of `train_batches`.

    Raises:
      InputError: there are fewer pairs than one batch takes.
    """
    if len(pairs) < global_batch_size:
        raise InputError(f"data.train has {counted(len(pairs), 'slice')}; batch_size "
                         f"{global_batch_size} takes at least as many")
    return len(pairs) // global_batch_size


def iterate_from(batches: grain.MapDataset, step: int) -> Iterator[HostBatch]:
    """The batches of `step` and after, read ahead by threads."""
    # Slicing an endless dataset would make it finite, so the iterator is moved instead.
    iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2,
                                                              prefetch_buffer_size=4)))
    iterator.set_state({"next_index": step})
    moved: Iterator[HostBatch] = iterator
    return moved


def evaluation_indices(count: int, *, batch_size: int) -> Int[np.ndarray, "batches batch_size"]:
    """The indices of `count` pairs in the batches of an evaluation, in file order.

    Returns:
      (batches, batch_size) int32; the last batch repeats its first pair until it is full.
    """
    filled = -(-count // batch_size) * batch_size
    indices = np.arange(filled, dtype=np.int32).reshape(-1, batch_size)
    return np.where(indices < count, indices, indices[:, :1])


def evaluation_batches(pairs: Pairs, *, batch_size: int, share: Share = _all
                       ) -> Iterator[tuple[HostBatch, Bool[np.ndarray, " batch_size"]]]:
    """Every pair once, in file order, in batches of one size.

    Args:
      pairs: normalised HU.
      batch_size: pairs in a batch, over all devices.
      share: takes this process's part of a batch's indices; all of them by default.

    Yields:
      This process's share of a batch; the last batch repeats its first pair until it is full.
      And `mask` of the whole batch, (batch_size,) bool, False for these repetitions.
    """
    rows = evaluation_indices(len(pairs), batch_size=batch_size)
    for start, indices in zip(range(0, len(pairs), batch_size), rows, strict=True):
        yield batch_of(pairs, share(indices)), np.arange(start, start + batch_size) < len(pairs)
