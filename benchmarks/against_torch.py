"""The published networks and loop in PyTorch against this project, on the same machine.

    python -m benchmarks.against_torch --json=against_torch.json

Trains AttnDFGAN with the joint discriminator and the published code's loss, and denoises
slices. Each framework has a process of its own, and they take turns, in the order
reversed each round; what is compared are times of the same round. Before anything is
timed, both have to give the same images and losses. PyTorch runs the networks and the
loop of `tests/parity/published`: `eager`, as published, and in forms as fast as PyTorch's
users make them.

Ratios are PyTorch's time for an image over ours: above 1, ours is faster.
"""

import contextlib
import dataclasses
import datetime
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import Any, NamedTuple, NoReturn

import numpy as np
from absl import app, flags

from benchmarks.workload import Arrays, Side, Task
from dfgan_jax.devices.huge_pages import HUGE_PAGES
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole

_ROOT = pathlib.Path(__file__).absolute().parent.parent

_JSON = flags.DEFINE_string("json", None, "File to write.")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", None, "Interpreter that has PyTorch; by default this one, or else that of a "
    "virtual environment of make test.")
_JAX_PYTHON = flags.DEFINE_string("jax_python", sys.executable, "Interpreter that has JAX.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "Turns of each side; 7, on a GPU 3.", lower_bound=1)
_SECONDS = flags.DEFINE_float(
    "seconds", None, "Length of a measurement [s], longer where three steps are; 1, on a GPU 0.3.",
    lower_bound=0)
_TRAINING_SIZE = flags.DEFINE_integer(
    "training_size", None, "Height and width in training [pixels]; 128, on a GPU 256.")
_TRAINING_BATCHES = flags.DEFINE_list(
    "training_batches", None, "Batch sizes in training; train_ratio is of the first. 4, on a GPU "
    "16,64.")
_INFERENCE_SIZE = flags.DEFINE_integer(
    "inference_size", 512, "Height and width in inference [pixels].")
_INFERENCE_BATCHES = flags.DEFINE_list(
    "inference_batches", None, "Batch sizes in inference; inference_ratio is of each framework's "
    "best. 1,4, on a GPU 16,64.")
_WIDTH = flags.DEFINE_integer("width", 32, "Channels of the generator's first stage.")
_DISCRIMINATOR_WIDTH = flags.DEFINE_integer(
    "discriminator_width", 128, "Channels of the discriminator's first layer.")
_COMPILE_BUDGET = flags.DEFINE_float(
    "compile_budget", 120.0, "Longest time for torch.compile of one side [s]; 0: leave them out.")
_GPU_BUDGET = flags.DEFINE_float(
    "gpu_budget", 150.0, "On a GPU, nothing new is begun after this time [s].")

for _name in ("training_size", "inference_size"):
    flags.register_validator(_name, lambda size: size is None or (size >= 32 and size % 16 == 0),
                             "expected a multiple of 16, at least 32")
for _name in ("training_batches", "inference_batches"):
    flags.register_validator(
        _name, lambda sizes: sizes is None or all(each.isdecimal() and int(each) for each in sizes),
        "expected sizes separated by commas, such as 16,64")

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
_QUIET_LOAD = 0.5
"""Processes that want to run, on a machine that is idle but for a few short ones."""


class WorkerError(RuntimeError):
    """A process ended, or a side that no comparison can do without failed."""


class RefusedError(RuntimeError):
    """A worker could not do what it was asked to."""


class Machine(NamedTuple):
    """The kind of machine decides what is run.

    Attributes:
      is_gpu: both frameworks run on a GPU.
      deadline: nothing new begins after it (`time.monotonic`).
    """

    is_gpu: bool
    deadline: float

    @property
    def rounds(self) -> int:
        return _ROUNDS.value or (3 if self.is_gpu else 7)

    @property
    def seconds(self) -> float:
        """Length of a measurement."""
        return (0.3 if self.is_gpu else 1.0) if _SECONDS.value is None else _SECONDS.value

    def left(self) -> float:
        """Seconds until nothing new begins."""
        return self.deadline - time.monotonic()


class Job(NamedTuple):
    """Sides of one task that take turns."""

    task: Task
    sides: tuple[Side, ...]


class Ratio(NamedTuple):
    """PyTorch's time over ours.

    Attributes:
      median: over the rounds.
      min: of the rounds.
      max: of the rounds.
      of_least: each side's least time, over all rounds; far from the median where other
        processes were running.
    """

    median: float
    min: float
    max: float
    of_least: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.min:.2f} to {self.max:.2f})"


def ratio(torch_s: Sequence[float], ours_s: Sequence[float]) -> Ratio:
    """Compares times for an image, round by round."""
    each = [theirs / ours for theirs, ours in zip(torch_s, ours_s, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each), min(torch_s) / min(ours_s))


def fastest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row with the most images a second."""
    return max(rows, key=lambda row: row["images_per_s"])


# Interpreters and processes


def find_torch(given: str | None, *, folder: pathlib.Path = _ROOT) -> str:
    """The interpreter that has PyTorch.

    Args:
      given: by the user.
      folder: that holds the virtual environments of `make`.

    Raises:
      InputError: there is none.
    """
    if given is not None:
        return given
    if importlib.util.find_spec("torch") is not None:
        return sys.executable
    for python in sorted(folder.glob(".venv-*/bin/python")):
        test = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
        if subprocess.run([python, "-c", test], check=False, capture_output=True).returncode == 0:
            return str(python)
    raise InputError("no interpreter with PyTorch found: make against-torch installs one, or pip "
                     "install -r requirements-parity.txt, or name one: --torch_python=PATH")


class WorkerProcess:
    """A framework in a process of its own; see `benchmarks.worker`.

    Raises:
      InputError: the interpreter cannot be started.
    """

    def __init__(self, framework: str, python: str):
        self._name = f"the {framework} process ({python})"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._connection, end = Pipe()
        # Relative to where the user is; a link stays, since it tells the virtual environment.
        path = os.path.abspath(python) if os.sep in python else python
        try:
            self._process = subprocess.Popen(
                [path, "-m", "benchmarks.worker", framework, str(end.fileno())],
                pass_fds=[end.fileno()], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=self._log,
                stderr=subprocess.STDOUT,
                # A group of its own, to be ended together with the compilers that it starts.
                start_new_session=True,
                env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | (
                    # As main.py does for itself; PyTorch runs as its users start it.
                    {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", HUGE_PAGES)}
                    if framework == "jax" else {}))
        except OSError as error:
            raise InputError(f"{python}: cannot be started ({error.strerror})") from error
        finally:
            end.close()

    def ask(self, *request: Any, timeout_s: float | None = None) -> Any:
        """Sends a request, and waits for the answer.

        Raises:
          RefusedError: with the reason.
          WorkerError: the process ended.
          TimeoutError: there was no answer in time; the process is of no use any more.
        """
        self.send(*request)
        return self.receive(timeout_s=timeout_s)

    def send(self, *request: Any) -> None:
        try:
            self._connection.send(request)
        except OSError:
            self._tell_end()

    def receive(self, *, timeout_s: float | None = None) -> Any:
        try:
            if not self._connection.poll(timeout_s):
                raise TimeoutError
            done, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._tell_end()
        if not done:
            raise RefusedError(answer)
        return answer

    def _tell_end(self) -> NoReturn:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or ["no output"]
        raise WorkerError(f"{self._name} ended with status {status}: {lines[-1]}")

    def close(self) -> None:
        """Ends the process and those that it started."""
        self._connection.close()
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


class Workers:
    """Both processes; each is started when it is needed. A context manager."""

    def __init__(self, pythons: dict[str, str]):
        self._pythons = pythons
        self._running: dict[str, WorkerProcess] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for framework in list(self._running):
            self.end(framework)

    def __getitem__(self, framework: str) -> WorkerProcess:
        if framework not in self._running:
            self._running[framework] = WorkerProcess(framework, self._pythons[framework])
        return self._running[framework]

    def end(self, framework: str) -> None:
        self._running.pop(framework).close()


# What is compared


def plan(machine: Machine) -> list[Job]:
    """All jobs, those first that no result can do without."""
    modes = (["default", "max-autotune-no-cudagraphs", "reduce-overhead"] if machine.is_gpu
             else ["default"])
    narrowest = "bfloat16" if machine.is_gpu else "float32"
    tasks: list[Task] = ["training", "inference"]
    if machine.is_gpu:
        tasks.append("inference on the device")
    ours = [("jax", "ours", dtype) for dtype in dict.fromkeys(["float32", narrowest])]
    uncompiled = [("torch", "eager", "float32"), ("torch", "channels_last", narrowest)]
    forms = [[*uncompiled, *ours]]
    if _COMPILE_BUDGET.value:
        forms += [[("torch", mode, narrowest), ("jax", "ours", narrowest)] for mode in modes]
    ranked = sorted(itertools.product(range(len(forms)), tasks),
                    key=lambda each: (each[0] > 1, each[1] == "inference on the device", each[0]))
    return [Job(task, tuple(_side(task, *form, batch=batch, machine=machine)
                            for batch in _batches(task, machine) for form in forms[index]))
            for index, task in ranked]


def _batches(task: Task, machine: Machine) -> list[int]:
    given, default = ((_TRAINING_BATCHES.value, [16, 64] if machine.is_gpu else [4])
                      if task == "training" else
                      (_INFERENCE_BATCHES.value, [16, 64] if machine.is_gpu else [1, 4]))
    return [int(batch) for batch in given] if given else default


def _side(task: Task, framework: Any, variant: str, dtype: Any, *, batch: int, machine: Machine
          ) -> Side:
    training_size = _TRAINING_SIZE.value or (256 if machine.is_gpu else 128)
    return Side(framework=framework, task=task, variant=variant, dtype=dtype, batch=batch,
                size=training_size if task == "training" else _INFERENCE_SIZE.value,
                width=_WIDTH.value, discriminator_width=_DISCRIMINATOR_WIDTH.value)


def check_same(actual: Arrays, expected: Arrays, *, exact: bool, what: str) -> dict[str, float]:
    """Compares what two sides give for the same input.

    Args:
      actual: losses by their names, or `denoised` images.
      expected: likewise.
      exact: both are in float32; else one is narrower.
      what: is compared, for the message.

    Returns:
      Name → difference: of losses relative, of images over the standard deviation, the
      largest if `exact`, else the root mean square.

    Raises:
      WorkerError: they are not the same.
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
      WorkerError: they do not compute the same.
    """
    checks: dict[str, dict[str, float]] = {}
    tasks: tuple[Task, ...] = ("inference", "training")
    for task in tasks:
        results = []
        sides = [dataclasses.replace(_side(task, framework, variant, "float32", batch=_CHECK_BATCH,
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


# Measuring


class Results(NamedTuple):
    """What the jobs so far leave to the next ones.

    Attributes:
      expected: task and batch → what the first side gave.
      prepared: side of ours that its process keeps → its status.
    """

    expected: dict[tuple[Task, int], Arrays]
    prepared: dict[Side, dict[str, Any]]


def run_job(job: Job, workers: Workers, machine: Machine, results: Results) -> dict[str, Any]:
    """Prepares the sides of a job, and measures them in turns.

    Returns:
      Of each side a row, and of each pair of sides with the same batch the ratio.

    Raises:
      WorkerError: a process ended, two sides do not compute the same, or one that no
        comparison can do without failed.
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
    """The status of a side that failed, if it may."""
    if side.essential:
        raise WorkerError(f"{side.name}, {side.task}, batch {side.batch}: {error}") from error
    return f"failed: {error}"


def _prepare(side: Side, ready: Sequence[Side], workers: Workers, machine: Machine,
             results: Results) -> dict[str, Any]:
    """Builds a side, and compares its first result with that of the first side."""
    left = machine.left()
    if left <= 0:
        return {"status": f"skipped: --gpu_budget={_GPU_BUDGET.value:g} was spent"}
    _say(f"preparing {side.name}, {side.task}, batch {side.batch}")
    limit = min(_COMPILE_BUDGET.value, left) if side.compiled else None
    try:
        prepare_s, result = workers[side.framework].ask(
            "prepare", side, machine.seconds, timeout_s=limit)
    except RefusedError as error:
        return {"status": _failed(side, error)}
    except TimeoutError:
        # Nothing can stop a compiler but the end of its process, and of what it has prepared.
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
    """Measures sides, one after the other, in the order reversed each round.

    Returns:
      Side → seconds a step of each round, the median of its repetitions; and of the
      sides that failed instead, the reason.
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
            _say(f"{next(iter(rounds)).task}: round {number + 1} of {machine.rounds}: " + ", ".join(
                f"{side.name}, batch {side.batch}: {1e3 * each[-1]:.4g} ms"
                for side, each in rounds.items()))
    return rounds, failed


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """PyTorch's time for an image over ours, of rows of one job.

    Returns:
      One for each pair of the same batch size; and, where there are several sizes, one for
      each pair of variants, each at its best, named `best`.
    """
    measured = [row for row in rows if "rounds_ms" in row]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in measured:
        groups.setdefault((row["framework"], row["name"]), []).append(row)
    theirs, ours = ([group for (framework, _), group in groups.items() if framework == wanted]
                    for wanted in ("torch", "jax"))
    result = []
    for their_rows, our_rows in itertools.product(theirs, ours):
        pairs = [(a, b, str(a["batch"])) for a in their_rows for b in our_rows
                 if a["batch"] == b["batch"]]
        if len({row["batch"] for row in measured}) > 1:
            pairs.append((fastest(their_rows), fastest(our_rows), "best"))
        for a, b, batch in pairs:
            compared = ratio(*([ms / row["batch"] for ms in row["rounds_ms"]] for row in (a, b)))
            result.append({"torch": a["name"], "ours": b["name"], "batch": batch,
                           "torch_batch": a["batch"], "ours_batch": b["batch"],
                           "torch_dtype": a["dtype"], "ours_dtype": b["dtype"],
                           "as_published": a["variant"] == "eager", **compared._asdict()})
    return result


def summary(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ratios that stand for all: against eager, and against PyTorch's fastest form.

    In training they are of the first batch size, in inference of each side's best.

    Raises:
      WorkerError: eager PyTorch has not been compared with ours.
    """
    result: dict[str, Any] = {}
    for task, name in (("training", "train"), ("inference", "inference")):
        found = []
        for job in (job for job in jobs if job["task"] == task):
            batch = str(job["sides"][0]["batch"])
            best = task == "inference" and any(r["batch"] == "best" for r in job["ratios"])
            speeds = {(row["name"], row["batch"]): row.get("images_per_s")
                      for row in job["sides"]}
            found += [(each, speeds[each["torch"], each["torch_batch"]]) for each in job["ratios"]
                      if each["batch"] == ("best" if best else batch)]
        eager = [each for each, _ in found
                 if each["as_published"] and each["ours_dtype"] == "float32"]
        if not eager:
            raise WorkerError(f"{task}: eager PyTorch has not been compared with ours: "
                              "--gpu_budget is too small")
        rival, _ = max(((each, speed) for each, speed in found
                        if each["ours_dtype"] == each["torch_dtype"]), key=lambda pair: pair[1])
        result |= {f"{name}_ratio": eager[0]["median"], f"{name}_ratio_of": eager[0],
                   f"{name}_ratio_fastest": rival["median"], f"{name}_ratio_fastest_of": rival}
    return result


# Telling


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(report: dict[str, Any]) -> str:
    """The content of the JSON file as lines of text."""
    machine = report["machine"]
    lines = [f"\n{machine['torch']['framework']} (Python {machine['torch']['python']}) against "
             f"{machine['jax']['framework']} (Python {machine['jax']['python']}) on "
             f"{machine['torch']['device']}, {machine['processor']}, {machine['cpu_cores']} cores",
             "AttnDFGAN, joint discriminator. Ratio: PyTorch's time over ours, for an image; above "
             "1, ours is faster."]
    for job in report["jobs"]:
        lines += [f"\n{job['task']} at {job['size']}²",
                  f"  {'':58}  batch  images/s  ms (least to most of the rounds)"]
        for row in job["sides"]:
            start = f"  {row['name']:58}  {row['batch']:5}  "
            if "median_ms" in row:
                lines.append(f"{start}{row['images_per_s']:8.2f}  {row['median_ms']:.4g} "
                             f"({row['min_ms']:.4g} to {row['max_ms']:.4g})")
            else:
                lines.append(start + ("not compared" if row["status"] == MEASURED
                                      else row["status"]))
        lines += [f"  {each['torch'] + ' over ' + each['ours']:58}  {each['batch']:>5}  "
                  f"{_ratio_words(each)}" for each in job["ratios"]
                  if each["as_published"] or each["torch_dtype"] == each["ours_dtype"]]
    for name in ("train", "inference"):
        for suffix, words in (("", "as published"), ("_fastest", "at its fastest")):
            each = report[f"{name}_ratio{suffix}_of"]
            lines.append(f"{'' if suffix or name == 'inference' else chr(10)}"
                         f"{name + '_ratio' + suffix:24} {_ratio_words(each)}  PyTorch {words}: "
                         f"{each['torch']}, batch {each['torch_batch']}, over {each['ours']}, "
                         f"batch {each['ours_batch']}")
    return "\n".join(lines)


def _ratio_words(each: dict[str, Any]) -> Ratio:
    return Ratio(*(each[name] for name in Ratio._fields))


def _processor() -> str:
    """This machine's processor in words."""
    file = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in
             (file.read_text() if file.exists() else "").splitlines()
             if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options start with --")
    if not _JSON.value:
        raise InputError("--json=FILE is missing")
    output = pathlib.Path(_JSON.value)
    if output.is_dir():
        raise InputError(f"--json={output}: is a folder; expected a file")
    began = time.monotonic()
    load = os.getloadavg()[0]
    if load > _QUIET_LOAD:
        _say(f"warning: other processes are running (load average {load:.1f}): on a CPU, ratios "
             "mean something on an idle machine only")
    pythons = {"torch": find_torch(_TORCH_PYTHON.value), "jax": _JAX_PYTHON.value}
    with Workers(pythons) as workers:
        for framework in pythons:
            workers[framework].send("describe")
        frameworks = {framework: workers[framework].receive() for framework in pythons}
        if frameworks["torch"]["is_gpu"] != frameworks["jax"]["is_gpu"]:
            raise InputError("only one of the two frameworks sees a GPU: " + ", ".join(
                f"{each['framework']} runs on {each['device']}" for each in frameworks.values()))
        is_gpu = frameworks["torch"]["is_gpu"]
        machine = Machine(is_gpu, began + _GPU_BUDGET.value if is_gpu else float("inf"))
        _say("checking that both compute the same")
        checks = check_exactly(workers, machine)
        results = Results({}, {})
        jobs = [run_job(job, workers, machine, results) for job in plan(machine)]
    report = {
        **summary(jobs),
        "machine": {**frameworks, "processor": _processor(), "cpu_cores": os.cpu_count(),
                    "load_average_before": load},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - began,
        "flags": {flag.name: flag.value for flag in (
            _ROUNDS, _SECONDS, _TRAINING_SIZE, _TRAINING_BATCHES, _INFERENCE_SIZE,
            _INFERENCE_BATCHES, _WIDTH, _DISCRIMINATOR_WIDTH, _COMPILE_BUDGET, _GPU_BUDGET)},
        "differences_in_float32": checks, "jobs": jobs}
    with written_whole(output) as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n",
                             encoding="utf-8")
    print(table(report), flush=True)


def run() -> None:
    """`app.run`, with what ends it early said in one line and no traceback."""
    # Unwinds, so that the workers are ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app.run(main)
    except (InputError, WorkerError, RefusedError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    run()
