"""Stands for the checkpoints of a run."""

import jax.numpy as jnp

from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.training.loop import AWAITS_VALIDATION
from dfgan_jax.training.state import TrainState


def counted(step):
    """A state that has only counted its steps."""
    return TrainState(step=jnp.int32(step), key=jnp.zeros(2, jnp.uint32), generator={},
                      generator_opt_state=(), discriminators={}, discriminator_opt_state=())


class Kept(Checkpoints):
    """Takes note of what is saved."""

    def __init__(self):
        self.saved = []
        self.awaiting = []  # steps

    def save(self, state, meta, *, score=None):
        if meta.get(AWAITS_VALIDATION):
            self.awaiting.append(meta["step"])
        self.saved.append((int(state.step), meta["step"], score))

    def wait(self):
        pass
