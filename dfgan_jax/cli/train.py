"""`--mode=train`: trains, evaluates the best checkpoint on the test split, reports."""

import contextlib
import functools
import json
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from dfgan_jax.checkpoints.folder import read_meta, restore_state
from dfgan_jax.checkpoints.networks import load_weights
from dfgan_jax.checkpoints.run import Checkpoints, set_aside_damaged
from dfgan_jax.cli import evaluate, setup, simulate, training_domain
from dfgan_jax.data.dataset import SPLITS
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import agreement as processes
from dfgan_jax.devices import parallel
from dfgan_jax.evaluation.metrics import all_metrics
from dfgan_jax.evaluation.protocols import FULL_RANGE_HU
from dfgan_jax.models.generators import PUBLISHED_OPTIONS, UNSEEN_OPTIONS
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.errors import DivergenceError, InputError
from dfgan_jax.support.files import locked
from dfgan_jax.support.progress import Progress, format_duration, progress
from dfgan_jax.training import input_pipeline, steps
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, TrainState, with_weights
from dfgan_jax.training.stop_request import StopRequest
from dfgan_jax.training.writers import MetricsWriter

# The first step compiles, and each is known to be done when the next one has started.
_WARM_UP_STEPS = 2
_PACE_STEPS = 2
_LONG_RUN_S = 3600.0


class _Steps(NamedTuple):
    """The compiled steps."""

    advance: Callable
    """(state, step, most) → (state, metrics, count): makes the `count` updates after `step`,
    at least one and at most `most`; the metrics are of each, (count,) or longer."""
    validate: Callable
    """state → metrics of each validation slice, (slices,)."""
    batch_statistics: Callable
    waited_s: Callable[[], float]
    """Seconds that `advance` has waited for data so far."""


class _Metrics:
    """Metrics of each step, checked to be finite and written row by row.

    Those of the newest call stay on the device until the next one is under way, so
    that the device is never idle for the check.

    Args:
      writer: of the process that writes; None in the others.
    """

    def __init__(self, writer: MetricsWriter | None) -> None:
        self._writer = writer
        self._newest: tuple[dict[str, jax.Array], int, int, int, bool] | None = None
        self._rows: list[dict[str, float]] = []
        self.latest: dict[str, float] = {}
        """Of the newest step that was checked."""

    def add(self, metrics: dict[str, jax.Array], *, count: int, step: int, epoch: int,
            ends_row: bool) -> None:
        """Takes the metrics of the `count` steps that end with `step`."""
        self.settle()
        self._newest = metrics, count, step, epoch, ends_row

    def settle(self) -> None:
        """Fetches, checks and writes what is still on the device."""
        if self._newest is None:
            return
        metrics, count, step, epoch, ends_row = self._newest
        self._newest = None
        fetched = {name: np.atleast_1d(values) for name, values in
                   jax.device_get(metrics).items()}
        for index in range(count):
            self.latest = {name: float(values[index]) for name, values in fetched.items()}
            broken = [f"{n} is {v}" for n, v in self.latest.items() if not math.isfinite(v)]
            if broken:
                raise DivergenceError(
                    f"at step {step - count + 1 + index}, {', '.join(broken)}; the last good "
                    "checkpoint is kept. A lower learning rate or other data may help")
            self._rows.append(self.latest)
        if ends_row:
            means = {name: float(np.mean([row[name] for row in self._rows])) for name in fetched}
            self.write("train", step=step, epoch=epoch, metrics=means)
            self._rows = []

    def write(self, kind: str, *, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Writes a row, where this process does."""
        if self._writer is not None:
            self._writer.write(kind, step=step, epoch=epoch, metrics=metrics)


class _Saver:
    """Saves states, in the process that does: the others have nothing to save into.

    Of epochs that end too soon after a checkpoint the best is kept, and saved with the next;
    where none of them may be the best, it is the latest.

    Args:
      kept: None in a process that saves nothing.
      after_s: that an epoch must end after the last checkpoint, to be saved [s].
      every_s: longest time without a checkpoint [s].
    """

    def __init__(self, kept: Checkpoints | None, *, after_s: float, every_s: float
                 ) -> None:
        self._kept = kept
        self._after_s, self._every_s = after_s, every_s
        self._saved_at = time.monotonic()
        self._pending: tuple[TrainState, dict[str, Any], float | None] | None = None

    def due(self) -> bool:
        """Whether it is time, though no epoch ends."""
        return self._kept is not None and time.monotonic() - self._saved_at > self._every_s

    def early(self) -> bool:
        """Whether an epoch that ends now can wait."""
        return time.monotonic() - self._saved_at < self._after_s

    def keep(self, state: TrainState, meta: dict[str, Any], score: float | None) -> None:
        """Keeps a copy for later, unless one with a better score is kept."""
        best_score = None if self._pending is None else self._pending[2]
        if self._kept is not None and (
                best_score is None or (score is not None and score > best_score)):
            self._pending = (parallel.copied(state), meta, score)

    def save(self, state: TrainState, meta: dict[str, Any], *, score: float | None = None) -> None:
        """Saves a state, after what was kept."""
        if self._kept is not None:
            self.save_kept()
            self._kept.save(state, meta, score=score)
            self._saved_at = time.monotonic()

    def save_kept(self) -> None:
        """Saves what was kept."""
        if self._kept is not None and self._pending is not None:
            state, meta, score = self._pending
            self._kept.save(state, meta, score=score)
            self._pending = None

    def wait(self) -> None:
        """Returns when all that was saved is on disk, in every process."""
        if self._kept is not None:
            self._kept.wait()
        processes.barrier("saved")

    def rescue(self) -> None:
        """Saves what was kept, before an error ends the run; the others end with process 0."""
        if self._kept is not None:
            self.save_kept()
            self._kept.wait()
        else:
            processes.wait_for_the_end()


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path) -> None:
    """Trains to the end of the last epoch, from the latest checkpoint if there is one.

    Raises:
      InputError: the configuration, the data or the workdir cannot be used.
      DivergenceError: training diverged.
      SystemExit: a signal ended it after a checkpoint, with status 128 + its number;
        the same command goes on from there.
    """
    setup.check(config)
    evaluate.check(config)
    if config.batch_size % config.accumulate:
        raise InputError(f"config.batch_size is {config.batch_size}: expected a multiple of "
                         f"accumulate ({config.accumulate})")
    devices = parallel.Parallelism(config.parallel,
                                   global_batch_size=config.batch_size // config.accumulate)
    if (devices.name, config.dtype) == ("pmap", "bfloat16") and not parallel.has_accelerator():
        # pmap takes none of the options that bfloat16 needs there.
        raise InputError("config.dtype is bfloat16: expected --config.parallel=jit on CPUs")
    setup.check_same(config)
    further = evaluate.further_models(config)  # a broken one is told before hours of training
    processes.from_main(functools.partial(setup.check_workdir, workdir, config))
    data = processes.main_first(lambda: setup.load_splits(config, SPLITS, simulate.cached))
    per_epoch = input_pipeline.steps_per_epoch(data["train"], global_batch_size=config.batch_size)

    if config.optimizer.warm_up_steps >= config.epochs * per_epoch:
        raise InputError(f"config.optimizer.warm_up_steps is {config.optimizer.warm_up_steps}; "
                         f"expected fewer than the {config.epochs * per_epoch} updates of the run")
    fingerprints = setup.check_same_data(data)
    origin: dict[str, Any] = {"config": json.loads(config.to_json()), "data": fingerprints}
    if processes.is_main():
        domain = training_domain.measure(config, data["train"])
        origin["trained_on"] = None if domain is None else domain.as_json()
    networks = setup.build_networks(config)
    optimizers = setup.build_optimizers(config, total_steps=config.epochs * per_epoch)
    loss = setup.build_loss(config)
    train_step = functools.partial(steps.train_step, networks=networks, optimizers=optimizers,
                                   loss=loss, accumulate=config.accumulate,
                                   remat=config.remat)
    scoring = functools.partial(validation_step, networks=networks, loss=loss)
    resident = _is_resident(config, data, devices)
    valid = input_pipeline.batch_of(data["valid"])
    if resident:
        valid = devices.place(valid)
    devices.connect()
    advance, waited_s = (_advance_resident if resident else _advance_streaming)(
        config, data["train"], train_step, devices)
    compiled = _Steps(
        advance=advance, waited_s=waited_s,
        validate=(_validate_resident(config, valid, scoring, devices) if resident else
                  _validate_streaming(config, data["valid"], scoring, devices)),
        batch_statistics=parallel.unshared(functools.partial(
            steps.batch_statistics_step, networks=networks, loss=loss)))
    state = (setup.build_state(config, networks, optimizers) if processes.is_main() else
             setup.state_shapes(networks, optimizers))  # process 0's comes later
    if config.initial_checkpoint and processes.is_main():
        state = _start_from(config, state)
    print(_announcement(config, workdir, data, state, devices, resident=resident), flush=True)

    with contextlib.ExitStack() as stack:
        if processes.is_main():
            stack.enter_context(locked(workdir))
        stopped_by = _train(config, workdir, data, origin, state, valid, devices=devices,
                            per_epoch=per_epoch, compiled=compiled)
        if stopped_by is not None:
            raise SystemExit(128 + stopped_by)
        evaluate.score_and_report(config, workdir=workdir, data=data,
                                  denoisers=[Denoiser.load_in_all(workdir), *further])


def _train(config: ml_collections.ConfigDict, workdir: pathlib.Path, data: dict[str, Pairs],
           origin: dict[str, Any], state: TrainState, valid: steps.Batch, *,
           devices: parallel.Parallelism, per_epoch: int, compiled: _Steps) -> int | None:
    """Trains from the latest sound checkpoint, or from `state`; what it returns, see `_fit`."""
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest(devices.greatest))
        kept = writer = None
        if processes.is_main():
            setup.check_workdir(workdir, config)  # which another run may have made by now
            for line in set_aside_damaged(workdir):
                print(line, file=sys.stderr, flush=True)
            kept = stack.enter_context(Checkpoints(workdir))
            latest = kept.latest()
            if latest is not None:
                setup.check_data(read_meta(latest)["data"], data, origin["data"],
                                 "this run was started with; choose another --workdir")
                state = restore_state(latest, state)
                print(f"Going on from step {int(state.step)}", flush=True)
            setup.claim_workdir(workdir, config)
            writer = stack.enter_context(MetricsWriter(workdir, step=int(state.step)))
        saver = _Saver(kept, after_s=config.checkpoint_after_seconds,
                       every_s=60 * config.checkpoint_every_minutes)
        try:
            stopped_by = _fit(config, valid, devices.place(processes.broadcast(state)),
                              per_epoch=per_epoch, origin=origin, compiled=compiled,
                              saver=saver, metrics=_Metrics(writer), stop=stop)
        except DivergenceError:
            saver.rescue()
            raise
        if kept is not None and kept.best() is None and stopped_by is None:
            print("No epoch could be the best one (config.validation.first_epoch is "
                  f"{config.validation.first_epoch}): evaluating the last", flush=True)
    return stopped_by


def _start_from(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
    """The state of a new run, with the networks of a checkpoint."""
    path = config.initial_checkpoint
    weights = load_weights([path]).weights
    for name in UNSEEN_OPTIONS:
        there = weights.unseen.get(name, PUBLISHED_OPTIONS[name])
        if config.generator[name] != there:
            raise InputError(f"config.generator.{name} is {config.generator[name]!r}; expected "
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


def _announcement(config: ml_collections.ConfigDict, workdir: pathlib.Path,
                  data: dict[str, Pairs], state: TrainState, devices: parallel.Parallelism, *,
                  resident: bool) -> str:
    counts = {"generator": state.generator["params"]} | {
        f"{name} discriminator": variables for name, variables in state.discriminators.items()}
    parameters = ", ".join(f"{name} {sum(x.size for x in jax.tree.leaves(tree)):,}"
                           for name, tree in counts.items())
    slices = ", ".join(f"{split} {len(pairs)} ({setup.data_source(config, split)})"
                       for split, pairs in data.items())
    sizes = ", ".join(f"{height}×{width}" for height, width in dict.fromkeys(data["train"].sizes))
    if config.data.crop:
        sizes += f", in crops of {config.data.crop}×{config.data.crop}"
    found = f"{parallel.describe_devices()}, {devices.device_count} in use by {devices.name}"
    return (f"{setup.model_name(config)} in {workdir}\n"
            f"  devices:    {found}\n"
            f"  parameters: {parameters}\n"
            f"  slices:     {slices}, {sizes}"
            f"{', on the device' if resident else ''}")


def _is_resident(config: ml_collections.ConfigDict, data: dict[str, Pairs],
                 devices: parallel.Parallelism) -> bool:
    """Whether the pairs of training and validation stay on the devices."""
    if len(set(data["train"].sizes)) > 1:
        if config.data.on_device == "always":
            raise InputError("config.data.on_device is 'always'; expected 'never' or 'auto', since "
                             "the files of data.train have slices of several sizes")
        return False
    if config.data.on_device == "auto":
        return devices.fits(sum(2 * data[split].ndct.nbytes for split in ("train", "valid")))
    return config.data.on_device == "always"


def _advance_streaming(config: ml_collections.ConfigDict, pairs: Pairs, train_step: Callable,
                       devices: parallel.Parallelism) -> tuple[Callable, Callable]:
    """`_Steps.advance`, one update a call, with batches that the host sends; and `waited_s`."""
    update = devices.train(train_step)
    batches = input_pipeline.train_batches(pairs, setup.build_sampling(config),
                                           share=devices.share)
    iterator = None
    waited_s = 0.0

    def advance(state, step, most):
        nonlocal iterator, waited_s
        del most
        iterator = iterator or input_pipeline.iterate_from(batches, step)
        start = time.monotonic()
        batch = next(iterator)
        waited_s += time.monotonic() - start
        state, metrics = update(state, batch)
        return state, metrics, 1
    return advance, lambda: waited_s


def _advance_resident(config: ml_collections.ConfigDict, pairs: Pairs, train_step: Callable,
                      devices: parallel.Parallelism) -> tuple[Callable, Callable]:
    """`_Steps.advance`, up to a row of metrics in one call, with pairs on the devices."""
    sampling = setup.build_sampling(config)
    update = devices.train_many(train_step, take=functools.partial(
        input_pipeline.take_views, sampling=sampling))
    views = input_pipeline.train_views(pairs, sampling)
    placed = devices.place(input_pipeline.batch_of(pairs))
    longest = min(config.log_every_steps, input_pipeline.steps_per_epoch(
        pairs, global_batch_size=config.batch_size))

    def advance(state, step, most):
        # As many batches each time, used or not, so that one program is compiled.
        batches = jax.tree.map(lambda *each: np.stack(each),
                               *[views[step + i] for i in range(longest)])
        count = min(most, longest)
        state, metrics = update(state, placed, batches, np.int32(count))
        return state, metrics, count
    return advance, lambda: 0.0


def _validate_streaming(config: ml_collections.ConfigDict, pairs: Pairs, step: Callable,
                        devices: parallel.Parallelism) -> Callable:
    """`_Steps.validate`, a batch a call."""
    score = devices.evaluate(step)

    def validate(state):
        parts = [{name: np.asarray(values)[mask] for name, values in score(state, batch).items()}
                 for batch, mask in input_pipeline.evaluation_batches(
                     pairs, batch_size=config.batch_size, share=devices.share)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return validate


def _validate_resident(config: ml_collections.ConfigDict, placed: steps.Batch, step: Callable,
                       devices: parallel.Parallelism) -> Callable:
    """`_Steps.validate`, all batches in one call, with pairs on the devices."""
    score = devices.evaluate_many(step)
    count = len(placed["ndct"])
    indices = input_pipeline.evaluation_indices(count, batch_size=config.batch_size)

    def validate(state):
        # What only fills the last batch comes last.
        return {name: values[:count] for name, values in score(state, placed, indices).items()}
    return validate


def _fit(config: ml_collections.ConfigDict, valid: steps.Batch, state: TrainState, *,
         per_epoch: int, origin: dict[str, Any], compiled: _Steps, saver: _Saver,
         metrics: _Metrics, stop: StopRequest) -> int | None:
    """Trains from a state to the end of the last epoch; saves after each and when stopped.

    Args:
      origin: what checkpoints keep of the run, beside step and epoch.

    Returns:
      The signal that stopped it, the same in all processes; None at the end.
    """
    first = step = int(state.step)
    last = config.epochs * per_epoch
    if step >= last:
        return None
    pace = _Pace(compiled.waited_s)
    with progress("training", total=last, unit="steps", initial=step) as bar:
        while step < last:
            to_row = config.log_every_steps - step % config.log_every_steps
            state, step_metrics, count = compiled.advance(
                state, step, min(to_row, per_epoch - step % per_epoch))
            step += count
            epoch = (step - 1) // per_epoch + 1
            ends_epoch = step % per_epoch == 0
            metrics.add(step_metrics, count=count, step=step, epoch=epoch,
                        ends_row=ends_epoch or step % config.log_every_steps == 0)
            _show(bar, epoch, metrics.latest, pace, count=count, done=step - first)

            meta = {"step": step, "epoch": epoch, **origin}
            due = saver.due()
            stopping = stop.agreed()
            if ends_epoch:
                state, scores = _validate(config, state, valid, compiled)
                metrics.settle()
                if not all(map(math.isfinite, scores.values())):
                    raise DivergenceError(f"after epoch {epoch}, the validation gave {scores}; the "
                                          "last good checkpoint is kept")
                metrics.write("valid", step=step, epoch=epoch, metrics=scores)
                may_be_best = epoch >= config.validation.first_epoch
                score = _selection(config, scores) if may_be_best else None
                if saver.early() and not due and step < last and stopping is None:
                    saver.keep(state, meta, score)
                else:
                    saver.save(state, meta, score=score)
            elif due or stopping is not None:
                metrics.settle()
                saver.save(state, meta)
            if stopping is not None:
                saver.wait()
                bar.message(f"Stopped by {signal.Signals(stopping).name} at step {step}, which "
                            "is saved; the same command goes on from here")
                return stopping
        saver.wait()
        bar.message(pace.summary(steps=step - first, images=config.batch_size))
    return stop.agreed(at_last=True)


class _Pace:
    """How fast training is, and which share of the time it waits for data.

    Without its first steps, which compile.
    """

    def __init__(self, waited_s: Callable[[], float]) -> None:
        self._waited_s = waited_s
        self.start()

    def start(self) -> None:
        """Measures from here on."""
        self._start, self._waited_before = time.monotonic(), self._waited_s()

    def waiting_share(self) -> float:
        """Of the time so far, 0 to 1."""
        return (self._waited_s() - self._waited_before) / max(time.monotonic() - self._start, 1e-9)

    def summary(self, *, steps: int, images: int) -> str:
        """One line on `steps` of `images` each."""
        seconds = time.monotonic() - self._start
        steps = max(steps - _WARM_UP_STEPS, 0)
        return (f"Trained {steps / seconds:.3g} steps/s, {steps * images / seconds:.3g} images/s, "
                f"with validation; waiting for data: {self.waiting_share():.2%} of the time")


def _show(bar: Progress, epoch: int, latest: dict[str, float], pace: _Pace, *, count: int,
          done: int) -> None:
    """Moves the bar, and says once, where it matters, how long all of it will take."""
    note = f"epoch {epoch}"
    if "generator_loss" in latest:
        note += f", G {latest['generator_loss']:.4f}"
    if "discriminator_loss" in latest:
        note += f", D {latest['discriminator_loss']:.4f}"
    bar.advance(count, note=f"{note}, waiting for data {pace.waiting_share():.1%}")
    if done - count < _WARM_UP_STEPS <= done:
        bar.start_clock()
        pace.start()
    if done - count < _WARM_UP_STEPS + _PACE_STEPS <= done and not parallel.has_accelerator():
        seconds = bar.seconds_left()
        if seconds > _LONG_RUN_S:
            bar.message(f"No accelerator found: at this pace training takes about "
                        f"{format_duration(seconds)}. The variant :demo, as in "
                        "--config=configs/attn.py:demo, takes minutes. Going on.")


def _validate(config: ml_collections.ConfigDict, state: TrainState, valid: steps.Batch,
              compiled: _Steps) -> tuple[TrainState, dict[str, float]]:
    """Scores the validation split; the state changes only with batch statistics."""
    batch_losses = []
    if config.validation.statistics == "batch":
        for start in range(0, len(valid["ndct"]), config.batch_size):
            part = slice(start, start + config.batch_size)
            state, terms = compiled.batch_statistics(
                state, {name: images[part] for name, images in valid.items()})
            batch_losses.append(terms)

    scores = {name: float(np.mean(values)) for name, values in compiled.validate(state).items()}
    if batch_losses:
        fetched = jax.device_get(batch_losses)
        scores |= {name: float(np.mean([row[name] for row in fetched])) for name in fetched[0]}
    return state, scores


def validation_step(state: TrainState, batch: steps.Batch, *, networks: Networks,
                    loss: LossOptions) -> steps.Metrics:
    """Each loss, and each metric of `full_range`, per image, (N,)."""
    denoised, terms = steps.evaluation_step(state, batch, networks=networks, loss=loss)
    denoised_hu, ndct_hu = (hounsfield.denormalise(images[..., 0])
                            for images in (denoised, batch["ndct"]))
    return terms | all_metrics(denoised_hu, ndct_hu, FULL_RANGE_HU)


def _selection(config: ml_collections.ConfigDict, scores: dict[str, float]) -> float:
    """What the best checkpoint has the most of."""
    if config.validation.select_by == "generator_loss":
        return -scores["generator_loss"]
    return scores["psnr"]
