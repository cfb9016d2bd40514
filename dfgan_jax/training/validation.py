"""Scores of the validation split, and the choice of the best checkpoint by them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax
import numpy as np

from dfgan_jax.evaluation.metrics import all_metrics
from dfgan_jax.evaluation.protocols import FULL_RANGE_HU
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.checks import check_above_zero, check_not_negative, check_one_of
from dfgan_jax.training import steps
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, TrainState

Poll: TypeAlias = Callable[[], None]
"""Called between batches, by all processes; an exception of it ends the validation."""

Score: TypeAlias = Callable[[TrainState, Poll], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """The validation after each epoch.

    Attributes:
      statistics: of batch normalisation: `running`, as at test time; or `batch`, the statistics of
        each batch, which also update the running statistics, as in the published code.
      select_by: the best checkpoint has the highest `psnr`, or the lowest `generator_loss`.
      first_epoch: first epoch whose checkpoint may be the best, from 1.
      slices: most validation slices, evenly spaced over the split; 0: all.

    Raises:
      InputError: a value is out of range.
    """

    statistics: str
    select_by: str
    first_epoch: int
    slices: int = 0

    def __post_init__(self) -> None:
        check_one_of(self, "statistics", ("running", "batch"))
        check_one_of(self, "select_by", ("psnr", "generator_loss"))
        check_above_zero(self, "first_epoch")
        check_not_negative(self, "slices")

    def score(self, scores: dict[str, float], *, epoch: int) -> float | None:
        """The score of an epoch, highest for the best; None if the epoch cannot be the best."""
        if epoch < self.first_epoch:
            return None
        return -scores["generator_loss"] if self.select_by == "generator_loss" else scores["psnr"]


def validation_step(state: TrainState, batch: steps.Batch, *, networks: Networks,
                    loss: LossOptions) -> steps.Metrics:
    """Each loss, and each metric of `full_range`, per image, (N,)."""
    denoised, terms = steps.evaluation_step(state, batch, networks=networks, loss=loss)
    denoised_hu, ndct_hu = (hounsfield.denormalise(images[..., 0])
                            for images in (denoised, batch["ndct"]))
    metrics: steps.Metrics = all_metrics(denoised_hu, ndct_hu, FULL_RANGE_HU)
    return terms | metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Scores the validation split.

    Attributes:
      score: (state, poll) → metrics of each validation slice, (slices,).
      batch_statistics: (state, batch) → (state, metrics), normalised by each batch's statistics;
        None to normalise by the running statistics.
      take: part of the validation split → its batch, for `batch_statistics`.
      count: of the validation slices.
      batch_size: of `batch_statistics`.
    """

    score: Score
    batch_statistics: Callable[..., tuple[TrainState, steps.Metrics]] | None
    take: Callable[[slice], steps.Batch]
    count: int
    batch_size: int

    def __call__(self, state: TrainState, poll: Poll) -> tuple[TrainState, dict[str, float]]:
        """Returns the state, which changes only with batch statistics, and the mean scores."""
        batch_losses: list[dict[str, np.ndarray]] = []
        if self.batch_statistics is not None:
            for batch in self._batches():
                state, terms = self.batch_statistics(state, batch)
                batch_losses.append(jax.device_get(terms))
                poll()
        scores = {name: float(np.mean(values))
                  for name, values in self.score(state, poll).items()}
        if batch_losses:
            scores |= {name: float(np.mean([row[name] for row in batch_losses]))
                       for name in batch_losses[0]}
        return state, scores

    def _batches(self) -> Iterator[steps.Batch]:
        for start in range(0, self.count, self.batch_size):
            yield self.take(slice(start, start + self.batch_size))
