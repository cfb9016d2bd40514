"""Where a run's numbers go: `metrics.jsonl` for programs, TensorBoard for people."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter

from dfgan_jax.errors import InputError

FILE_NAME = "metrics.jsonl"


def read_history(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; none where there is no file.

    A last line that was cut off in the middle of writing is left out.
    """
    path = pathlib.Path(workdir) / FILE_NAME
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), start=1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: line {number} is not JSON ({error})") from error
    return rows


class MetricsWriter:
    """Appends rows of metrics; a context manager.

    Args:
      workdir: folder of the run.
      step: that training goes on from. Rows after it were written by a run that
        stopped before its next checkpoint; they are dropped, since they will be
        written again.
    """

    def __init__(self, workdir: str | os.PathLike, *, step: int):
        workdir = pathlib.Path(workdir)
        path = workdir / FILE_NAME
        kept = [row for row in read_history(workdir) if row["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(path)
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1,
                                     write_to_disk=True)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._events.close()

    def write(self, kind: str, *, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Writes one row.

        Args:
          kind: `train` or `valid`.
          step: updates made.
          epoch: that the step belongs to, from 1.
          metrics: name → number.
        """
        row = {"kind": kind, "step": step, "epoch": epoch, **metrics}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)
