"""The compiled steps of a run, with pairs that the host sends or that stay on the devices."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree

from dfgan_jax.data.pairs import Pairs
from dfgan_jax.devices import agreement, parallel
from dfgan_jax.support.errors import InputError
from dfgan_jax.training import input_pipeline
from dfgan_jax.training.input_pipeline import HostBatch, Sampling
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.steps import Metrics
from dfgan_jax.training.training import Step, Training
from dfgan_jax.training.validation import Poll, Score, Validation

_BATCHES_A_CALL = 8
"""Most batches of a validation between two polls, with pairs on the devices."""

Advance: TypeAlias = Callable[[TrainState, int, int], tuple[TrainState, Metrics, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledSteps:
    """The functions that a loop calls.

    Attributes:
      advance: (state, step, most) → (state, metrics, count): makes the `count` updates after
        `step`, at least one and at most `most`; the metrics of each update are (count,) or longer,
        or scalars of one.
      validate: (state, poll) → (state, mean scores of the validation split).
      waited_s: seconds that `advance` has waited for data so far.
    """

    advance: Advance
    validate: Callable[[TrainState, Poll], tuple[TrainState, dict[str, float]]]
    waited_s: Callable[[], float]


def is_resident(data: Mapping[str, Pairs], on_device: str, devices: parallel.Parallelism) -> bool:
    """Whether the pairs of training and validation stay on the devices; the same in all processes.

    Args:
      data: split → pairs.
      on_device: `auto`, `always` or `never`.
      devices: the devices that train.

    Raises:
      InputError: `on_device` is `always`, and the training slices have several sizes.
    """
    if len(set(data["train"].sizes)) > 1:
        if on_device == "always":
            raise InputError("on_device is 'always'; expected 'never' or 'auto', since the files "
                             "of data.train have slices of several sizes")
        return False
    if on_device == "auto":
        size = sum(2 * data[split].ndct.nbytes for split in ("train", "valid"))
        # Processes that decided otherwise would run other programs, and wait for each other.
        return all(agreement.gathered(devices.fits(size)))
    return on_device == "always"


def compile_steps(training: Training, data: Mapping[str, Pairs], *, sampling: Sampling,
                  most: int, batch_statistics: bool, devices: parallel.Parallelism,
                  resident: bool) -> CompiledSteps:
    """Makes the steps of a run; the first call of each compiles it.

    Args:
      training: the networks, optimizers and losses.
      data: `train` and `valid`, in normalised HU.
      sampling: how training takes its batches.
      most: largest number of updates in one call of `advance`.
      batch_statistics: whether validation normalises by each batch's statistics.
      devices: the devices that share a batch.
      resident: whether pairs stay on the devices.
    """
    take_valid: Callable[[slice], PyTree] = functools.partial(input_pipeline.batch_of,
                                                              data["valid"])
    if resident:
        placed = devices.place(take_valid(slice(None)))
        take_valid = functools.partial(_part, placed)
    devices.connect()
    scoring = training.validation_step
    # Whole slices take more memory than crops: as many at once as of a part in training.
    at_once = sampling.global_batch_size // training.accumulate
    if resident:
        advance, waited_s = _advance_resident(training, data["train"], sampling, devices, most)
        score = _score_resident(scoring, placed, at_once, devices)
    else:
        advance, waited_s = _advance_streaming(training, data["train"], sampling, devices)
        score = _score_streaming(scoring, data["valid"], at_once, devices)
    return CompiledSteps(advance=advance, waited_s=waited_s, validate=Validation(
        score=score, take=take_valid, count=len(data["valid"]),
        batch_size=sampling.global_batch_size,
        batch_statistics=(parallel.unshared(training.batch_statistics_step)
                          if batch_statistics else None)))


def _part(placed: PyTree, part: slice) -> PyTree:
    return {name: images[part] for name, images in placed.items()}


def _advance_streaming(training: Training, pairs: Pairs, sampling: Sampling,
                       devices: parallel.Parallelism) -> tuple[Advance, Callable[[], float]]:
    """`CompiledSteps.advance`, one update per call, with batches of the host; and `waited_s`."""
    update = devices.train(training.step)
    batches = input_pipeline.train_batches(pairs, sampling, share=devices.share)
    iterator: Iterator[HostBatch] | None = None
    waited_s = 0.0

    def advance(state: TrainState, step: int, most: int) -> tuple[TrainState, Metrics, int]:
        nonlocal iterator, waited_s
        del most
        iterator = iterator or input_pipeline.iterate_from(batches, step)
        start = time.monotonic()
        batch = next(iterator)
        waited_s += time.monotonic() - start
        state, metrics = update(state, batch)
        return state, metrics, 1
    return advance, lambda: waited_s


def _advance_resident(training: Training, pairs: Pairs, sampling: Sampling,
                      devices: parallel.Parallelism, most: int
                      ) -> tuple[Advance, Callable[[], float]]:
    """`CompiledSteps.advance`, up to `most` updates per call, with pairs on the devices."""
    update = devices.train_many(training.step, take=functools.partial(
        input_pipeline.take_views, sampling=sampling))
    views = input_pipeline.train_views(pairs, sampling)
    placed = devices.place(input_pipeline.batch_of(pairs))
    longest = min(most, input_pipeline.steps_per_epoch(
        pairs, global_batch_size=sampling.global_batch_size))

    def advance(state: TrainState, step: int, most: int) -> tuple[TrainState, Metrics, int]:
        # A fixed number of batches, used or not, so that one program is compiled.
        batches = jax.tree.map(lambda *each: np.stack(each),
                               *[views[step + i] for i in range(longest)])
        count = min(most, longest)
        state, metrics = update(state, placed, batches, np.int32(count))
        return state, metrics, count
    return advance, lambda: 0.0


def _score_streaming(step: Step, pairs: Pairs, batch_size: int,
                     devices: parallel.Parallelism) -> Score:
    """`Validation.score`, one batch per call."""
    score = devices.evaluate(step)

    def validate(state: TrainState, poll: Poll) -> dict[str, np.ndarray]:
        parts = []
        for batch, mask in input_pipeline.evaluation_batches(
                pairs, batch_size=batch_size, share=devices.share):
            parts.append({name: np.asarray(values)[mask]
                          for name, values in score(state, batch).items()})
            poll()
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return validate


def _score_resident(step: Step, placed: PyTree, batch_size: int,
                    devices: parallel.Parallelism) -> Score:
    """`Validation.score`, several batches in one call, with pairs on the devices."""
    score = devices.evaluate_many(step)
    count = len(placed["ndct"])
    indices = input_pipeline.evaluation_indices(count, batch_size=batch_size)
    a_call = min(_BATCHES_A_CALL, len(indices))
    # Batches once more fill the last call, so that one program is compiled.
    indices = np.resize(indices, (-(-len(indices) // a_call) * a_call, batch_size))

    def validate(state: TrainState, poll: Poll) -> dict[str, np.ndarray]:
        parts = []
        for start in range(0, len(indices), a_call):
            parts.append(score(state, placed, indices[start:start + a_call]))
            poll()
        # The pairs that only fill the last batch, and the last call, come last.
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
    return validate
