"""Moments of runs: drawn, tried, and compared with undisturbed runs."""

import contextlib
import pathlib
import shutil
import time
from typing import Any

import numpy as np

from dfgan_jax.support.errors import InputError
from drills.disturbances import (
    DRILLS,
    ENDED_BEFORE,
    Case,
    Ending,
    check_finished,
    small_disk,
)
from drills.runs import Bench, FailedError
from drills.workdir import Final, read_final, rows_problem, state_problem


def draw(name: str, index: int, *, seed: int, life_s: float, folder: pathlib.Path) -> Case:
    """Draws the moment of a drill, independent of other drills.

    Args:
      name: in `DRILLS`.
      index: from 0.
      seed: of all drills.
      life_s: length of the undisturbed run; the moment is within it.
      folder: of all drills.
    """
    rng = np.random.default_rng([seed, list(DRILLS).index(name), index])
    moment_s = life_s * rng.random()
    own = folder / f"{name}_{index:02d}"
    return Case(drill=name, index=index, moment_s=moment_s, rng=rng, folder=own,
                workdir=(own / "disk" if name == "full_disk" else own) / "run")


def try_moment(case: Case, bench: Bench, expected: Final, *, failures: pathlib.Path
               ) -> dict[str, Any]:
    """Runs a drill at one moment, starts the command again, and compares.

    Args:
      case: from `draw`.
      bench: of all drills.
      expected: results of the undisturbed run.
      failures: the folders of failed cases are copied into it.

    Returns:
      The row of the JSON file.
    """
    drill, processes = DRILLS[case.drill]
    problems: list[str] = []
    row: dict[str, Any] = {"drill": case.drill, "index": case.index, "identical": False,
                           "restart_s": None}
    case.folder.mkdir()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        if case.drill == "full_disk":
            stack.enter_context(small_disk(case.folder / "disk", bench.disk_bytes))
        try:
            while (ending := drill(case, bench)) == ENDED_BEFORE:
                shutil.rmtree(case.workdir)
                case.moment_s *= case.rng.random()
        except FailedError as error:
            problems.append(str(error))
            ending = Ending("failed")
        row |= {"outcome": ending.words, "end_s": ending.end_s, "details": case.details,
                "moment_s": case.moment_s, "phase": case.phase}
        try:
            if not ending.finished:
                row["restart_s"] = start_again(case, bench, processes)
            with bench.lock:
                final = read_final(case.workdir)
            problem = state_problem(final, expected)
            row |= {"identical": problem is None, "same_scores": final.scores == expected.scores}
            problems += filter(None, [problem, rows_problem(final.rows, expected.rows)])
        except (FailedError, InputError, OSError) as error:
            problems.append(str(error))
        row |= {"seconds": time.monotonic() - began, "problems": problems}
        if problems:
            kept = failures / case.folder.name
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(case.folder, kept)
            row["kept_in"] = str(kept)
    shutil.rmtree(case.folder)
    return row


def start_again(case: Case, bench: Bench, processes: int) -> float:
    """Starts the same command again; it must continue from the checkpoint, and end with 0.

    Returns:
      How long it took [s].
    """
    run = bench.start(case.workdir, case.folder, "again", processes=processes)
    check_finished(run, "the run started again")
    step = run.went_on_from()
    if (step or 0) < (case.saved or 0):
        raise FailedError(f"the run started again went on from step {step or 0}, though step "
                          f"{case.saved} was saved")
    return run.age_s()


def undisturbed(bench: Bench, *, processes: int, at_once: int) -> tuple[Final, float, int]:
    """Makes undisturbed runs.

    The first run fills the cache of compiled programs for all others.

    Args:
      bench: of all drills.
      processes: of a run.
      at_once: runs at the same time, as in the drills.

    Returns:
      Their results, the length of the slowest run [s], and the size of a workdir [bytes].

    Raises:
      FailedError: a run does not end with 0, or the results differ.
    """
    expected: Final | None = None
    life_s = 0.0
    for name, count in (("first", 1), ("timed", at_once)):
        workdirs = [bench.folder / f"undisturbed_{processes}_{name}_{index}" / "run"
                    for index in range(count)]
        runs = []
        for workdir in workdirs:
            workdir.parent.mkdir()
            runs.append(bench.start(workdir, workdir.parent, "log", processes=processes))
        for run in runs:
            check_finished(run, "the undisturbed run")
            life_s = run.age_s()
        for workdir in workdirs:
            final = read_final(workdir)
            expected = expected or final
            problem = state_problem(final, expected) or rows_problem(final.rows, expected.rows)
            if problem:
                raise FailedError(f"two undisturbed runs differ: {problem}")
    assert expected is not None
    size = sum(path.stat().st_size for path in workdirs[0].rglob("*") if path.is_file())
    return expected, life_s, size
