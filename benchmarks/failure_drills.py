"""Failure drills: runs that are killed, stopped, starved of disk, damaged and doubled.

    python -m benchmarks.failure_drills --json=failure_drills.json --markdown=docs/failure_drills.md

Each drill disturbs a tiny training at random moments of its whole life, from the start of
the process to its end, starts the same command again, and compares what the run leaves
with an undisturbed one: the state saved at the last step, bit for bit, and
`metrics.jsonl`, each row once.

* `sigkill`: the process is killed.
* `sigkill_one_of_two`: one of two processes is killed; the other must end by itself.
* `sigterm`: must save, and end with status 143, within the grace period.
* `sigterm_one_of_two`: both must do so.
* `full_disk`: all free room of the workdir's disk is taken; must end with one line.
* `damaged_checkpoint`: the latest checkpoint of a killed run has one bit flipped, or a file cut.
* `two_runs`: the command is started a second time; one of the two must be refused.

Real processes of `main.py`, on CPUs. Full disks are file systems in memory, of a mount
namespace that ends with the drills.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging

from dfgan_jax.checkpoints.folder import read_meta, restore_state
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.devices.huge_pages import HUGE_PAGES
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.progress import format_duration, progress
from dfgan_jax.training.writers import read_history
from tests.cli.command import TINY, make_pairs

_ROOT = pathlib.Path(__file__).absolute().parent.parent

# Other benchmarks have flags of these names, too; tests import several of them.
_JSON = flags.DEFINE_string("json", None, "File to write; what failed is kept beside it.",
                            allow_override=True)
_MARKDOWN = flags.DEFINE_string(
    "markdown", None, "File to write the table into, between the lines <!-- drills --> and "
    "<!-- /drills --> where it exists.")
_MOMENTS = flags.DEFINE_integer("moments", 50, "Of each drill.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of moments and damages.", lower_bound=0,
                             allow_override=True)
_JOBS = flags.DEFINE_integer("jobs", 2, "Moments tried at the same time.", lower_bound=1)
_DRILLS = flags.DEFINE_list("drills", None, "Those to run, separated by commas; all by default.")

EPOCHS = 12

PEER_LIMIT_S = 60.0
"""Within which the other processes must have noticed that one is gone."""
GRACE_S = 30.0
"""Between SIGTERM and SIGKILL: SLURM's KillWait, and Kubernetes' grace period."""
_RUN_LIMIT_S = 300.0
"""Longest a run may take on a busy machine; its life is a few seconds."""
_CUTS_OF_ONE_RUN = 5
"""Damages tried on copies of one killed run."""

STARTING, COMPILING, TRAINING, SAVING, EVALUATING, ENDING, ENDED = PHASES = (
    "starting", "compiling", "training", "saving", "evaluating", "ending", "ended")

_MOUNTS = "DFGAN_FAILURE_DRILLS_MOUNTS"
"""Set in the environment of the process that may mount."""


class FailedError(Exception):
    """A run did not do what the drill expects of it."""


class InterruptedDrillError(Exception):
    """The drills are being ended."""


# Processes


class Launcher:
    """Starts processes, and ends at once all that still run when the drills end."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self._lock = threading.Lock()
        self._ended = False

    def start(self, command: Sequence[str], *, environment: Mapping[str, str],
              log: pathlib.Path) -> subprocess.Popen:
        """Starts a command in a session of its own; what it prints goes into `log`."""
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
    """Kills a process and what it started, if it still runs."""
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
        """The statuses of all processes; those that take longer are killed.

        Raises:
          FailedError: one took longer.
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
        """What a process has printed so far, on stdout and stderr."""
        return self._logs[index].read_text(errors="replace")

    def last_line(self, index: int = 0) -> str:
        lines = self.text(index).strip().splitlines()
        return lines[-1] if lines else "(it printed nothing)"

    def went_on_from(self) -> int | None:
        """The step that training went on from; None where it started anew."""
        found = re.search(r"^Going on from step (\d+)", self.text(), re.MULTILINE)
        return int(found.group(1)) if found else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Bench(NamedTuple):
    """What all drills share.

    Attributes:
      command: to start, without --workdir and what tells processes apart.
      environment: of its processes.
      folder: for whatever a drill leaves.
      launcher: of all processes.
      last_step: of the training.
      disk_bytes: size of the disk of `full_disk`.
      seed: of whatever is random.
      lock: held by whoever makes, or reads, what only one may at a time.
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


# What a run leaves


def saved_step(workdir: pathlib.Path) -> int | None:
    """The step of the latest whole checkpoint; None where there is none."""
    folder = workdir / "checkpoints"
    return max((int(path.name) for path in (folder.iterdir() if folder.is_dir() else ())
                if path.name.isdecimal()), default=None)


class Final(NamedTuple):
    """What an undisturbed run leaves at its end.

    Attributes:
      step: the last.
      state: name of each leaf of the state → its array.
      rows: kind and step of each row of `metrics.jsonl`, in their order.
      scores: of the test split, from `results.json`.
    """

    step: int
    state: dict[str, np.ndarray]
    rows: list[tuple[str, int]]
    scores: Any


def read_final(workdir: pathlib.Path) -> Final:
    """Reads what a run that ended has left.

    Raises:
      InputError: there is no checkpoint, or it cannot be read.
    """
    step = saved_step(workdir)
    if step is None:
        raise InputError(f"{workdir}: no checkpoint")
    folder = workdir / "checkpoints" / str(step)
    like = RunOptions.of(read_meta(folder)["config"]).training(total_steps=1).state_shapes()
    leaves = jax.tree_util.tree_leaves_with_path(restore_state(folder, like))
    results = json.loads((workdir / "results.json").read_text())
    return Final(step=step,
                 state={jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves},
                 rows=[(row["kind"], row["step"]) for row in read_history(workdir)],
                 scores=results["protocols"])


def differing_leaves(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[str]:
    """Names of the leaves that are not the same bit for bit."""
    def bits(array: np.ndarray) -> tuple:
        return array.dtype, array.shape, array.tobytes()

    return [name for name in sorted(state.keys() | expected.keys())
            if name not in state or name not in expected
            or bits(state[name]) != bits(expected[name])]


def state_problem(final: Final, expected: Final) -> str | None:
    """What sets the last saved state apart from the undisturbed run's."""
    if final.step != expected.step:
        return f"the last checkpoint is of step {final.step}; expected {expected.step}"
    differing = differing_leaves(final.state, expected.state)
    if differing:
        return (f"{len(differing)} of {len(expected.state)} arrays of the last state differ, the "
                f"first {differing[0]}")
    return None


def rows_problem(rows: list[tuple[str, int]], expected: list[tuple[str, int]]) -> str | None:
    """What sets the rows of `metrics.jsonl` apart from the undisturbed run's."""
    if rows == expected:
        return None
    there, wanted = collections.Counter(rows), collections.Counter(expected)
    missing, extra = (", ".join(f"{kind} {step}" for kind, step in sorted(difference))
                      for difference in (wanted - there, there - wanted))
    return ("metrics.jsonl: " + "; ".join(
        [f"missing: {missing}"] * bool(missing) + [f"too many: {extra}"] * bool(extra))
        if missing or extra else "metrics.jsonl: rows in another order")


def phase(run: Run, workdir: pathlib.Path, last_step: int) -> str:
    """What a run is at, as far as its output and its workdir tell."""
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
    """The latest step that `metrics.jsonl` tells of."""
    path = workdir / "metrics.jsonl"
    # The last line may be half there.
    return max((json.loads(line)["step"] for line in (
        path.read_text() if path.exists() else "").splitlines(keepends=True)
        if line.endswith("\n")), default=0)


# Drills


@dataclasses.dataclass
class Case:
    """One drill at one moment.

    Attributes:
      index: of the moment, from 0.
      moment_s: after the start.
      rng: for whatever else is random.
      folder: of its own.
      workdir: of the run.
      phase: that the moment fell into.
      saved: the latest checkpoint's step at the moment; None where there was none.
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
        """Starts the run that is to be disturbed, and returns at the moment, observed."""
        run = bench.start(self.workdir, self.folder, name, processes=processes)
        run.sleep_until(self.moment_s)
        self.phase = phase(run, self.workdir, bench.last_step)
        self.saved = saved_step(self.workdir)
        return run


class Ending(NamedTuple):
    """How the disturbed run ended, as the drill expects.

    Attributes:
      words: for the table, which counts those that are the same.
      end_s: from the disturbance to the end; None where nothing had to end by itself.
      finished: the training is through: the command need not be started again.
    """

    words: str
    end_s: float | None = None
    finished: bool = False


ENDED_BEFORE = Ending("had ended before", finished=True)
"""Of a run that was quicker than the undisturbed one: nothing was disturbed."""


def check_finished(run: Run, name: str = "the run") -> None:
    """Raises `FailedError` unless all processes end with status 0."""
    for index, status in enumerate(run.wait()):
        if status != 0:
            raise FailedError(f"{name} ended with status {status}: {run.last_line(index)}")


def check_error(run: Run, pattern: str, *, index: int = 0) -> None:
    """Raises `FailedError` unless a process told one error, in one line that has `pattern`."""
    text = run.text(index)
    errors = re.findall(r"^error: .*", text, re.MULTILINE)
    if "Traceback" in text:
        raise FailedError(f"told a traceback: {run.last_line(index)}")
    if len(errors) != 1:
        raise FailedError(f"told {len(errors)} errors, expected one: {run.last_line(index)}")
    if not re.search(pattern, errors[0]):
        raise FailedError(f"told {errors[0]!r}; expected {pattern!r} in it")


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
    return Ending("the other told and ended", end_s)


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
    # Outside the training, the others of several learn of it as they do of any that is gone.
    trains = case.phase in (COMPILING, TRAINING, SAVING)
    statuses = run.wait(GRACE_S if trains or processes == 1 else PEER_LIMIT_S)
    end_s = time.monotonic() - began
    stopped = re.search(r"^Stopped by SIGTERM at step (\d+), which is saved", run.text(),
                        re.MULTILINE)
    if stopped is not None:
        if set(statuses) != {143}:
            raise FailedError(f"saved, but ended with status {statuses}; expected 143")
        if saved_step(case.workdir) != int(stopped.group(1)):
            raise FailedError(f"told that step {stopped.group(1)} is saved; the latest checkpoint "
                              f"is of step {saved_step(case.workdir)}")
        case.saved = int(stopped.group(1))
        return Ending("saved, status 143", end_s)
    # Between the observation and the signal the last step may have been made.
    if trains and trained_steps(case.workdir) < bench.last_step:
        raise FailedError(f"ended with status {statuses} and saved nothing: {run.last_line()}")
    if "Traceback" in "".join(map(run.text, range(processes))):
        raise FailedError("told a traceback")
    if signalled.returncode == 0 and case.phase == ENDING:
        return Ending("had written all", end_s, finished=set(statuses) == {0})
    if signalled.returncode not in (143, -signal.SIGTERM):
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
    return Ending("told and ended", end_s)


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
    told = "damaged" in run.text().replace(str(case.folder), "")
    step = run.went_on_from()
    if step == saved:
        return Ending("told, and used all the same" if told else "in bytes that nobody needs",
                      finished=True)
    if not told:
        raise FailedError(f"went on from {'the start' if step is None else f'step {step}'} instead "
                          f"of step {saved}, and told nothing of damage")
    if step is None and others:
        raise FailedError(f"told of the damage, and started anew beside {others} other checkpoints")
    return Ending("told, and started anew: there was no other" if step is None else
                  "told, and went on from the one before", finished=True)


def _killed_run(case: Case, bench: Bench) -> pathlib.Path:
    """The workdir of a run killed in the middle of training, which several moments share."""
    number = case.index // _CUTS_OF_ONE_RUN
    folder = bench.folder / "killed" / str(number)
    workdir = folder / "run"
    with bench.lock:
        if not folder.exists():
            folder.mkdir(parents=True)
            # So that there are two checkpoints.
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

    Arrays, their index, metadata, metrics and the rest are equally likely, whatever
    their sizes; among the files of a kind, the larger are the likelier.

    Returns:
      What was done, in words.
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


def draw(name: str, index: int, *, seed: int, life_s: float, folder: pathlib.Path) -> Case:
    """The moment of a drill, the same whatever else is run beside it.

    Args:
      name: in `DRILLS`.
      index: from 0.
      seed: of all drills.
      life_s: of the undisturbed run, within which the moment is.
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
      case: drawn.
      bench: of all.
      expected: what the undisturbed run has left.
      failures: the folder of a case that failed is copied into it.

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
    """Starts the same command again; it must go on from what is saved, and end with 0.

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


# The undisturbed runs


def undisturbed(bench: Bench, *, processes: int, at_once: int) -> tuple[Final, float, int]:
    """Lets runs of their own do what the disturbed ones shall.

    The first of them leaves its compiled programs to all others.

    Args:
      bench: of all.
      processes: of a run.
      at_once: runs at the same time, as the disturbed ones will be.

    Returns:
      What they left, the life of the slowest [s], and the size of a workdir in bytes.

    Raises:
      FailedError: they do not end with 0, or not all with the same.
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


# Telling


def table(report: Mapping[str, Any]) -> str:
    """The content of the JSON file as a table in Markdown."""
    lines = ["| drill | moments | ended as expected | final parameters identical | slowest end | "
             "remarks |", "|---|---|---|---|---|---|"]
    for name in DRILLS:
        if name in report["not_possible"]:
            lines.append(f"| `{name}` | 0 | – | – | – | not possible here: "
                         f"{report['not_possible'][name]} |")
        rows = [row for row in report["moments"] if row["drill"] == name]
        if not rows:
            continue
        ends = [row["end_s"] for row in rows if row["end_s"] is not None]
        slowest = f"{max(ends):.1f} s (median {statistics.median(ends):.1f} s)" if ends else "–"
        remarks = [_counts(row["outcome"] for row in rows)]
        if name != "damaged_checkpoint":
            remarks.append("while " + _counts(
                row["phase"] for row in sorted(rows, key=lambda row: PHASES.index(row["phase"]))))
        other_scores = sum(row["identical"] and not row["same_scores"] for row in rows)
        if other_scores:
            remarks.append(f"{other_scores} × another best epoch")
        lines.append(
            f"| `{name}` | {len(rows)} | {sum(not row['problems'] for row in rows)} | "
            f"{sum(row['identical'] for row in rows)} | {slowest} | {'; '.join(remarks)} |")
    machine = report["machine"]
    lives = ", ".join(f"{seconds:.1f} s with {count} process{'es' * (count != '1')}"
                      for count, seconds in report["life_s"].items())
    return "\n".join([*lines, "", (
        f"{report['created'][:10]}, seed {report['seed']}, {machine['cores']} cores, JAX "
        f"{machine['jax']}, Python {machine['python']}. An undisturbed run lasts {lives}; all "
        f"drills took {format_duration(report['seconds'])}, {report['jobs']} moments at a time.")])


def _counts(words: Any) -> str:
    return ", ".join(f"{count} × {word}" for word, count in collections.Counter(words).items())


_TABLE_BEGIN, _TABLE_END = "<!-- drills -->\n", "<!-- /drills -->\n"


def with_table(text: str, new: str, *, name: str) -> str:
    """The text of a Markdown file with another table between its two marks.

    Raises:
      InputError: the marks are missing.
    """
    before, begin, rest = text.partition(_TABLE_BEGIN)
    _, finish, after = rest.partition(_TABLE_END)
    if not (begin and finish):
        raise InputError(f"{name}: expected the lines {_TABLE_BEGIN.strip()} and "
                         f"{_TABLE_END.strip()}, between which the table goes")
    return f"{before}{begin}{new}\n{finish}{after}"


def _write(path: pathlib.Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# The program


def _enter_mount_namespace() -> str:
    """Starts this program again where it may mount; returns why it may not."""
    if _MOUNTS in os.environ:
        return ""
    reason = ""
    for prefix in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        with tempfile.TemporaryDirectory() as folder:
            try:
                tried = subprocess.run(
                    [*prefix, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder],
                    capture_output=True, text=True, check=False)
            except OSError as error:
                return f"{error}"
        if tried.returncode == 0:
            os.environ[_MOUNTS] = "1"
            os.execvp("unshare", [*prefix, sys.executable, *sys.orig_argv[1:]])
        reason = tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else "unshare failed"
    return reason


def run_all(names: Sequence[str], bench: Bench, expected: Mapping[int, Final],
            life_s: Mapping[int, float], *, failures: pathlib.Path,
            rows: list[dict[str, Any]]) -> None:
    """Tries all moments of some drills, and adds a row for each to `rows`, as they end."""
    cases = [draw(name, index, seed=bench.seed, life_s=life_s[DRILLS[name][1]],
                  folder=bench.folder) for name in names for index in range(_MOMENTS.value)]
    with (progress("failure drills", total=len(cases), unit="moments") as bar,
          concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool):
        waiting = [pool.submit(try_moment, case, bench, expected[DRILLS[case.drill][1]],
                               failures=failures) for case in cases]
        try:
            for done in concurrent.futures.as_completed(waiting):
                row = done.result()
                rows.append(row)
                if row["problems"]:
                    bar.message(f"failed: {row['drill']} {row['index']}, {row['moment_s']:.2f} s, "
                                f"{row['phase']}: {'; '.join(row['problems'])}: {row['kept_in']}")
                bar.advance(note=row["drill"])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            bench.launcher.end_all()
            raise


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options start with --")
    logging.set_verbosity(logging.ERROR)  # orbax tells of each step it takes
    if not _JSON.value:
        raise InputError("--json=FILE is missing")
    names = list(DRILLS) if _DRILLS.value is None else _DRILLS.value
    unknown = [name for name in names if name not in DRILLS]
    if unknown:
        raise InputError(f"--drills: there is no {unknown[0]}; there are {', '.join(DRILLS)}")
    markdown = pathlib.Path(_MARKDOWN.value) if _MARKDOWN.value else None
    text = (markdown.read_text(encoding="utf-8") if markdown and markdown.exists() else
            _TABLE_BEGIN + _TABLE_END)
    with_table(text, "", name=str(markdown))
    output = pathlib.Path(_JSON.value)
    not_possible = {}
    if "full_disk" in names:
        reason = _enter_mount_namespace()
        if reason:
            not_possible["full_disk"] = reason
            names.remove("full_disk")
    jax.config.update("jax_platforms", "cpu")

    began = time.monotonic()
    report: dict[str, Any] = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": _SEED.value, "jobs": _JOBS.value, "not_possible": not_possible, "life_s": {},
        "machine": {"cores": os.cpu_count(), "jax": jax.__version__,
                    "python": platform.python_version()}, "moments": []}
    launcher = Launcher()
    with tempfile.TemporaryDirectory(prefix="failure_drills_") as name:
        try:
            folder = pathlib.Path(name)
            bench = Bench(
                command=(sys.executable, "main.py", *TINY, f"--config.epochs={EPOCHS}",
                         *make_pairs(folder)),
                environment={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "",
                             "GLIBC_TUNABLES": HUGE_PAGES,
                             "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
                             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
                folder=folder, launcher=launcher, seed=_SEED.value, lock=threading.Lock())
            expected, life_s = {}, {}
            for processes in sorted({DRILLS[name][1] for name in names}):
                expected[processes], life_s[processes], size = undisturbed(
                    bench, processes=processes, at_once=_JOBS.value)
                report["life_s"][str(processes)] = life_s[processes]
                # Room for what is written before the old is removed.
                bench = bench._replace(last_step=expected[processes].step,
                                       disk_bytes=3 * size + 2**22)
            run_all(names, bench, expected, life_s, rows=report["moments"],
                    failures=output.absolute().with_name(f"{output.stem}_failures"))
        finally:
            launcher.end_all()
            report["seconds"] = time.monotonic() - began
            report["moments"].sort(key=lambda row: (list(DRILLS).index(row["drill"]),
                                                    row["index"]))
            if report["moments"]:  # also those of drills that are interrupted
                _write(output, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(table(report), flush=True)
    if markdown:
        _write(markdown, with_table(text, table(report), name=str(markdown)))
    failed = sum(bool(row["problems"]) for row in report["moments"])
    if failed:
        raise FailedError(f"{failed} of {len(report['moments'])} moments failed; see {output}")


def run() -> None:
    """`app.run`, with what ends it early said in one line and no traceback."""
    # Unwinds, so that all processes are ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app.run(main)
    except (InputError, FailedError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    run()
