"""The checkpoints of a run: the latest two, and the one with the best score (orbax).

Of several processes, process 0 alone writes.
"""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dfgan_jax.checkpoints.folder import (
    META,
    STATE,
    check_sound,
    signed,
    step_folders,
    this_process,
)
from dfgan_jax.support.errors import DivergenceError, InputError, first_line


def score_of(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The checkpoints of one run; a context manager, since saving goes on behind it.

    A step is visible only once it is whole, so a run killed while saving leaves the
    one before.
    """

    def __init__(self, workdir: str | os.PathLike):
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
                    # `max_to_keep` with `best_fn` would delete the latest step when it
                    # is not among the best. Two of the latest, in case one is damaged.
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
        with self._full_disk_told():
            self._manager.close()

    def save(self, state: Any, meta: dict[str, Any], *, score: float | None = None) -> None:
        """Saves a state under its step, in the background.

        Args:
          state: after the step `meta["step"]`.
          meta: JSON values, among them `step`, `epoch` and `config`.
          score: of the validation, higher is better; None where there was none.

        Raises:
          DivergenceError: the state or the score is not finite; nothing is saved.
        """
        # On the host, where they can be checked and no later step can touch them.
        copied = jax.tree.map(np.array, state)
        # The losses of a step say nothing of the parameters that it leaves.
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(copied)) or not (
                score is None or np.isfinite(score)):
            raise DivergenceError(f"at step {meta['step']}, the parameters or the validation score "
                                  "are not finite; the last good checkpoint is kept")
        with self._full_disk_told():
            self._manager.save(
                meta["step"],
                args=ocp.args.Composite(**{
                    STATE: ocp.args.StandardSave(copied),
                    META: ocp.args.JsonSave(signed(meta, vars(copied), score=score))}),
                metrics=None if score is None else {"score": score})

    def wait(self) -> None:
        """Returns when all that was saved is on disk; raises if saving failed."""
        with self._full_disk_told():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        """Has a full disk told in one line, of which orbax has pages, or which names no file."""
        try:
            yield
        except (OSError, ValueError) as error:
            full = os.strerror(errno.ENOSPC)
            if full not in str(error):
                raise
            raise OSError(errno.ENOSPC, full, str(self._manager.directory)) from error

    def latest(self) -> pathlib.Path | None:
        """Folder of the latest checkpoint; None before the first."""
        return self._folder(self._manager.latest_step())

    def best(self) -> pathlib.Path | None:
        """Folder of the checkpoint with the best score; None before the first score."""
        return self._folder(self._manager.best_step())

    def _folder(self, step: int | None) -> pathlib.Path | None:
        return None if step is None else pathlib.Path(self._manager.directory) / str(step)


def set_aside_damaged(workdir: str | os.PathLike) -> list[str]:
    """Moves the damaged checkpoints of a run into its folder `damaged`.

    The run then goes on from the latest of those that are left. For a workdir that no
    `Checkpoints` has open.

    Returns:
      A line on each that was damaged.

    Raises:
      InputError: there are several, and none can be read; all of them stay.
    """
    workdir = pathlib.Path(workdir).absolute()
    for unfinished in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(unfinished)  # of a run that was killed, or whose disk was full
    steps = step_folders(workdir)
    damaged = {}
    for folder in steps:
        try:
            check_sound(folder)
        except MemoryError:
            raise
        except Exception as error:  # damage takes any form in orbax and tensorstore
            damaged[folder] = first_line(error).removeprefix(f"{folder}: ")
    # Rather a disk that cannot be read now than damage, which comes to one.
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


