"""One framework in its own process: builds, times and drops sides on request.

    python -m benchmarks.worker torch|jax FILE_DESCRIPTOR

The other end of the connection sends (name of a method, arguments), and receives
(True, result) or (False, error in one line). The process ends when the other end is
closed.
"""

import importlib
import platform
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.workload import Arrays, Run, Side

REPETITIONS = 3
"""Timed in one measurement, each of one step or several."""

_MOST_QUEUED = 20
"""Steps in one repetition, of which only the last is waited for."""


class Worker:
    """Answers requests with one framework."""

    def __init__(self, framework: str):
        self._module: Any = importlib.import_module(f"benchmarks.{framework}_side")
        self._runs: dict[Side, tuple[Run, int]] = {}

    def describe(self) -> dict[str, Any]:
        return {**self._module.describe(), "python": platform.python_version()}

    def prepare(self, side: Side, seconds: float) -> tuple[float, Arrays]:
        """Builds a side, compiles it and keeps it until `release`.

        Args:
          side: to build.
          seconds: length of a measurement, of at least `REPETITIONS` steps.

        Returns:
          The time to prepare [s], and the result of the first step.
        """
        with self._module.settings(side):
            start = time.perf_counter()
            run = self._module.build(side)
            handle = run.step()
            run.wait(handle)
            elapsed, result = time.perf_counter() - start, run.result(handle)
            # PyTorch picks algorithms in the first step and records CUDA graphs in the second.
            for _ in range(3):
                start = time.perf_counter()
                run.wait(run.step())
                step_s = time.perf_counter() - start
        queued = round(seconds / REPETITIONS / step_s)
        self._runs[side] = run, min(max(queued, 1), _MOST_QUEUED)
        self._module.rest()
        return elapsed, result

    def measure(self, side: Side) -> list[float]:
        """Seconds a step of each repetition, after one untimed step."""
        run, queued = self._runs[side]
        times = []
        with self._module.settings(side):
            run.wait(run.step())
            for _ in range(REPETITIONS):
                start = time.perf_counter()
                for _ in range(queued):
                    handle = run.step()
                run.wait(handle)
                times.append((time.perf_counter() - start) / queued)
        self._module.rest()
        return times

    def release(self) -> None:
        """Drops all sides of PyTorch; ours are kept for later jobs."""
        self._runs.clear()
        self._module.release()


def serve(framework: str, connection: Connection) -> None:
    worker = Worker(framework)
    while True:
        try:
            method, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(worker, method)(*arguments)
        except Exception as error:  # compilers raise any type; the other end decides
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            answer = False, f"{type(error).__name__}: {lines[0] if lines else ''}"
        connection.send(answer)


if __name__ == "__main__":
    serve(sys.argv[1], Connection(int(sys.argv[2])))
