"""Starting a run from trained networks instead of random ones."""

from dfgan_jax.checkpoints.networks import load_weights
from dfgan_jax.models.generators import PUBLISHED_OPTIONS, UNSEEN_OPTIONS
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.networks import GeneratorOptions
from dfgan_jax.training.state import TrainState, with_weights


def start_from(path: str, state: TrainState, generator: GeneratorOptions) -> TrainState:
    """The state of a new run, with the networks of a checkpoint.

    Args:
      path: what `load_weights` takes.
      state: with random weights.
      generator: of the run.

    Raises:
      InputError: the weights cannot be used, or are those of another network.
    """
    weights = load_weights([path]).weights
    for name in UNSEEN_OPTIONS:
        there = weights.unseen.get(name, PUBLISHED_OPTIONS[name])
        if getattr(generator, name) != there:
            raise InputError(f"config.generator.{name} is {getattr(generator, name)!r}; expected "
                             f"{there!r}, which config.initial_checkpoint ({path}) was trained "
                             "with")
    try:
        started = with_weights(state, weights)
    except InputError as error:
        raise InputError(f"config.initial_checkpoint: {path}: {error}") from error
    taken = started.discriminators is not state.discriminators
    print(f"Starting from {path}: the generator"
          f"{' and the discriminators' if taken else ''}", flush=True)
    return started
