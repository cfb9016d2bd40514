"""The optimizers: Adam or Muon for the generator, Adam for the discriminators."""

import dataclasses

import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers, muon

from dfgan_jax.support.checks import (
    check_above_zero,
    check_below_one,
    check_finite,
    check_not_negative,
    check_one_of,
)
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.state import Networks, Optimizers, has_batch_stats

MUON_NORM = 3.0
"""Spectral norm of an update by Muon over the learning rate, times √(outputs / inputs) where a
kernel has more outputs. A 3×3 kernel of 24 channels so has updates of the root mean square 0.2, as
Liu et al. (2025, arXiv:2502.16982) scale all kernels; wider ones have smaller updates, as their
initial weights are smaller. Updates of the same root mean square made the deep stages of U-Nets
without normalisation grow until they were constant (docs/recipe.md)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The updates of the weights; the defaults are those of the slides.

    Attributes:
      algorithm: of the generator: `adam`, or `muon` (Jordan et al., 2024): the momentum of each
        convolution's kernel between features becomes the nearest matrix with orthonormal rows
        or columns, times `MUON_NORM` and the rate; NAdam updates all other parameters.
      generator_learning_rate: above 0.
      discriminator_learning_rate: above 0.
      schedule: of both rates: `constant`, or `cosine`, which falls to 0 at the last update.
      b1: decay of Adam's first moment, 0 to below 1; Muon's momentum decays by 0.95.
      b2: decay of Adam's second moment, 0 to below 1.
      eps: Adam's ε, above 0.
      warm_up_steps: updates in which the generator's rate rises from 0.
      weight_decay: of the generator's weights, times the rate; under Muon of its kernels alone,
        times their rate.
      clip_norm: largest norm of the generator's gradient, which is scaled down to it; 0: no limit.
      average_decay: decay of the exponential moving average of the generator's weights, 0 to
        below 1; 0: no average.
      freeze_batch_stats: batch normalisation keeps the running statistics of the initial checkpoint
        and normalises by them in training, too.

    Raises:
      InputError: a value is out of range.
    """

    algorithm: str = "adam"
    generator_learning_rate: float
    discriminator_learning_rate: float
    schedule: str
    b1: float
    b2: float
    eps: float
    warm_up_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    average_decay: float = 0.0
    freeze_batch_stats: bool = False

    def __post_init__(self) -> None:
        check_one_of(self, "algorithm", ("adam", "muon"))
        check_one_of(self, "schedule", ("constant", "cosine"))
        check_one_of(self, "freeze_batch_stats", (False, True))
        check_above_zero(self, "generator_learning_rate", "discriminator_learning_rate", "eps")
        check_not_negative(self, "warm_up_steps", "weight_decay", "clip_norm")
        check_finite(self, "generator_learning_rate", "discriminator_learning_rate", "eps",
                     "weight_decay")
        check_below_one(self, "b1", "b2", "average_decay")

    def check_length(self, total_steps: int) -> None:
        """Checks that the warm-up is shorter than a run of `total_steps` updates.

        Raises:
          InputError: it is not.
        """
        if self.warm_up_steps >= total_steps:
            raise InputError(f"warm_up_steps is {self.warm_up_steps}; expected fewer than the "
                             f"{total_steps} updates of the run")

    def check_start(self, networks: Networks, *, initial_checkpoint: str) -> None:
        """Checks that running statistics to freeze exist.

        Args:
          networks: of the run.
          initial_checkpoint: weights that training starts from; empty: random ones.

        Raises:
          InputError: they do not.
        """
        if not self.freeze_batch_stats:
            return
        if not initial_checkpoint:
            raise InputError("freeze_batch_stats is True; expected False, or an "
                             "initial_checkpoint with the statistics")
        if not has_batch_stats(networks):
            raise InputError("freeze_batch_stats is True; expected False, since the generator has "
                             "no batch normalisation")

    def build(self, *, total_steps: int) -> Optimizers:
        """Makes the optimizers of a run of `total_steps` updates."""
        moments = {"b1": self.b1, "b2": self.b2, "eps": self.eps}
        steps = {"total_steps": total_steps, "warm_up_steps": self.warm_up_steps}
        rate = self._schedule(self.generator_learning_rate, **steps)
        if self.algorithm == "muon":
            generator = muon(
                self._schedule(MUON_NORM * self.generator_learning_rate, **steps),
                adam_learning_rate=rate, adam_b1=self.b1, adam_b2=self.b2, eps=self.eps,
                weight_decay=self.weight_decay,
                muon_weight_dimension_numbers=_kernels_between_features)
        elif self.weight_decay:
            generator = optax.adamw(rate, weight_decay=self.weight_decay, **moments)
        else:
            generator = optax.adam(rate, **moments)
        if self.clip_norm:
            generator = optax.chain(optax.clip_by_global_norm(self.clip_norm), generator)
        return Optimizers(
            generator=generator,
            discriminator=optax.adam(self._schedule(
                self.discriminator_learning_rate, total_steps=total_steps), **moments),
            average_decay=self.average_decay, freezes_batch_stats=self.freeze_batch_stats)

    def _schedule(self, learning_rate: float, *, total_steps: int, warm_up_steps: int = 0
                  ) -> optax.ScalarOrSchedule:
        if warm_up_steps:
            return optax.warmup_cosine_decay_schedule(
                0.0, learning_rate, warm_up_steps, max(total_steps, warm_up_steps + 1),
                0.0 if self.schedule == "cosine" else learning_rate)
        if self.schedule == "cosine":
            return optax.cosine_decay_schedule(learning_rate, total_steps)
        return learning_rate


def _kernels_between_features(params: PyTree) -> PyTree:
    """The kernels (height, width, in, out) that Muon updates: matrices (height · width · in, out).

    Those of transposed convolutions, (in, 2, 2, out), are matrices (in, 4 · out), as `UpConv` uses
    them. NAdam updates those of the first layer, of the last, and of spatial gates, as Muon's
    authors recommend: a matrix of fewer than four channels on one side has hardly a spectrum.
    """
    def numbers(kernel: Array | np.ndarray) -> MuonDimensionNumbers | None:
        if kernel.ndim == 4 and min(kernel.shape[2:]) >= 4:
            return MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
        if kernel.ndim == 4 and kernel.shape[1:3] == (2, 2) and min(kernel.shape[::3]) >= 4:
            return MuonDimensionNumbers(reduction_axis=0, output_axis=(1, 2, 3))
        return None

    return jax.tree.map(numbers, params)
