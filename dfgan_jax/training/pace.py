"""How fast training is, and how long all of it will take."""

import time
from collections.abc import Callable

from dfgan_jax.devices import parallel
from dfgan_jax.support.progress import Progress, format_duration

# The first step compiles, and each is known to be done when the next one has started.
_WARM_UP_STEPS = 2
_PACE_STEPS = 2
_LONG_RUN_S = 3600.0


class Pace:
    """How fast training is, and which share of the time it waits for data.

    Without its first steps, which compile.

    Args:
      bar: that shows the steps.
      waited_s: gives the seconds that training has waited for data so far.
    """

    def __init__(self, bar: Progress, waited_s: Callable[[], float]) -> None:
        self._bar = bar
        self._waited_s = waited_s
        self._done = 0
        self._start()

    def advance(self, count: int, *, epoch: int, latest: dict[str, float]) -> None:
        """Moves the bar, and says once, where it matters, how long all of it will take.

        Args:
          count: steps that were made.
          epoch: that they are of.
          latest: metrics of the newest step that was checked.
        """
        before, self._done = self._done, self._done + count
        note = f"epoch {epoch}"
        for loss, letter in (("generator_loss", "G"), ("discriminator_loss", "D")):
            if loss in latest:
                note += f", {letter} {latest[loss]:.4f}"
        self._bar.advance(count, note=f"{note}, waiting for data {self._waiting_share():.1%}")
        if before < _WARM_UP_STEPS <= self._done:
            self._bar.start_clock()
            self._start()
        if before < _WARM_UP_STEPS + _PACE_STEPS <= self._done and not parallel.has_accelerator():
            self._tell_long_run(self._bar.seconds_left())

    def tell_summary(self, *, batch_size: int) -> None:
        """Says in one line how fast the steps were."""
        seconds = time.monotonic() - self._started
        steps = max(self._done - _WARM_UP_STEPS, 0)
        self._bar.message(
            f"Trained {steps / seconds:.3g} steps/s, {steps * batch_size / seconds:.3g} images/s, "
            f"with validation; waiting for data: {self._waiting_share():.2%} of the time")

    def _start(self) -> None:
        """Measures from here on."""
        self._started, self._waited_before = time.monotonic(), self._waited_s()

    def _waiting_share(self) -> float:
        """Of the time so far, 0 to 1."""
        return ((self._waited_s() - self._waited_before)
                / max(time.monotonic() - self._started, 1e-9))

    def _tell_long_run(self, seconds: float) -> None:
        if seconds > _LONG_RUN_S:
            self._bar.message(f"No accelerator found: at this pace training takes about "
                              f"{format_duration(seconds)}. The variant :demo, as in "
                              "--config=configs/attn.py:demo, takes minutes. Going on.")
