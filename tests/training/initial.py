"""Initial states of runs that need no compilation."""

import functools

import jax
import numpy as np

from dfgan_jax.training.state import Networks, Optimizers, TrainState, create_state
from tests.models.drawn import drawn


def drawn_state(networks: Networks, optimizers: Optimizers, seed: int = 0) -> TrainState:
    """The state of a new run, for tests that take any weights; see `drawn`."""
    shapes = jax.eval_shape(functools.partial(
        create_state, networks=networks, optimizers=optimizers), jax.random.key(0))
    generator, discriminators = (drawn(shapes.generator, 2 * seed),
                                 drawn(shapes.discriminators, 2 * seed + 1))
    return shapes.replace(
        step=np.zeros((), np.int32), key=np.zeros(2, np.uint32), generator=generator,
        generator_opt_state=optimizers.generator.init(generator["params"]),
        discriminators=discriminators,
        discriminator_opt_state=optimizers.discriminator.init(discriminators),
        average=jax.tree.map(np.copy, generator) if optimizers.average_decay else {})
