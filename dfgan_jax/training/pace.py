"""The pace of training, and the time until its end."""

import time
from collections.abc import Callable

from dfgan_jax.devices import backend
from dfgan_jax.support.progress import Progress, format_duration, format_rate

# The first step compiles, and a step is known to be done once the next one has started.
WARM_UP_STEPS = 2
_PACE_STEPS = 2
_LONG_RUN_S = 3600.0


class Pace:
    """Measures the pace of training, and the share of the time that it waits for data.

    The first steps, which compile, do not count.

    Args:
      bar: shows the steps.
      waited_s: returns the seconds that training has waited for data so far.
    """

    def __init__(self, bar: Progress, waited_s: Callable[[], float]) -> None:
        self._bar = bar
        self._waited_s = waited_s
        self._done = 0
        self._start()

    def advance(self, count: int, *, epoch: int, latest: dict[str, float]) -> None:
        """Advances the bar; without an accelerator, prints once how long training will take.

        Args:
          count: steps since the last call.
          epoch: their epoch.
          latest: metrics of the newest step that was checked.
        """
        before, self._done = self._done, self._done + count
        note = f"epoch {epoch}"
        for loss, letter in (("generator_loss", "G"), ("discriminator_loss", "D")):
            if loss in latest:
                note += f", {letter} {latest[loss]:.4f}"
        self._bar.advance(count, note=f"{note}, waiting for data {self._waiting_share():.1%}")
        if before < WARM_UP_STEPS <= self._done:
            self._start()
        if before < WARM_UP_STEPS + _PACE_STEPS <= self._done and not backend.has_accelerator():
            self._tell_long_run(self._bar.seconds_left())

    def tell_summary(self, *, batch_size: int) -> None:
        """Prints the pace of the steps in one line, if there are any after those that compile."""
        seconds = time.monotonic() - self._started
        steps = self._done - WARM_UP_STEPS
        if steps <= 0:
            return
        self._bar.message(
            f"Trained {format_rate(steps / seconds)} steps/s, "
            f"{format_rate(steps * batch_size / seconds)} images/s, "
            f"with validation; waiting for data: {self._waiting_share():.2%} of the time")

    def _start(self) -> None:
        """Restarts the measurement."""
        self._started, self._waited_before = time.monotonic(), self._waited_s()

    def _waiting_share(self) -> float:
        """The share of the time so far that training waited for data, 0 to 1."""
        return ((self._waited_s() - self._waited_before)
                / max(time.monotonic() - self._started, 1e-9))

    def _tell_long_run(self, seconds: float) -> None:
        if seconds > _LONG_RUN_S:
            self._bar.message(f"No accelerator found: at this pace training takes about "
                              f"{format_duration(seconds)}. The variant :demo of a configuration "
                              "takes minutes. Going on.")
