"""Writes the metrics of a run: `metrics.jsonl` for programs, TensorBoard for people."""

import json
import os
import pathlib
import shutil
import socket
import struct
import sys
import time
from collections.abc import Mapping

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.full_disk import full_disk_named
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

FILE_NAME = "metrics.jsonl"


def read_history(workdir: str | os.PathLike[str]) -> list[JsonObject]:
    """Reads the rows of `metrics.jsonl`; an empty list without the file.

    An incomplete last line, from an interrupted write, is left out.

    Raises:
      InputError: a line is no row.
    """
    rows, faults = _read(pathlib.Path(workdir) / FILE_NAME)
    if faults:
        raise InputError(faults[0])
    return rows


def _read(path: pathlib.Path) -> tuple[list[JsonObject], list[str]]:
    """The whole rows of a history, and the fault of each other line; see `read_history`."""
    rows: list[JsonObject] = []
    faults = []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            try:
                row = json.loads(line)
            except ValueError as error:  # no JSON, or no UTF-8
                faults.append(f"{path}: line {number} is not JSON ({error})")
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
            else:
                faults.append(f"{path}: line {number} is no row of metrics ({line[:40]!r})")
    return rows, faults


def _set_aside(path: pathlib.Path) -> pathlib.Path:
    """Copies a history into the folder that damaged checkpoints are moved into."""
    target = path.with_name("damaged") / path.name
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    return target


class _Appended:
    """An unbuffered file to append to: after an error, closing a buffer would write again."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Appends all of the data."""
        with full_disk_named(self._path):
            while data:
                data = data[self._file.write(data):]

    def close(self) -> None:
        self._file.close()


class _Events:
    """TensorBoard's file of events.

    tensorboardX's own writer uses a thread: a full disk ends the thread, and the next rows wait
    for it for ever.

    Args:
      folder: of all of the run's event files.
      purge_step: TensorBoard ignores the entries of earlier files from this step on.
    """

    def __init__(self, folder: pathlib.Path, *, purge_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _Appended(folder / f"events.out.tfevents.{time.time_ns() // 10**9}."
                                        f"{socket.gethostname()}.{os.getpid()}")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=purge_step,
                          session_log=SessionLog(status=SessionLog.START)))

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[
            Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()])))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(length + struct.pack("<I", masked_crc32c(length)) + data
                         + struct.pack("<I", masked_crc32c(data)))


class MetricsWriter:
    """Appends rows of metrics; a context manager.

    A history with broken lines, as a power cut leaves them, is reported and set aside; its whole
    rows are kept.

    Args:
      workdir: folder of the run.
      step: the step from which training continues. Later rows, of a run that stopped before
        its next checkpoint, are dropped, since they will be written again.
      validated: False drops the row of validation at `step`, too.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, step: int, validated: bool = True
                 ) -> None:
        workdir = pathlib.Path(workdir)
        path = workdir / FILE_NAME
        rows, faults = _read(path)
        if faults:
            print(f"warning: {faults[0]}; set aside as {_set_aside(path)}; "
                  f"{counted(len(rows), 'whole row')} are kept", file=sys.stderr, flush=True)
        kept = [row for row in rows if row["step"] < step or (
            row["step"] == step and (validated or row.get("kind") != "valid"))]
        with written_whole(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = _Appended(path)
        self._events = _Events(workdir / "tensorboard", purge_step=step + 1)

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
          epoch: epoch of the step, from 1.
          metrics: name → number.
        """
        row = {"kind": kind, "step": step, "epoch": epoch, **metrics}
        self._file.write((json.dumps(row) + "\n").encode())
        self._events.add_scalars({f"{kind}/{name}": value for name, value in metrics.items()}, step)
