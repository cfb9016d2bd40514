"""A run in its workdir: from its latest sound checkpoint to the end, or to a signal."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping

from dfgan_jax.checkpoints.folder import read_meta, restore
from dfgan_jax.checkpoints.run import Checkpoints, set_aside_damaged
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.sources import check_fingerprints
from dfgan_jax.devices import agreement, parallel
from dfgan_jax.support.errors import DivergenceError
from dfgan_jax.support.types import JsonObject
from dfgan_jax.training import input_pipeline
from dfgan_jax.training.compiled import CompiledSteps
from dfgan_jax.training.loop import AWAITS_VALIDATION, Loop, LoopOptions
from dfgan_jax.training.metrics import Metrics
from dfgan_jax.training.saver import Saver
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.stop_request import StopRequest
from dfgan_jax.training.writers import MetricsWriter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run.

    Attributes:
      workdir: a folder that no other run uses; process 0 alone writes.
      options: of the loop.
      data: split → pairs.
      origin: metadata of every checkpoint, besides step and epoch; `data` has the fingerprint of
        each split.
      steps: the compiled steps.
      devices: the devices that train.
      starts_trained: the first state has trained weights. It is validated and saved, and is the
        best checkpoint until an epoch is better.
    """

    workdir: pathlib.Path
    options: LoopOptions
    data: Mapping[str, Pairs]
    origin: JsonObject
    steps: CompiledSteps
    devices: parallel.Parallelism
    starts_trained: bool = False

    def train(self, first_state: Callable[[], TrainState], *, shapes: TrainState,
              claim: Callable[[], None]) -> int | None:
        """Trains from the latest sound checkpoint, or from a new state if there is none.

        Args:
          first_state: makes the state of a new run; process 0 alone calls it.
          shapes: of a state.
          claim: marks the workdir as this run's, once the run is known to be able to continue.

        Returns:
          See `Loop.run`.

        Raises:
          InputError: the workdir's run had other data, or none of its checkpoints can be read.
          DivergenceError: training diverged; the states before that are saved.
        """
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequest(self.devices.greatest))
            kept, writer, state, awaits_validation = None, None, shapes, False
            if agreement.is_main():
                for line in set_aside_damaged(self.workdir):
                    print(line, file=sys.stderr, flush=True)
                kept = stack.enter_context(Checkpoints(self.workdir))
                state = self._resumed(kept, shapes) or first_state()
                claim()
                awaits_validation = _awaits_validation(kept)
                writer = stack.enter_context(MetricsWriter(
                    self.workdir, step=int(state.step), validated=not awaits_validation))
            stopped_by = self._loop(kept, writer, stop, state, awaits_validation=awaits_validation)
            if kept is not None and stopped_by is None:
                self._tell_choice(kept.best())
        return stopped_by

    def _tell_choice(self, best: pathlib.Path | None) -> None:
        """Prints which checkpoint is kept for the evaluation and for denoising."""
        if best is None:
            print("No epoch could be the best one (first_epoch is "
                  f"{self.options.validation.first_epoch}): evaluating the last", flush=True)
        elif (epoch := read_meta(best)["epoch"]) == 0:
            print("No epoch was better than the initial checkpoint: evaluating that", flush=True)
        else:
            print(f"The checkpoint of epoch {epoch} of {self.options.epochs} is kept as the best",
                  flush=True)

    def _resumed(self, kept: Checkpoints, shapes: TrainState) -> TrainState | None:
        """The state of the latest checkpoint; None without a checkpoint."""
        latest = kept.latest()
        if latest is None:
            return None
        check_fingerprints(read_meta(latest)["data"], self.data, self.origin["data"],
                           "this run was started with; choose another workdir")
        state = restore(latest, shapes)
        print(f"Going on from step {int(state.step)}", flush=True)
        return state

    def _loop(self, kept: Checkpoints | None, writer: MetricsWriter | None, stop: StopRequest,
              state: TrainState, *, awaits_validation: bool) -> int | None:
        saver = Saver(kept, after_s=self.options.checkpoint_after_seconds,
                      every_s=60 * self.options.checkpoint_every_minutes)
        per_epoch = input_pipeline.steps_per_epoch(
            self.data["train"], global_batch_size=self.options.batch_size)
        scores_start = self.starts_trained and agreement.from_main(
            lambda: kept is not None and kept.latest() is None)
        loop = Loop(self.options, steps=self.steps, per_epoch=per_epoch, origin=self.origin,
                    saver=saver, metrics=Metrics(writer), stop=stop,
                    scores_start=scores_start,
                    best_score=None if kept is None else kept.best_score(),
                    awaits_validation=agreement.from_main(lambda: awaits_validation))
        try:
            return loop.run(self.devices.place(agreement.broadcast(state)))
        except DivergenceError:
            saver.rescue()
            raise


def _awaits_validation(kept: Checkpoints) -> bool:
    """Whether the latest checkpoint is of an epoch's end, and was saved before its validation."""
    latest = kept.latest()
    return latest is not None and bool(read_meta(latest).get(AWAITS_VALIDATION, False))
