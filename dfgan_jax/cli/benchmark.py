"""`--mode=benchmark`: measures the speed of a configuration's networks on this machine."""

import json
import pathlib

import jax
import ml_collections

from dfgan_jax.checkpoints.networks import load_weights
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.models.generators import build_generator
from dfgan_jax.performance import speed_card
from dfgan_jax.performance.speed_card import Plan, Subject
from dfgan_jax.performance.speed_table import table
from dfgan_jax.support.files import written_whole


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path,
        checkpoint_path: str | None = None, plan: Plan | None = None) -> None:
    """Measures this machine, prints a table and writes `benchmark.json` into `workdir`.

    Args:
      config: names the networks, the losses and the sizes in training.
      workdir: folder to write into.
      checkpoint_path: see `Denoiser.load`; the weights for the comparison of bfloat16 with
        float32. None: initial weights, untrained.
      plan: the measurements; by default those for the machine.

    Raises:
      InputError: the configuration or the checkpoint cannot be used.
    """
    subject = subject_of(RunOptions.of(config), checkpoint_path)
    workdir.mkdir(parents=True, exist_ok=True)  # fails now rather than after minutes
    card = speed_card.measure(subject, plan or Plan.for_machine())
    path = workdir / "benchmark.json"
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(card, indent=2, allow_nan=False) + "\n")
    print(table(card))
    print(f"Card: {path}", flush=True)


def subject_of(options: RunOptions, checkpoint_path: str | None = None) -> Subject:
    """The networks of a run, for the measurement.

    Raises:
      InputError: the checkpoint cannot be used.
    """
    # Before the initial state, which takes seconds to compile.
    weights = None if checkpoint_path is None else load_weights([checkpoint_path]).weights
    training = options.training(total_steps=1)
    state = jax.device_get(training.initial_state(options.seed))
    generator, variables = training.networks.generator, state.generator
    if weights is not None:
        generator = build_generator(**weights.options)
        variables = weights.generator_variables
    return Subject(model=model_name(options.as_json()), training=training, state=state,
                   size=options.sources.simulated_train_size,
                   slice_size=options.sources.simulated_size, simulation=options.simulation,
                   generator=generator, variables=variables, weights=checkpoint_path or "initial")
