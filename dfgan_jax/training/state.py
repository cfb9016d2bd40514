"""Everything that training changes, and the networks and optimizers that change it."""

import dataclasses
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dfgan_jax.models.architecture import Generator
from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.porting.weights import Weights
from dfgan_jax.support.errors import InputError

Discriminators = Literal["pair", "joint", "none"]
"""`pair`: one on the image, one on the difference map. `joint`: one on both, as
two channels. `none`: supervised training without an adversary."""

CHANNELS: dict[str, dict[str, int]] = {
    "pair": {"image": 1, "difference": 1},
    "joint": {"joint": 2},
    "none": {},
}
"""Layout → name of each of its discriminators → input channels."""


class Networks(NamedTuple):
    """The modules; they hold no arrays.

    Attributes:
      generator: maps (N, H, W, 1) normalised quarter-dose slices to denoised ones.
      discriminator: the architecture that all discriminators of the layout share.
      discriminators: the layout.
    """

    generator: Generator
    discriminator: PatchDiscriminator
    discriminators: Discriminators = "pair"


class Optimizers(NamedTuple):
    """One for the generator, one for all discriminators together.

    Attributes:
      generator: of its parameters.
      discriminator: of those of all discriminators.
      average_decay: of the exponential moving average of the generator's weights; 0 for none.
    """

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation
    average_decay: float = 0.0


@flax.struct.dataclass
class TrainState:
    """The state of a run: what a checkpoint holds.

    Attributes:
      step: () int32, updates made.
      key: (2,) uint32, raw data of the run's PRNG key.
      generator: {"params": …, "batch_stats": …}; the second is empty for a generator that
        normalises nothing.
      generator_opt_state: of the generator's optimizer.
      discriminators: name → {"params": …}.
      discriminator_opt_state: of the discriminators' optimizer.
      average: the exponential moving average of `generator`, which is then the model that is
        evaluated; empty where none is kept.
    """

    step: jax.Array
    key: jax.Array
    generator: Any
    generator_opt_state: Any
    discriminators: Any
    discriminator_opt_state: Any
    average: Any = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The generator's variables that are evaluated: their average, where one is kept."""
        return self.average or self.generator


def create_state(key: jax.Array, networks: Networks, optimizers: Optimizers) -> TrainState:
    """Initial weights and optimizer states, a function of the key alone."""
    generator_key, discriminator_key, run_key = jax.random.split(key, 3)
    generator = initial_variables(networks.generator, generator_key)
    channels = CHANNELS[networks.discriminators]
    keys = jax.random.split(discriminator_key, max(len(channels), 1))
    discriminators = {
        name: networks.discriminator.init(name_key, jnp.zeros((1, 32, 32, count)))
        for (name, count), name_key in zip(channels.items(), keys, strict=False)}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(run_key),
        generator=generator,
        generator_opt_state=optimizers.generator.init(generator["params"]),
        discriminators=discriminators,
        discriminator_opt_state=optimizers.discriminator.init(discriminators),
        average=jax.tree.map(jnp.copy, generator) if optimizers.average_decay else {})


def with_weights(state: TrainState, weights: Weights) -> TrainState:
    """A new run's state that starts from trained networks.

    The discriminators are taken over where they are of the same layout and width; else
    they stay as they were.

    Raises:
      InputError: the generator is another.
    """
    def shapes(tree):
        return jax.tree.map(jnp.shape, tree)

    generator = weights.generator_variables
    if shapes(generator) != shapes(state.generator):
        raise InputError(f"its generator has width {weights.width} and "
                         f"{'' if weights.attention else 'no '}attention, which is not that of "
                         f"the configuration; its architecture is {weights.architecture}")
    same = shapes(weights.discriminators) == shapes(state.discriminators)
    taken = {"generator": generator} | ({"discriminators": weights.discriminators} if same else {})
    if state.average:
        taken["average"] = generator
    return dataclasses.replace(state, **jax.tree.map(jnp.asarray, taken))
