"""The drills: the disturbance of a run at a moment, and its expected endings."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from dfgan_jax.training.stop_request import SAVED
from drills.runs import Bench, FailedError, Run
from drills.workdir import (
    COMPILING,
    ENDING,
    EVALUATING,
    SAVING,
    STARTING,
    TRAINING,
    phase,
    saved_step,
    trained_steps,
)

PEER_LIMIT_S = 60.0
"""Time in which the other processes must notice a lost process."""
GRACE_S = 30.0
"""Time between SIGTERM and SIGKILL: SLURM's KillWait, and Kubernetes' grace period."""
_CUTS_OF_ONE_RUN = 5
"""Damages tried on copies of one killed run."""


@dataclasses.dataclass
class Case:
    """One drill at one moment.

    Attributes:
      index: of the moment, from 0.
      moment_s: time after the start.
      rng: for all other random choices.
      folder: the case's own folder.
      workdir: of the run.
      phase: of the run at the moment.
      saved: step of the latest checkpoint at the moment; None without a checkpoint.
      details: of the damage.
    """

    drill: str
    index: int
    moment_s: float
    rng: np.random.Generator
    folder: pathlib.Path
    workdir: pathlib.Path
    phase: str = ""
    saved: int | None = None
    details: str = ""

    def start(self, bench: Bench, *, name: str = "disturbed", processes: int = 1) -> Run:
        """Starts the run, and returns at the moment, with `phase` and `saved` observed."""
        run = bench.start(self.workdir, self.folder, name, processes=processes)
        run.sleep_until(self.moment_s)
        self.phase = phase(run, self.workdir, bench.last_step)
        self.saved = saved_step(self.workdir)
        return run


class Ending(NamedTuple):
    """An expected ending of the disturbed run.

    Attributes:
      words: for the table, which counts equal words.
      end_s: from the disturbance to the end; None if no process had to end by itself.
      finished: the training is complete: the command need not be started again.
    """

    words: str
    end_s: float | None = None
    finished: bool = False


ENDED_BEFORE = Ending("had ended before", finished=True)
"""The run was quicker than the undisturbed one, and ended before the disturbance."""


def check_finished(run: Run, name: str = "the run") -> None:
    """Raises `FailedError` unless all processes end with status 0."""
    for index, status in enumerate(run.wait()):
        if status != 0:
            raise FailedError(f"{name} ended with status {status}: {run.last_line(index)}")


def check_error(run: Run, pattern: str, *, index: int = 0) -> None:
    """Raises `FailedError` unless a process printed one error, in one line with `pattern`."""
    text = run.text(index)
    errors = re.findall(r"^error: .*", text, re.MULTILINE)
    if "Traceback" in text:
        raise FailedError(f"printed a traceback: {run.last_line(index)}")
    if len(errors) != 1:
        raise FailedError(f"printed {len(errors)} errors; expected one: {run.last_line(index)}")
    if not re.search(pattern, errors[0]):
        raise FailedError(f"printed {errors[0]!r}; expected {pattern!r} in it")


def sigkill(case: Case, bench: Bench) -> Ending:
    run = case.start(bench)
    if not run.is_alive():
        check_finished(run)
        return ENDED_BEFORE
    run.end()
    return Ending("killed")


def sigkill_one_of_two(case: Case, bench: Bench) -> Ending:
    run = case.start(bench, processes=2)
    alive = [index for index, process in enumerate(run.processes) if process.poll() is None]
    if not alive:
        check_finished(run)
        return ENDED_BEFORE
    killed = int(case.rng.choice(alive))
    other = 1 - killed
    case.details = f"process {killed} killed"
    run.processes[killed].kill()
    began = time.monotonic()
    try:
        status = run.wait(PEER_LIMIT_S)[other]
    except FailedError as error:
        raise FailedError(f"process {other} {error}") from None
    end_s = time.monotonic() - began
    if status == 0 and case.phase in (EVALUATING, ENDING):
        return Ending("the other's work was done")
    if status <= 0:
        raise FailedError(f"process {other} ended with status {status}: {run.last_line(other)}")
    check_error(run, r"\bprocess(es)?\b", index=other)
    return Ending("the other reported the loss and ended", end_s)


def sigterm(case: Case, bench: Bench) -> Ending:
    return _terminate(case, bench, processes=1)


def sigterm_one_of_two(case: Case, bench: Bench) -> Ending:
    return _terminate(case, bench, processes=2)


def _terminate(case: Case, bench: Bench, *, processes: int) -> Ending:
    run = case.start(bench, processes=processes)
    alive = [process for process in run.processes if process.poll() is None]
    if not alive:
        check_finished(run)
        return ENDED_BEFORE
    signalled = alive[case.rng.integers(len(alive))]
    case.details = f"process {run.processes.index(signalled)} of {processes} signalled"
    signalled.terminate()
    began = time.monotonic()
    # Outside the training, other processes notice the end as they notice any lost process.
    trains = case.phase in (COMPILING, TRAINING, SAVING)
    statuses = run.wait(GRACE_S if trains or processes == 1 else PEER_LIMIT_S)
    end_s = time.monotonic() - began
    stopped = re.search(r"^Stopped by SIGTERM at step (\d+), which is saved", run.text(),
                        re.MULTILINE)
    if stopped is not None:
        if set(statuses) != {SAVED}:
            raise FailedError(f"saved, but ended with status {statuses}; expected {SAVED}")
        if saved_step(case.workdir) != int(stopped.group(1)):
            raise FailedError(f"printed that step {stopped.group(1)} is saved; the latest "
                              f"checkpoint is of step {saved_step(case.workdir)}")
        case.saved = int(stopped.group(1))
        return Ending(f"saved, status {SAVED}", end_s)
    # The run may have made its last step between the observation and the signal.
    if trains and trained_steps(case.workdir) < bench.last_step:
        raise FailedError(f"ended with status {statuses} and saved nothing: {run.last_line()}")
    if "Traceback" in "".join(map(run.text, range(processes))):
        raise FailedError("printed a traceback")
    if signalled.returncode == 0 and case.phase == ENDING:
        return Ending("had written all", end_s, finished=set(statuses) == {0})
    if signalled.returncode not in (SAVED, -signal.SIGTERM):
        raise FailedError(f"ended with status {statuses}: {run.last_line()}")
    return Ending("ended by it before training" if case.phase == STARTING else
                  "ended by it after training", end_s)


def full_disk(case: Case, bench: Bench) -> Ending:
    disk = case.folder / "disk"
    run = case.start(bench)
    if not run.is_alive():
        check_finished(run)
        return ENDED_BEFORE
    filler = disk / "filler"
    fill(filler)
    began = time.monotonic()
    try:
        status, = run.wait()
        end_s = time.monotonic() - began
    finally:
        filler.unlink()
    if status == 0:
        return Ending("needed no more room", finished=True)
    if status != 1:
        raise FailedError(f"ended with status {status}; expected 1: {run.last_line()}")
    check_error(run, f"No space left.*{re.escape(str(disk))}|{re.escape(str(disk))}.*No space left")
    return Ending("reported and ended", end_s)


def fill(path: pathlib.Path) -> None:
    """Writes a file until its disk has no room for another byte."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: int) -> Iterator[None]:
    """Mounts a file system in memory of `size` bytes at a new folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def damaged_checkpoint(case: Case, bench: Bench) -> Ending:
    source = _killed_run(case, bench)
    shutil.copytree(source, case.workdir)
    saved = saved_step(case.workdir)
    assert saved is not None, source
    others = sum(path.name.isdecimal() for path in (case.workdir / "checkpoints").iterdir()) - 1
    folder = case.workdir / "checkpoints" / str(saved)
    case.details = f"step {saved}, {damage(folder, case.rng)}"
    run = bench.start(case.workdir, case.folder, "disturbed")
    check_finished(run)
    reported = "damaged" in run.text().replace(str(case.folder), "")
    step = run.went_on_from()
    if step == saved:
        return Ending("reported, and used" if reported else "in bytes that nobody needs",
                      finished=True)
    if not reported:
        raise FailedError(f"went on from {'the start' if step is None else f'step {step}'} instead "
                          f"of step {saved}, and reported no damage")
    if step is None and others:
        raise FailedError(f"reported the damage, and started anew beside {others} other "
                          "checkpoints")
    return Ending("reported; started anew without another checkpoint" if step is None else
                  "reported; resumed from the previous checkpoint", finished=True)


def _killed_run(case: Case, bench: Bench) -> pathlib.Path:
    """The workdir of a run killed during training, which several moments share."""
    number = case.index // _CUTS_OF_ONE_RUN
    folder = bench.folder / "killed" / str(number)
    workdir = folder / "run"
    with bench.lock:
        if not folder.exists():
            folder.mkdir(parents=True)
            # Late enough for two checkpoints.
            least = int(np.random.default_rng([bench.seed, number]).integers(
                bench.last_step // 4, bench.last_step))
            run = bench.start(workdir, folder, "killed")
            while run.is_alive() and trained_steps(workdir) < least:
                time.sleep(0.005)
            case.phase = phase(run, workdir, bench.last_step)
            run.end()
            (folder / "moment.json").write_text(json.dumps([run.age_s(), case.phase]))
        case.moment_s, case.phase = json.loads((folder / "moment.json").read_text())
    return workdir


def damage(folder: pathlib.Path, rng: np.random.Generator) -> str:
    """Flips one bit of a random file of a checkpoint, or cuts it at a random length.

    Arrays, their index, metadata, metrics and the rest are equally likely, whatever their
    sizes; among files of one kind, the probability is proportional to the size.

    Returns:
      The damage, in words.
    """
    kinds: dict[str, list[pathlib.Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.stat().st_size:
            parts = path.relative_to(folder).parts
            arrays = parts[0] == "state" and "d" in parts
            kinds.setdefault("arrays" if arrays else parts[0] if len(parts) > 1 else "",
                             []).append(path)
    paths = list(kinds.values())[rng.integers(len(kinds))]
    sizes = np.array([path.stat().st_size for path in paths])
    path = paths[rng.choice(len(paths), p=sizes / sizes.sum())]
    content = bytearray(path.read_bytes())
    name, place = path.relative_to(folder), int(rng.integers(len(content)))
    if rng.random() < 0.5:
        path.write_bytes(content[:place])
        return f"{name}: cut from {len(content)} to {place} bytes"
    bit = int(rng.integers(8))
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{name}: bit {bit} of byte {place} of {len(content)} flipped"


def two_runs(case: Case, bench: Bench) -> Ending:
    first = case.start(bench, name="first")
    began = time.monotonic()
    second = bench.start(case.workdir, case.folder, "second")
    (second_status,) = second.wait()
    end_s = time.monotonic() - began
    (first_status,) = first.wait()
    statuses = f"the first ended with status {first_status}, the second with {second_status}"
    if first_status == second_status == 0:
        if second.went_on_from() != bench.last_step:
            raise FailedError(f"both trained: {statuses}")
        return Ending("one after the other", finished=True)
    if 0 not in (first_status, second_status):
        raise FailedError(f"{statuses}: {first.last_line()}; {second.last_line()}")
    refused, words = ((second, "second refused") if first_status == 0 else
                      (first, "first refused: the second was quicker"))
    check_error(refused, f"{re.escape(str(case.workdir))}.*in use")
    return Ending(words, end_s if refused is second else None, finished=True)


DRILLS: dict[str, tuple[Callable[[Case, Bench], Ending], int]] = {
    "sigkill": (sigkill, 1), "sigkill_one_of_two": (sigkill_one_of_two, 2),
    "sigterm": (sigterm, 1), "sigterm_one_of_two": (sigterm_one_of_two, 2),
    "full_disk": (full_disk, 1), "damaged_checkpoint": (damaged_checkpoint, 1),
    "two_runs": (two_runs, 1)}
"""Name → the drill, and its processes."""
