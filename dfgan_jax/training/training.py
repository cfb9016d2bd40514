"""The networks, optimizers and losses of a training, and its steps."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
from jaxtyping import Array, Key, PyTree

from dfgan_jax.devices import parallel
from dfgan_jax.training import steps, validation
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, TrainState, create_state

Step: TypeAlias = Callable[..., PyTree]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The networks, and the steps that change them.

    Attributes:
      networks: the modules and the layout of the discriminators.
      optimizers: of the generator and of the discriminators.
      loss: weights and forms of the loss terms.
      accumulate: number of parts of a batch, computed one after another; see `steps.train_step`.
      remat: compute activations again for the gradient; see `steps.train_step`.
    """

    networks: Networks
    optimizers: Optimizers
    loss: LossOptions
    accumulate: int = 1
    remat: bool = False

    @property
    def step(self) -> Step:
        """(state, batch, axis_name=…) → (state, metrics); see `steps.train_step`."""
        return functools.partial(
            steps.train_step, networks=self.networks, optimizers=self.optimizers, loss=self.loss,
            accumulate=self.accumulate, remat=self.remat)

    @property
    def batch_statistics_step(self) -> Step:
        """(state, batch) → (state, metrics); see `steps.batch_statistics_step`."""
        return functools.partial(steps.batch_statistics_step, networks=self.networks,
                                 loss=self.loss)

    @property
    def validation_step(self) -> Step:
        """(state, batch) → metrics; see `validation.validation_step`."""
        return functools.partial(validation.validation_step, networks=self.networks,
                                 loss=self.loss)

    def initial_state(self, seed: int) -> TrainState:
        """The state of a new run, with random weights from the seed."""
        state: TrainState = parallel.run_once(self._create_state, jax.random.key(seed))
        return state

    def state_shapes(self) -> TrainState:
        """The shapes and types of a state, `jax.ShapeDtypeStruct`s."""
        shapes: TrainState = jax.eval_shape(self._create_state, jax.random.key(0))
        return shapes

    def in_dtype(self, dtype: str) -> "Training":
        """The same, with networks that compute in another dtype."""
        return dataclasses.replace(self, networks=self.networks._replace(
            generator=self.networks.generator.clone(dtype=dtype),
            discriminator=self.networks.discriminator.clone(dtype=dtype)))

    def _create_state(self, key: Key[Array, ""]) -> TrainState:
        return create_state(key, networks=self.networks, optimizers=self.optimizers)
