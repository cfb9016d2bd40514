"""Compares sides: their results, and their times in turns."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.comparison_plan import COMPILE_BUDGET, GPU_BUDGET, Job, Machine, side_of
from benchmarks.ratios import ratios
from benchmarks.worker_processes import RefusedError, WorkerError, Workers
from benchmarks.workload import Arrays, Side, Task

MEASURED = "measured"

EXACT_IMAGES, EXACT_LOSSES = 1e-4, 1e-5
"""Largest difference over the standard deviation, and relative: float32 to rounding."""
NARROW_IMAGES, NARROW_LOSSES = 0.03, 0.02
"""Root mean square over the standard deviation, and relative: TF32 or bfloat16 (seen on a
CPU, of bfloat16: 4e-3 and 1.5e-3)."""

_CHECK_SIZE, _CHECK_BATCH = 64, 2

_SETTLE_S = {"cpu": 0.3, "gpu": 0.05}
"""Between two measurements: OpenMP's threads go on spinning for a while."""
_MIN_ROUNDS = 2


def check_same(actual: Arrays, expected: Arrays, *, exact: bool, what: str) -> dict[str, float]:
    """Compares the results of two sides for the same input.

    Args:
      actual: losses by their names, or `denoised` images.
      expected: likewise.
      exact: both are in float32; otherwise one has a narrower dtype.
      what: the compared quantity, for the message.

    Returns:
      Name → difference: of losses relative, of images over the standard deviation, the
      largest if `exact`, otherwise the root mean square.

    Raises:
      WorkerError: the results differ.
    """
    differences = {}
    for name, value in expected.items():
        error = np.abs(actual[name].astype(np.float64) - value)
        if value.ndim:
            difference = (error.max() if exact else np.sqrt(np.mean(error**2))) / value.std()
            bound = EXACT_IMAGES if exact else NARROW_IMAGES
        else:
            difference, bound = error / abs(value), EXACT_LOSSES if exact else NARROW_LOSSES
        if not difference < bound:
            raise WorkerError(f"{what}: {name} differs by {difference:.1e}; expected less than "
                              f"{bound:.0e}: the two do not compute the same")
        differences[name] = float(difference)
    return differences


def check_exactly(workers: Workers, machine: Machine) -> dict[str, dict[str, float]]:
    """Compares eager PyTorch with ours in float32, without TF32, on small images.

    Raises:
      WorkerError: the results differ.
    """
    checks: dict[str, dict[str, float]] = {}
    tasks: tuple[Task, ...] = ("inference", "training")
    for task in tasks:
        results = []
        sides = [
            dataclasses.replace(side_of(task, framework, variant, "float32", batch=_CHECK_BATCH,
                                        machine=machine), size=_CHECK_SIZE, exact=True)
            for framework, variant in (("jax", "ours"), ("torch", "eager"))]
        for side in sides:
            workers[side.framework].send("prepare", side, 0.0)
        for side in sides:
            try:
                results.append(workers[side.framework].receive()[1])
            except RefusedError as error:
                _failed(side, error)
        checks[task] = check_same(*results, exact=True, what=f"{task}, float32, {_CHECK_SIZE}²")
        workers["torch"].ask("release")
    return checks


class Results(NamedTuple):
    """Results of past jobs that later jobs use.

    Attributes:
      expected: task and batch → result of the first side.
      prepared: side of ours that its process keeps → its status.
    """

    expected: dict[tuple[Task, int], Arrays]
    prepared: dict[Side, dict[str, Any]]


def run_job(job: Job, workers: Workers, machine: Machine, results: Results) -> dict[str, Any]:
    """Prepares the sides of a job, and measures them in turns.

    Returns:
      A row for each side, and the ratio of each pair of sides with the same batch.

    Raises:
      WorkerError: a process ended, the results of two sides differ, or an essential side
        failed.
    """
    rows = {side: {**dataclasses.asdict(side), "name": side.name} for side in job.sides}
    ready: list[Side] = []
    for side in job.sides:
        status = results.prepared.get(side) or _prepare(side, ready, workers, machine, results)
        rows[side] |= status
        if status["status"] == MEASURED:
            ready.append(side)
            if side.framework == "jax":
                results.prepared[side] = status
    comparable = len({side.framework for side in ready}) == 2
    rounds, failed = measure_in_turns(ready if comparable else [], workers, machine)
    workers["torch"].ask("release")
    for side, reason in failed.items():
        rows[side]["status"] = reason
    for side, times in rounds.items():
        median = statistics.median(times)
        rows[side] |= {"median_ms": 1e3 * median, "min_ms": 1e3 * min(times),
                       "max_ms": 1e3 * max(times), "rounds_ms": [1e3 * t for t in times],
                       "images_per_s": side.batch / median}
    return {"task": job.task, "size": job.sides[0].size, "sides": list(rows.values()),
            "ratios": ratios(list(rows.values()))}


def _failed(side: Side, error: RefusedError) -> str:
    """The status of a failed side, if it is not essential."""
    if side.essential:
        raise WorkerError(f"{side.name}, {side.task}, batch {side.batch}: {error}") from error
    return f"failed: {error}"


def _prepare(side: Side, ready: Sequence[Side], workers: Workers, machine: Machine,
             results: Results) -> dict[str, Any]:
    """Builds a side, and compares its first result with the first side's."""
    left = machine.left()
    if left <= 0:
        return {"status": f"skipped: --gpu_budget={GPU_BUDGET.value:g} was spent"}
    say(f"preparing {side.name}, {side.task}, batch {side.batch}")
    limit = min(COMPILE_BUDGET.value, left) if side.compiled else None
    try:
        prepare_s, result = workers[side.framework].ask(
            "prepare", side, machine.seconds, timeout_s=limit)
    except RefusedError as error:
        return {"status": _failed(side, error)}
    except TimeoutError:
        # Only the end of its process stops a compiler; the prepared sides end with it.
        workers.end(side.framework)
        for lost in ready:
            if lost.framework == side.framework:
                workers[lost.framework].ask("prepare", lost, machine.seconds)
        return {"status": f"given up after {limit:.0f} s: see --compile_budget, --gpu_budget"}
    reference = results.expected.setdefault((side.task, side.batch), result)
    exact = side.dtype == "float32" and not machine.is_gpu
    differences = check_same(result, reference, exact=exact,
                             what=f"{side.name}, {side.task}, batch {side.batch}")
    return {"status": MEASURED, "prepare_s": prepare_s, "differences": differences}


def measure_in_turns(sides: Sequence[Side], workers: Workers, machine: Machine
                     ) -> tuple[dict[Side, list[float]], dict[Side, str]]:
    """Measures sides, one after the other, in the reverse order each round.

    Returns:
      Side → seconds a step in each round, the median of its repetitions; and failed
      side → reason.
    """
    rounds: dict[Side, list[float]] = {side: [] for side in sides}
    failed: dict[Side, str] = {}
    for number in range(machine.rounds):
        if number >= _MIN_ROUNDS and machine.left() <= 0:
            break
        for side in list(rounds) if number % 2 == 0 else list(reversed(rounds)):
            time.sleep(_SETTLE_S["gpu" if machine.is_gpu else "cpu"])
            try:
                times = workers[side.framework].ask("measure", side)
            except RefusedError as error:
                failed[side] = _failed(side, error)
                del rounds[side]
            else:
                rounds[side].append(statistics.median(times))
        if rounds:
            say(f"{next(iter(rounds)).task}: round {number + 1} of {machine.rounds}: " + ", ".join(
                f"{side.name}, batch {side.batch}: {1e3 * each[-1]:.4g} ms"
                for side, each in rounds.items()))
    return rounds, failed


def say(text: str) -> None:
    """Prints the progress on stderr."""
    print(text, file=sys.stderr, flush=True)
