"""The state of training, and the networks and optimizers that change it."""

import dataclasses
from typing import Literal, NamedTuple, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, PyTree, UInt32

from dfgan_jax.models.architecture import Generator
from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.widening import is_narrower, widen
from dfgan_jax.porting.layout import flattened
from dfgan_jax.porting.weights import Weights
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import counted

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
      generator: maps (N, H, W, 1) normalised quarter-dose slices to denoised slices.
      discriminator: the module that all discriminators of the layout share.
      discriminators: the layout.
    """

    generator: Generator
    discriminator: PatchDiscriminator
    discriminators: Discriminators = "pair"


class Optimizers(NamedTuple):
    """One optimizer for the generator, one for all discriminators together.

    Attributes:
      generator: of the generator's parameters.
      discriminator: of the parameters of all discriminators.
      average_decay: decay of the exponential moving average of the generator's weights; 0: no
        average.
      freezes_batch_stats: the generator's running statistics stay, and normalise in training, too.
    """

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation
    average_decay: float = 0.0
    freezes_batch_stats: bool = False


@no_type_check  # JAX makes trees of other leaves with it, such as shapes, or None
@flax.struct.dataclass
class TrainState:
    """The state of a run, as a checkpoint holds it.

    Attributes:
      step: () int32, updates made.
      key: (2,) uint32, raw data of the run's PRNG key.
      generator: {"params": …, "batch_stats": …}; the second is empty for a generator without
        normalisation.
      generator_opt_state: of the generator's optimizer.
      discriminators: name → {"params": …}.
      discriminator_opt_state: of the discriminators' optimizer.
      average: the exponential moving average of `generator`, which is then the evaluated model;
        empty without an average.
    """

    step: Int[Array | np.ndarray, ""]
    key: UInt32[Array | np.ndarray, " 2"]
    generator: dict[str, PyTree]
    generator_opt_state: PyTree
    discriminators: dict[str, PyTree]
    discriminator_opt_state: PyTree
    average: dict[str, PyTree] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> dict[str, PyTree]:
        """The variables that are evaluated: the average, or the generator without an average."""
        return self.average or self.generator


def has_batch_stats(networks: Networks) -> bool:
    """Whether the generator has running statistics, of batch normalisation."""
    shapes = jax.eval_shape(lambda: initial_variables(networks.generator, jax.random.key(0)))
    return bool(shapes["batch_stats"])


def create_state(key: Key[Array, ""], networks: Networks, optimizers: Optimizers) -> TrainState:
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


def widens(state: TrainState, weights: Weights) -> bool:
    """Whether a run that starts from `weights` widens them; see `widen`."""
    return is_narrower(weights.generator_variables, state.generator)


def with_weights(state: TrainState, weights: Weights) -> TrainState:
    """The state of a new run that starts from trained networks.

    A U-Net without attention is widened to the width of the run; see `widen`. The discriminators
    are replaced if their layout and width are the same.

    Raises:
      InputError: the generator has another architecture, or a width that it cannot have.
    """
    def shapes(tree: PyTree) -> PyTree:
        return jax.tree.map(jnp.shape, tree)

    generator = weights.generator_variables
    if widens(state, weights):
        generator = widen(generator, state.generator)
    there, here = ({path: np.shape(leaf) for path, leaf in flattened(tree).items()}
                   for tree in (generator, state.generator))
    differing = [path for path in sorted(there.keys() | here.keys())
                 if there.get(path) != here.get(path)]
    if differing:
        first = differing[0]
        raise InputError(
            f"its generator ({weights.architecture}, width {weights.width}, "
            f"{'' if weights.attention else 'no '}attention) is not that of the configuration: "
            f"{counted(len(differing), 'differing array')}, the first {first}: "
            f"{there.get(first, 'absent')} there, {here.get(first, 'absent')} in the "
            "configuration; expected the same generator.architecture, width (or a greater one "
            "without attention), attention, normalization and add_image")
    same = shapes(weights.discriminators) == shapes(state.discriminators)
    taken = {"generator": generator} | ({"discriminators": weights.discriminators} if same else {})
    if state.average:
        taken["average"] = generator
    return dataclasses.replace(state, **jax.tree.map(jnp.asarray, taken))
