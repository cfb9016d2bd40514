"""The checkpoints of a run: the latest two, and the checkpoint with the best score (orbax).

Only process 0 writes.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from dfgan_jax.checkpoints.folder import (
    META,
    STATE,
    check_sound,
    signed,
    step_folders,
    this_process,
)
from dfgan_jax.support.digests import file_digest
from dfgan_jax.support.errors import DivergenceError, InputError, first_line
from dfgan_jax.support.full_disk import FULL_DISK
from dfgan_jax.support.types import JsonObject


def score_of(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for saving in the background.

    Checkpoints are written atomically: a run that is killed while saving leaves the previous one.

    Args:
      workdir: of the run; created if missing.

    Raises:
      InputError: the score of a checkpoint cannot be read.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        policies = ocp.checkpoint_managers
        directory = pathlib.Path(workdir).absolute() / "checkpoints"
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._manager = ocp.CheckpointManager(
                directory,
                options=ocp.CheckpointManagerOptions(
                    create=False, multiprocessing_options=this_process(),
                    best_fn=score_of,
                    best_mode="max",
                    # `max_to_keep` with `best_fn` would delete the latest step if it is not
                    # among the best. The latest two are kept, in case one is damaged.
                    preservation_policy=policies.AnyPreservationPolicy([
                        policies.LatestN(2),
                        policies.BestN(get_metric_fn=score_of, n=1,
                                       keep_checkpoints_without_metrics=False)])))
        except ValueError as error:
            raise InputError(f"{directory}: a checkpoint's score cannot be read ({error})"
                             ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._full_disk_reported():
            self._manager.close()

    def save(self, state: PyTree, meta: JsonObject, *, score: float | None = None) -> None:
        """Saves a state under its step, in the background; replaces a checkpoint of this step.

        Args:
          state: after the step `meta["step"]`.
          meta: JSON values, including `step`, `epoch` and `config`.
          score: of the validation, higher is better; None without validation.

        Raises:
          DivergenceError: the state or the score is not finite; nothing is saved.
        """
        # A copy on the host can be checked, and is not changed by later steps.
        copied = jax.tree.map(np.array, state)
        # Finite losses do not imply finite parameters after the update.
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(copied)) or not (
                score is None or np.isfinite(score)):
            raise DivergenceError(f"at step {meta['step']}, the parameters or the validation score "
                                  "are not finite; the last good checkpoint is kept")
        with self._full_disk_reported():
            if meta["step"] == self._manager.latest_step():  # orbax would keep that one
                self._manager.wait_until_finished()
                self._manager.delete(meta["step"])
            self._manager.save(
                meta["step"],
                args=ocp.args.Composite(**{
                    STATE: ocp.args.StandardSave(copied),
                    META: ocp.args.JsonSave(signed(meta, vars(copied), score=score))}),
                metrics=None if score is None else {"score": score})

    def wait(self) -> None:
        """Waits until all checkpoints are on disk; raises an error if saving failed."""
        with self._full_disk_reported():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _full_disk_reported(self) -> Iterator[None]:
        """Turns orbax's errors of a full disk or quota, long or pathless, into one `OSError`."""
        try:
            yield
        except (OSError, ValueError) as error:
            for number in FULL_DISK:
                if os.strerror(number) in str(error):
                    raise OSError(number, os.strerror(number), str(self._manager.directory)
                                  ) from error
            raise

    def latest(self) -> pathlib.Path | None:
        """The folder of the latest checkpoint; None before the first."""
        return self._folder(self._manager.latest_step())

    def best(self) -> pathlib.Path | None:
        """The folder of the checkpoint with the best score; None before the first score."""
        return self._folder(self._manager.best_step())

    def best_score(self) -> float | None:
        """The score of `best`."""
        step = self._manager.best_step()
        return None if step is None else score_of(self._manager.metrics(step))

    def _folder(self, step: int | None) -> pathlib.Path | None:
        return None if step is None else pathlib.Path(self._manager.directory) / str(step)


def _raise(error: OSError) -> None:
    raise error


def _error_of_disk(folder: pathlib.Path, fault: BaseException) -> OSError | None:
    """The error of the disk behind a fault of a checkpoint; None if its content is damaged."""
    cause: BaseException | None = fault
    while cause is not None:
        # Missing files are damage: a killed deletion leaves such a folder.
        if isinstance(cause, OSError) and not isinstance(
                cause, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return cause
        cause = cause.__cause__
    # The errors of tensorstore have no cause.
    try:
        for place, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                file_digest(pathlib.Path(place) / name)
    except OSError as error:
        return error
    return None


def _damage(folder: pathlib.Path) -> str | None:
    """The damage of a checkpoint in a line; None if it is sound.

    Raises:
      InputError: the disk refuses to read it.
    """
    try:
        check_sound(folder)
    except MemoryError:
        raise
    except Exception as error:  # damage raises any exception in orbax and tensorstore
        if refusal := _error_of_disk(folder, error):
            raise InputError(f"{folder}: cannot be read now ({first_line(refusal)}); expected a "
                             "readable checkpoint. Nothing was moved; the same command continues "
                             "once the disk can read it") from error
        return first_line(error).removeprefix(f"{folder}: ")
    return None


def set_aside_damaged(workdir: str | os.PathLike[str]) -> list[str]:
    """Moves the damaged checkpoints of a run into its folder `damaged`.

    The run then continues from the latest remaining checkpoint. No `Checkpoints` of the workdir
    may be open.

    Returns:
      A line for each damaged checkpoint.

    Raises:
      InputError: the disk refuses to read a checkpoint; or there are several checkpoints, and
        none can be read. None is moved.
    """
    workdir = pathlib.Path(workdir).absolute()
    for unfinished in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(unfinished)  # after a killed run or a full disk
    steps = step_folders(workdir)
    damaged = {}
    for folder in steps:
        # tensorstore does not tell a passing error of the disk from damage, which stays.
        if reason := _damage(folder) and _damage(folder):
            damaged[folder] = reason
    # If all are affected, the disk is more likely unreadable than every checkpoint damaged.
    if len(damaged) == len(steps) > 1:
        folder, reason = damaged.popitem()
        raise InputError(f"{folder}: {reason}; nor can any other checkpoint of the run be read. "
                         f"Remove {folder.parent} to start anew")
    lines = []
    for folder, reason in damaged.items():
        target = workdir / "damaged" / folder.name
        while target.exists():
            target = target.with_name(f"{target.name}.again")
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder, target)
        lines.append(f"{folder}: {reason}; set aside as {target}")
    return lines


