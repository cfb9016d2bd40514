"""Starts, watches and ends runs of the command."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_ROOT = pathlib.Path(__file__).absolute().parent.parent

_RUN_LIMIT_S = 300.0
"""Longest time of a run on a busy machine; usually it takes a few seconds."""


class FailedError(Exception):
    """A run did not behave as the drill expects."""


class InterruptedDrillError(Exception):
    """The drills are ending."""


class Launcher:
    """Starts processes, and kills the remaining ones at the end of the drills."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self._lock = threading.Lock()
        self._ended = False

    def start(self, command: Sequence[str], *, environment: Mapping[str, str],
              log: pathlib.Path) -> subprocess.Popen:
        """Starts a command in its own session; its output goes into `log`."""
        with self._lock, log.open("w") as file:
            if self._ended:
                raise InterruptedDrillError
            self._processes = [each for each in self._processes if each.poll() is None]
            self._processes.append(subprocess.Popen(
                command, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True))
            return self._processes[-1]

    def end_all(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._processes:
                end(process)


def end(process: subprocess.Popen) -> None:
    """Kills a process and its children, if it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Run:
    """One start of the command, in one process or several."""

    def __init__(self, processes: Sequence[subprocess.Popen], logs: Sequence[pathlib.Path]):
        self.processes = list(processes)
        self._logs = list(logs)
        self._began = time.monotonic()

    def is_alive(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def sleep_until(self, moment_s: float) -> None:
        """Returns at a moment after the start, or at the end of all processes."""
        while self.is_alive() and (left := self._began + moment_s - time.monotonic()) > 0:
            time.sleep(min(left, 0.005))

    def age_s(self) -> float:
        return time.monotonic() - self._began

    def wait(self, limit_s: float = _RUN_LIMIT_S) -> list[int]:
        """Waits for the statuses of all processes, and kills them after `limit_s`.

        Raises:
          FailedError: a process took longer.
        """
        deadline = time.monotonic() + limit_s
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.end()
                raise FailedError(f"still ran after {limit_s:.0f} s") from None
        return [process.returncode for process in self.processes]

    def end(self) -> None:
        for process in self.processes:
            end(process)

    def text(self, index: int = 0) -> str:
        """The output of a process so far, on stdout and stderr."""
        return self._logs[index].read_text(errors="replace")

    def last_line(self, index: int = 0) -> str:
        lines = self.text(index).strip().splitlines()
        return lines[-1] if lines else "(it printed nothing)"

    def went_on_from(self) -> int | None:
        """The step from which training continued; None for a new training."""
        found = re.search(r"^Going on from step (\d+)", self.text(), re.MULTILINE)
        return int(found.group(1)) if found else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Bench(NamedTuple):
    """The shared settings of all drills.

    Attributes:
      command: to start, without --workdir and the flags of several processes.
      environment: of the command's processes.
      folder: for the files of the drills.
      launcher: of all processes.
      last_step: of the training.
      disk_bytes: size of the disk of `full_disk`.
      seed: of all random choices.
      lock: protects shared runs, and the reading of checkpoints.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: pathlib.Path
    launcher: Launcher
    last_step: int = 0
    disk_bytes: int = 0
    seed: int = 0
    lock: Any = contextlib.nullcontext()

    def start(self, workdir: pathlib.Path, logs: pathlib.Path, name: str, *,
              processes: int = 1) -> Run:
        """Starts the command; process I prints into `logs`/`name`.I.log."""
        cluster = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}",
                   "--join_timeout=30"]
        files = [logs / f"{name}.{index}.log" for index in range(processes)]
        return Run([self.launcher.start(
            [*self.command, f"--workdir={workdir}",
             *([*cluster, f"--process_id={index}"] if processes > 1 else [])],
            environment=self.environment, log=file) for index, file in enumerate(files)], files)
