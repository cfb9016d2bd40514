"""`--mode=train`: trains, evaluates the best checkpoint on the test split if any, reports."""

import contextlib
import functools
import pathlib
import signal
import sys
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np

from dfgan_jax.cli import splits
from dfgan_jax.cli.compared import compare, further_models
from dfgan_jax.cli.identity import check_workdir, claim_workdir
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions, prefixed
from dfgan_jax.data import training_domain
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.sources import check_same_in_all
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import agreement, backend, parallel
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.locks import locked
from dfgan_jax.support.types import JsonObject
from dfgan_jax.training import input_pipeline
from dfgan_jax.training.compiled import compile_steps, is_resident
from dfgan_jax.training.run import Run
from dfgan_jax.training.starting import start_from
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.stop_request import SAVED
from dfgan_jax.training.training import Training


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path) -> None:
    """Trains to the end of the last epoch, from the latest checkpoint if there is one.

    Raises:
      InputError: the configuration, the data or the workdir cannot be used.
      DivergenceError: training diverged.
      ProcessError: a process of another machine holds the workdir.
      SystemExit: a signal ended it after a checkpoint, with status `SAVED`, and 130 for Ctrl-C;
        the same command continues from it.
    """
    options = RunOptions.of(config)
    read = splits.of_training(options.data)
    devices = _devices(options)
    options.check_same_in_all()
    # Loaded now, so that a broken model is an error before hours of training.
    further = further_models(options.evaluation.checkpoints)
    agreement.from_main(functools.partial(check_workdir, workdir, options))
    data = agreement.main_first(lambda: options.sources.load(read))
    total_steps = options.epochs * input_pipeline.steps_per_epoch(
        data["train"], global_batch_size=options.batch_size)
    with prefixed("config.optimizer."):
        options.optimizer.check_length(total_steps)
    with prefixed("config.loss."):
        options.loss.check_length(total_steps)
    origin = _origin(options, data)
    training = options.training(total_steps=total_steps)
    used = dict(data)
    if options.validation.slices:
        used["valid"] = data["valid"].some(options.validation.slices)
    with prefixed("config.data."):
        resident = is_resident(used, options.data.on_device, devices)
    steps = compile_steps(training, used, sampling=options.sampling, most=options.log_every_steps,
                          batch_statistics=options.validation.statistics == "batch",
                          devices=devices, resident=resident)
    shapes = training.state_shapes()
    print(_announcement(options, workdir, data, shapes, devices, resident=resident), flush=True)

    with contextlib.ExitStack() as stack:
        if agreement.is_main():
            stack.enter_context(locked(workdir))
            check_workdir(workdir, options)  # again: another run may have claimed it
        stopped_by = Run(workdir=workdir, options=options.loop, data=data, origin=origin,
                         steps=steps, devices=devices,
                         starts_trained=bool(options.initial_checkpoint)).train(
            functools.partial(_first_state, options, training), shapes=shapes,
            claim=functools.partial(claim_workdir, workdir, options))
        if stopped_by is not None:
            raise SystemExit(130 if stopped_by == signal.SIGINT else SAVED)
        denoiser = Denoiser.load_in_all(workdir)
        if agreement.is_main():
            _warn_of_idle_stages(denoiser, data["valid"])
        if "test" not in data:
            print("There is no test split (config.data.test is empty), so nothing is evaluated",
                  flush=True)
            return
        compare(options, workdir=workdir, data=data, further=further,
                denoisers=[denoiser])


def _devices(options: RunOptions) -> parallel.Parallelism:
    with prefixed("config."):
        devices = parallel.Parallelism(
            options.parallel, global_batch_size=options.batch_size // options.accumulate,
            parts=options.accumulate)
    if (devices.name, options.dtype) == ("pmap", "bfloat16") and not backend.has_accelerator():
        # pmap does not take the compiler options of bfloat16 on CPUs.
        raise InputError("config.dtype is bfloat16: expected --config.parallel=jit on CPUs")
    idle = devices.available_count - devices.device_count
    if idle and agreement.is_main():
        least = devices.available_count * options.accumulate
        print(f"warning: config.batch_size={options.batch_size} leaves {idle} of "
              f"{devices.available_count} devices idle; the next that uses all is "
              f"{-(-options.batch_size // least) * least}", file=sys.stderr, flush=True)
    return devices


def _warn_of_idle_stages(denoiser: Denoiser, valid: Pairs) -> None:
    idle = denoiser.idle_stages(hounsfield.denormalise(np.asarray(valid.qdct[0])))
    if idle:
        print(f"warning: {', '.join(idle)} of the generator take no part in the result: their "
              "features have grown until they were constant. A lower "
              "config.optimizer.generator_learning_rate, a higher weight_decay or a "
              "config.generator.normalization prevents it", file=sys.stderr, flush=True)


def _origin(options: RunOptions, data: Mapping[str, Pairs]) -> JsonObject:
    """The metadata of every checkpoint, besides step and epoch."""
    origin: JsonObject = {"config": options.as_json(), "data": check_same_in_all(data)}
    if agreement.is_main():
        measured = training_domain.measure(options.sources, data["train"])
        origin["trained_on"] = measured and measured.as_json()
    return origin


def _first_state(options: RunOptions, training: Training) -> TrainState:
    """The state of a new run."""
    state = training.initial_state(options.seed)
    if not options.initial_checkpoint:
        return state
    with prefixed("config."):
        return start_from(options.initial_checkpoint, state, options.generator)


def _announcement(options: RunOptions, workdir: pathlib.Path, data: Mapping[str, Pairs],
                  state: TrainState, devices: parallel.Parallelism, *, resident: bool) -> str:
    counts = {"generator": state.generator["params"]} | {
        f"{name} discriminator": variables for name, variables in state.discriminators.items()}
    parameters = ", ".join(f"{name} {sum(x.size for x in jax.tree.leaves(tree)):,}"
                           for name, tree in counts.items())
    slices = ", ".join(f"{split} {len(pairs)} ({options.sources.describe(split)})"
                       for split, pairs in data.items())
    slices += "" if "test" in data else ", no test split"
    sizes = ", ".join(f"{height}×{width}" for height, width in dict.fromkeys(data["train"].sizes))
    crop = options.data.crop
    return (f"{model_name(options.as_json())} in {workdir}\n"
            f"  devices:    {backend.describe_devices()}, {devices.device_count} in use by "
            f"{devices.name}\n"
            f"  parameters: {parameters}\n"
            f"  slices:     {slices}, {sizes}{f', in crops of {crop}×{crop}' if crop else ''}"
            f"{', on the device' if resident else ''}")
