"""The results in a run's workdir, and their differences from an undisturbed run's."""

import collections
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from dfgan_jax.checkpoints.folder import read_meta, restore
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.writers import read_history
from drills.runs import Run

STARTING, COMPILING, TRAINING, SAVING, EVALUATING, ENDING, ENDED = PHASES = (
    "starting", "compiling", "training", "saving", "evaluating", "ending", "ended")


def saved_step(workdir: pathlib.Path) -> int | None:
    """The step of the latest whole checkpoint; None without a checkpoint."""
    folder = workdir / "checkpoints"
    return max((int(path.name) for path in (folder.iterdir() if folder.is_dir() else ())
                if path.name.isdecimal()), default=None)


class Final(NamedTuple):
    """The results of a run at its end.

    Attributes:
      step: the last step.
      state: name of each leaf of the state → its array.
      rows: kind and step of each row of `metrics.jsonl`, in their order.
      scores: of the test split, from `results.json`.
    """

    step: int
    state: dict[str, np.ndarray]
    rows: list[tuple[str, int]]
    scores: Any


def read_final(workdir: pathlib.Path) -> Final:
    """Reads the results of a run that has ended.

    Raises:
      InputError: there is no checkpoint, or it cannot be read.
    """
    step = saved_step(workdir)
    if step is None:
        raise InputError(f"{workdir}: no checkpoint")
    folder = workdir / "checkpoints" / str(step)
    like = RunOptions.of(read_meta(folder)["config"]).training(total_steps=1).state_shapes()
    leaves = jax.tree_util.tree_leaves_with_path(restore(folder, like))
    results = json.loads((workdir / "results.json").read_text())
    return Final(step=step,
                 state={jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves},
                 rows=[(row["kind"], row["step"]) for row in read_history(workdir)],
                 scores=results["protocols"])


def differing_leaves(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[str]:
    """Names of the leaves that differ in any bit."""
    def bits(array: np.ndarray) -> tuple:
        return array.dtype, array.shape, array.tobytes()

    return [name for name in sorted(state.keys() | expected.keys())
            if name not in state or name not in expected
            or bits(state[name]) != bits(expected[name])]


def state_problem(final: Final, expected: Final) -> str | None:
    """Describes a difference of the last saved state from the undisturbed run's."""
    if final.step != expected.step:
        return f"the last checkpoint is of step {final.step}; expected {expected.step}"
    differing = differing_leaves(final.state, expected.state)
    if differing:
        return (f"{len(differing)} of {len(expected.state)} arrays of the last state differ, the "
                f"first {differing[0]}")
    return None


def rows_problem(rows: list[tuple[str, int]], expected: list[tuple[str, int]]) -> str | None:
    """Describes a difference of the rows of `metrics.jsonl` from the undisturbed run's."""
    if rows == expected:
        return None
    there, wanted = collections.Counter(rows), collections.Counter(expected)
    missing, extra = (", ".join(f"{kind} {step}" for kind, step in sorted(difference))
                      for difference in (wanted - there, there - wanted))
    return ("metrics.jsonl: " + "; ".join(
        [f"missing: {missing}"] * bool(missing) + [f"too many: {extra}"] * bool(extra))
        if missing or extra else "metrics.jsonl: rows in another order")


def phase(run: Run, workdir: pathlib.Path, last_step: int) -> str:
    """The phase of a run, judged by its output and its workdir."""
    text = run.text()
    if not run.is_alive():
        return ENDED
    if "\nReport: " in text:
        return ENDING
    if f"training: {last_step}/{last_step} steps" in text:
        return EVALUATING
    if any(not path.name.isdecimal() for path in workdir.glob("checkpoints/*")):
        return SAVING
    if trained_steps(workdir):
        return TRAINING
    return COMPILING if f" in {workdir}\n" in text else STARTING


def trained_steps(workdir: pathlib.Path) -> int:
    """The latest step in `metrics.jsonl`."""
    path = workdir / "metrics.jsonl"
    # The last line may be incomplete.
    return max((json.loads(line)["step"] for line in (
        path.read_text() if path.exists() else "").splitlines(keepends=True)
        if line.endswith("\n")), default=0)
