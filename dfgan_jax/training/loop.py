"""The loop over all updates of a run; a signal stops it after any update."""

import dataclasses
import math
import signal
import sys

from dfgan_jax.devices import agreement
from dfgan_jax.support.checks import check_above_zero, check_not_negative
from dfgan_jax.support.errors import DivergenceError, InputError
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.support.types import JsonObject
from dfgan_jax.training.compiled import CompiledSteps
from dfgan_jax.training.metrics import Metrics
from dfgan_jax.training.pace import WARM_UP_STEPS, Pace
from dfgan_jax.training.saver import Saver
from dfgan_jax.training.state import TrainState
from dfgan_jax.training.stop_request import StoppedError, StopRequest
from dfgan_jax.training.validation import ValidationOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """The length of training, and how often it validates, saves and writes metrics.

    Attributes:
      batch_size: slices in one update, over all devices; a multiple of `accumulate`.
      accumulate: number of parts of each batch, computed one after another.
      epochs: number of epochs.
      validation: the validation after each epoch.
      log_every_steps: steps between two rows of metrics.
      checkpoint_every_minutes: longest time without a checkpoint within an epoch.
      checkpoint_after_seconds: shortest time between the checkpoints of two epochs.

    Raises:
      InputError: a value is out of range.
    """

    batch_size: int
    accumulate: int
    epochs: int
    validation: ValidationOptions
    log_every_steps: int
    checkpoint_every_minutes: float
    checkpoint_after_seconds: float

    def __post_init__(self) -> None:
        check_above_zero(self, "batch_size", "accumulate", "epochs", "log_every_steps",
                         "checkpoint_every_minutes")
        check_not_negative(self, "checkpoint_after_seconds")
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size is {self.batch_size}: expected a multiple of "
                             f"accumulate ({self.accumulate})")


AWAITS_VALIDATION = "awaits_validation"
"""Field of a checkpoint's metadata: true of the end of an epoch whose validation has not ended."""


class Loop:
    """Trains from a state to the end of the last epoch; saves after each epoch and when stopped.

    A stop at the end of an epoch, or in its validation, saves the state without a score, and
    whoever continues from it validates first: validation may last longer than the time between a
    signal and a kill.

    Args:
      options: length of training, and times between checkpoints.
      steps: the compiled steps.
      per_epoch: updates in an epoch.
      origin: metadata of every checkpoint, besides step and epoch.
      saver: saves checkpoints.
      metrics: checks and writes the metrics of each step.
      stop: requests an end before the last step.
      scores_start: validate the first state, too, and save it: it may be the best, unless the first
        epochs may not.
      awaits_validation: the first state is that of an epoch's end without a score.
      best_score: the best one of the epochs before; None before the first.
    """

    def __init__(self, options: LoopOptions, *, steps: CompiledSteps, per_epoch: int,
                 origin: JsonObject, saver: Saver, metrics: Metrics, stop: StopRequest,
                 scores_start: bool = False, awaits_validation: bool = False,
                 best_score: float | None = None) -> None:
        self._options = options
        self._steps = steps
        self._per_epoch = per_epoch
        self._origin = origin
        self._saver = saver
        self._metrics = metrics
        self._stop = stop
        self._scores_start = scores_start
        self._awaits_validation = awaits_validation
        self._best_score = best_score
        self._last = options.epochs * per_epoch

    def run(self, state: TrainState) -> int | None:
        """Makes the remaining updates of the run.

        Returns:
          The signal that stopped the loop, the same in all processes; None at the end.

        Raises:
          DivergenceError: a loss or a score is not finite.
          SystemExit, KeyboardInterrupt: a signal, before there was anything new to save.
        """
        step = int(state.step)
        state = self._score_first(state, step)
        if step >= self._last:
            return self._stop.agreed(at_last=True) if self._awaits_validation else None
        with progress("training", total=self._last, unit="steps", initial=step,
                      warm_up=WARM_UP_STEPS) as bar:
            pace = Pace(bar, self._steps.waited_s)
            while step < self._last:
                state, step = self._advance(state, step, pace)
                ends_epoch = step % self._per_epoch == 0
                stopping = self._stop.agreed()
                saves = self._saver.due() or stopping is not None
                if saves:
                    self._save(state, step, awaits_validation=ends_epoch)
                if ends_epoch and stopping is None:
                    try:
                        state = self._end_epoch(state, step, bar)
                    except StoppedError as stopped:
                        stopping = stopped.number
                        if not saves:
                            self._save(state, step, awaits_validation=True)
                if stopping is not None:
                    self._saver.wait()
                    _tell_stop(bar, stopping, step)
                    return stopping
            self._saver.wait()
            pace.tell_summary(batch_size=self._options.batch_size)
        return self._stop.agreed(at_last=True)

    def _advance(self, state: TrainState, step: int, pace: Pace) -> tuple[TrainState, int]:
        """Makes updates up to the next row of metrics, or to the epoch's end."""
        row = self._options.log_every_steps
        state, metrics, count = self._steps.advance(
            state, step, min(row - step % row, self._per_epoch - step % self._per_epoch))
        step += count
        self._metrics.add(metrics, count=count, step=step, epoch=self._epoch(step),
                          ends_row=step % self._per_epoch == 0 or step % row == 0)
        pace.advance(count, epoch=self._epoch(step), latest=self._metrics.latest)
        return state, step

    def _save(self, state: TrainState, step: int, *, awaits_validation: bool) -> None:
        """Saves a state without a score."""
        self._metrics.settle()
        self._saver.save(state, self._meta(step) | (
            {AWAITS_VALIDATION: True} if awaits_validation else {}))

    def _end_epoch(self, state: TrainState, step: int, bar: Progress | None = None) -> TrainState:
        """Validates, and saves now or, soon after another checkpoint, later."""
        epoch = self._epoch(step)
        state, scores = self._validate(state, step, epoch)
        score = self._options.validation.score(scores, epoch=epoch)
        self._tell_epoch(epoch, scores, score, bar)
        if step < self._last and self._saver.early():
            self._saver.keep(state, self._meta(step), score)
        else:
            self._saver.save(state, self._meta(step), score=score)
        return state

    def _score_first(self, state: TrainState, step: int) -> TrainState:
        """Validates the first state where it needs a score."""
        try:
            if self._awaits_validation:
                state = self._end_epoch(state, step)
                self._saver.wait()
            elif self._scores_start and self._options.validation.first_epoch == 1:
                state = self._score_start(state)
        except StoppedError as stopped:
            # The status of saved steps would start a run again and again that never gets further.
            self._stop.end_by(stopped.number)
        return state

    def _score_start(self, state: TrainState) -> TrainState:
        """Validates and saves the first state, so that worse epochs do not replace it."""
        state, scores = self._validate(state, 0, 0)
        score = self._options.validation.score(scores, epoch=1)
        self._best_score = score
        self._saver.save(state, self._meta(0), score=score)
        if agreement.is_main():
            print(f"Before training: {scores['psnr']:.2f} dB on the validation slices", flush=True)
        return state

    def _validate(self, state: TrainState, step: int, epoch: int
                  ) -> tuple[TrainState, dict[str, float]]:
        state, scores = self._steps.validate(state, self._stop.poll)
        self._metrics.settle()
        if not all(map(math.isfinite, scores.values())):
            raise DivergenceError(f"after epoch {epoch}, the validation gave {scores}; the "
                                  "last good checkpoint is kept")
        self._metrics.write("valid", step=step, epoch=epoch, metrics=scores)
        return state, scores

    def _tell_epoch(self, epoch: int, scores: dict[str, float], score: float | None,
                    bar: Progress | None) -> None:
        """Prints the validation of an epoch, without breaking the bar if there is one."""
        line = f"epoch {epoch}: {scores['psnr']:.2f} dB"
        if self._options.validation.select_by == "generator_loss":
            line += f" and a generator loss of {scores['generator_loss']:.4g}"
        line += " on the validation slices"
        if score is not None and (self._best_score is None or score > self._best_score):
            self._best_score = score
            line += ", the best so far"
        if bar is not None:
            bar.message(line)
        elif agreement.is_main():
            print(line, file=sys.stderr, flush=True)

    def _epoch(self, step: int) -> int:
        """The epoch of a step, from 1; of the first state 0."""
        return (step - 1) // self._per_epoch + 1

    def _meta(self, step: int) -> JsonObject:
        return {"step": step, "epoch": self._epoch(step), **self._origin}


def _tell_stop(bar: Progress, number: int, step: int) -> None:
    bar.message(f"Stopped by {signal.Signals(number).name} at step {step}, which is saved; the "
                "same command goes on from here")
