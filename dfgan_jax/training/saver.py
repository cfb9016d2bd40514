"""Decides which states of a run are saved, and when."""

import time

from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.devices import agreement, parallel
from dfgan_jax.support.types import JsonObject
from dfgan_jax.training.state import TrainState


class Saver:
    """Saves states, in process 0.

    Of the epochs that end too soon after a checkpoint, the best is kept in memory and saved with
    the next checkpoint; if none of them may be the best, the latest is kept.

    Args:
      kept: the checkpoints of the run; None in the processes that save nothing.
      after_s: shortest time between the checkpoints of two epochs [s].
      every_s: longest time without a checkpoint [s].
    """

    def __init__(self, kept: Checkpoints | None, *, after_s: float, every_s: float
                 ) -> None:
        self._kept = kept
        self._after_s, self._every_s = after_s, every_s
        self._saved_at = time.monotonic()
        self._pending: tuple[TrainState, JsonObject, float | None] | None = None

    def due(self) -> bool:
        """Whether a checkpoint is due within an epoch."""
        return self._kept is not None and time.monotonic() - self._saved_at > self._every_s

    def early(self) -> bool:
        """Whether the checkpoint of an epoch that ends now can wait."""
        return time.monotonic() - self._saved_at < self._after_s

    def keep(self, state: TrainState, meta: JsonObject, score: float | None) -> None:
        """Keeps a copy of a state, unless the kept state has a better score."""
        best_score = None if self._pending is None else self._pending[2]
        if self._kept is not None and (
                best_score is None or (score is not None and score > best_score)):
            self._pending = (parallel.copied(state), meta, score)

    def save(self, state: TrainState, meta: JsonObject, *, score: float | None = None) -> None:
        """Saves the kept state, then this one."""
        if self._kept is not None:
            self.save_kept()
            self._kept.save(state, meta, score=score)
            self._saved_at = time.monotonic()

    def save_kept(self) -> None:
        """Saves the kept state, if there is one."""
        if self._kept is not None and self._pending is not None:
            state, meta, score = self._pending
            self._kept.save(state, meta, score=score)
            self._pending = None

    def wait(self) -> None:
        """Returns when all saved states are on disk, in every process."""
        if self._kept is not None:
            self._kept.wait()
        agreement.barrier("saved")

    def rescue(self) -> None:
        """Saves the kept state before an error ends the run; other processes end with process 0."""
        if self._kept is not None:
            self.save_kept()
            self._kept.wait()
        else:
            agreement.wait_for_the_end()


