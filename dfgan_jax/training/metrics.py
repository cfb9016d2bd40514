"""The rows of metrics that a run writes."""

import math

import jax
import numpy as np

from dfgan_jax.support.errors import DivergenceError
from dfgan_jax.training import steps
from dfgan_jax.training.writers import MetricsWriter


class Metrics:
    """Metrics of each step, checked to be finite and written row by row.

    The metrics of the newest call stay on the device until the next call has started, so
    that the device does not wait for the check.

    Args:
      writer: in the process that writes; None in the others.
    """

    def __init__(self, writer: MetricsWriter | None) -> None:
        self._writer = writer
        self._newest: tuple[steps.Metrics, int, int, int, bool] | None = None
        self._rows: list[dict[str, float]] = []
        self.latest: dict[str, float] = {}
        """The metrics of the newest step that was checked."""

    def add(self, metrics: steps.Metrics, *, count: int, step: int, epoch: int,
            ends_row: bool) -> None:
        """Takes the metrics of the `count` steps that end with `step`, scalars or (count,)."""
        self.settle()
        self._newest = metrics, count, step, epoch, ends_row

    def settle(self) -> None:
        """Fetches, checks and writes the metrics that are still on the device.

        Raises:
          DivergenceError: a metric is not finite.
        """
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
        """Writes a row, in the process that writes."""
        if self._writer is not None:
            self._writer.write(kind, step=step, epoch=epoch, metrics=metrics)


