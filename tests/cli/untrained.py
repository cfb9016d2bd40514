"""Checkpoints of runs that have not been run."""

import json

from configs import redcnn
from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.cli.options import RunOptions
from tests.training.initial import drawn_state


def untrained(workdir, module, *, variant=None, discriminators="pair", step=0, epoch=0, seed=0,
              **meta):
    """Saves the first state of a narrow model; returns its configuration and the state.

    The variant is `slides` by default, the published network; RED-CNN has none. `meta` is what
    the checkpoint keeps beside step, epoch and configuration.
    """
    if variant is None:
        variant = "" if module is redcnn else "slides"
    config = module.get_config(variant)
    config.generator.width = config.discriminator.width = 2
    config.discriminators = discriminators
    config.seed = seed
    training = RunOptions.of(config).training(total_steps=1)
    # That of RED-CNN compiles fast, and a test compares it with the state of a run.
    state = (training.initial_state(seed) if module is redcnn
             else drawn_state(training.networks, training.optimizers, seed))
    with Checkpoints(workdir) as kept:
        kept.save(state, {"step": step, "epoch": epoch, "config": json.loads(config.to_json()),
                          **meta})
        kept.wait()
    return config, state
