"""Which states of a run are saved, and when."""

import time
from typing import Any

from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.devices import agreement, parallel
from dfgan_jax.training.state import TrainState


class Saver:
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
        agreement.barrier("saved")

    def rescue(self) -> None:
        """Saves what was kept, before an error ends the run; the others end with process 0."""
        if self._kept is not None:
            self.save_kept()
            self._kept.wait()
        else:
            agreement.wait_for_the_end()


