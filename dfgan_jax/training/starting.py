"""Starts a run from trained networks instead of random ones."""

from dfgan_jax.checkpoints.networks import load_weights
from dfgan_jax.models.generators import PUBLISHED_OPTIONS, UNSEEN_OPTIONS
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.networks import GeneratorOptions
from dfgan_jax.training.state import TrainState, widens, with_weights


def start_from(path: str, state: TrainState, generator: GeneratorOptions) -> TrainState:
    """The state of a new run, with the networks of a checkpoint.

    Args:
      path: the initial checkpoint; see `load_weights`.
      state: with random weights.
      generator: options of the run's generator.

    Raises:
      InputError: the weights cannot be read, or belong to another network.
    """
    try:
        weights = load_weights([path]).weights
    except InputError as error:
        raise InputError(f"initial_checkpoint: {error}") from error
    for name in UNSEEN_OPTIONS:
        there = weights.unseen.get(name, PUBLISHED_OPTIONS[name])
        if getattr(generator, name) != there:
            raise InputError(f"generator.{name} is {getattr(generator, name)!r}; expected "
                             f"{there!r}, as in the training of initial_checkpoint ({path})")
    try:
        started = with_weights(state, weights)
    except InputError as error:
        raise InputError(f"initial_checkpoint: {path}: {error}") from error
    taken = started.discriminators is not state.discriminators
    others = " and the discriminators" if taken else (
        "; the discriminators are untrained" if state.discriminators else "")
    widened = (f", widened from {weights.width} to {generator.width}"
               if widens(state, weights) else "")
    print(f"Starting from {path}: the generator{widened}{others}", flush=True)
    return started
