"""Batches of pairs for training and evaluation (grain).

A batch is {"ndct": …, "qdct": …}, each (N, H, W, 1) float32, normalised HU. Of several
processes, each reads its share of every batch: which pairs make a batch depends on the step
alone, so that a run goes on with any number of them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from dfgan_jax.ct.pairs import Pairs
from dfgan_jax.errors import InputError


def batch_of(pairs: Pairs, index: Any = slice(None)) -> dict[str, Any]:
    """Some pairs, or all of them, as a batch.

    A slice gives views. An array of numbers gives copies, and so also reads what is mapped,
    in the threads that read ahead.
    """
    return {"ndct": pairs.ndct[index][..., None], "qdct": pairs.qdct[index][..., None]}


def train_indices(pairs: Pairs, *, global_batch_size: int, seed: int) -> grain.MapDataset:
    """Which pairs make each batch of training, without end: `ds[step]` is (N,) int.

    Each epoch is shuffled anew, by the seed and the epoch; slices that do not fill
    the last batch of an epoch wait for another. Order depends on nothing else, so
    a run goes on from a step alone.

    Args:
      pairs: normalised HU.
      global_batch_size: pairs in a batch, over all devices.
      seed: of the order.

    Returns:
      A dataset whose first `steps_per_epoch` batches are the first epoch.

    Raises:
      InputError: there are fewer pairs than one batch takes.
    """
    steps_per_epoch(pairs, global_batch_size=global_batch_size)
    return (grain.MapDataset.range(len(pairs))
            .shuffle(seed=seed)
            .batch(global_batch_size, drop_remainder=True)
            .repeat())


def _all(rows: np.ndarray) -> np.ndarray:
    return rows


def train_batches(pairs: Pairs, *, global_batch_size: int, seed: int,
                  share: Callable[[np.ndarray], np.ndarray] = _all) -> grain.MapDataset:
    """The batches that `train_indices` names: `ds[step]` is the batch of that step.

    Args:
      pairs: normalised HU.
      global_batch_size: pairs in a batch, over all devices.
      seed: of the order.
      share: takes this process's part of a batch's numbers; all of them by default.
    """
    return train_indices(pairs, global_batch_size=global_batch_size, seed=seed).map(
        lambda rows: batch_of(pairs, share(rows)))


def steps_per_epoch(pairs: Pairs, *, global_batch_size: int) -> int:
    """Batches in an epoch of `train_batches`; `InputError` where there is not even one."""
    if len(pairs) < global_batch_size:
        raise InputError(f"data.train has {len(pairs)} slices; batch_size {global_batch_size} "
                         "takes at least as many")
    return len(pairs) // global_batch_size


def iterate_from(batches: grain.MapDataset, step: int) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `step` and after, read ahead by threads."""
    # Slicing an endless dataset would make it finite, so the iterator is moved instead.
    iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2,
                                                              prefetch_buffer_size=4)))
    iterator.set_state({"next_index": step})
    return iterator


def evaluation_indices(count: int, *, batch_size: int) -> np.ndarray:
    """Which of `count` pairs make each batch of an evaluation, in file order.

    Returns:
      (batches, batch_size) int32; the last batch repeats its first pair until it is full.
    """
    filled = -(-count // batch_size) * batch_size
    indices = np.arange(filled, dtype=np.int32).reshape(-1, batch_size)
    return np.where(indices < count, indices, indices[:, :1])


def evaluation_batches(pairs: Pairs, *, batch_size: int,
                       share: Callable[[np.ndarray], np.ndarray] = _all
                       ) -> Iterator[tuple[dict, np.ndarray]]:
    """Every pair once, in file order, in batches of one size.

    Args:
      pairs: normalised HU.
      batch_size: pairs in a batch, over all devices.
      share: takes this process's part of a batch's numbers; all of them by default.

    Yields:
      This process's share of the batch, whose last repeats its first pair until it is full;
      and `mask`, (batch_size,) bool, of the whole batch, False where a pair only fills it.
    """
    rows = evaluation_indices(len(pairs), batch_size=batch_size)
    for start, indices in zip(range(0, len(pairs), batch_size), rows, strict=True):
        yield batch_of(pairs, share(indices)), np.arange(start, start + batch_size) < len(pairs)
