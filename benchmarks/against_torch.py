"""The published networks and loop in PyTorch against this project, on the same machine.

    python -m benchmarks.against_torch --json=against_torch.json

Trains AttnDFGAN with the joint discriminator and the published code's loss, and denoises
slices. Each framework has its own process. They take turns, in the reverse order each
round, and the times of the same round are compared. Before the timing, both must compute
the same images and losses. PyTorch runs the networks and the loop of
`tests/parity/published`: `eager`, as published, and with the usual optimisations of
PyTorch.

Ratios are PyTorch's time for an image over ours: above 1, ours is faster.
"""

import datetime
import os
import pathlib
import platform
import signal
import sys
import time

from absl import app, flags

from benchmarks import comparison_plan
from benchmarks.comparison import Results, check_exactly, run_job, say
from benchmarks.comparison_plan import GPU_BUDGET, Machine, plan
from benchmarks.comparison_table import table
from benchmarks.json_file import write_json
from benchmarks.ratios import summary
from benchmarks.worker_processes import RefusedError, WorkerError, Workers, find_torch
from dfgan_jax.support.errors import InputError

_JSON = flags.DEFINE_string("json", None, "File to write.")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", None, "Interpreter that has PyTorch; by default this one, or else that of a "
    "virtual environment of make test.")
_JAX_PYTHON = flags.DEFINE_string("jax_python", sys.executable, "Interpreter that has JAX.")
flags.adopt_module_key_flags(comparison_plan)  # for --help

_QUIET_LOAD = 0.5
"""Processes that want to run, on a machine that is idle but for a few short ones."""


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
        say(f"warning: other processes are running (load average {load:.1f}): on a CPU, ratios "
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
        machine = Machine(is_gpu, began + GPU_BUDGET.value if is_gpu else float("inf"))
        say("checking that both compute the same")
        checks = check_exactly(workers, machine)
        results = Results({}, {})
        jobs = [run_job(job, workers, machine, results) for job in plan(machine)]
    report = {
        **summary(jobs),
        "machine": {**frameworks, "processor": _processor(), "cpu_cores": os.cpu_count(),
                    "load_average_before": load},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - began,
        "flags": {flag.name: flag.value for flag in comparison_plan.FLAGS},
        "differences_in_float32": checks, "jobs": jobs}
    write_json(_JSON.value, report)
    print(table(report), flush=True)


def run() -> None:
    """Runs `app.run`; errors are printed in one line, without a traceback."""
    # `sys.exit` unwinds, so that the workers end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app.run(main)
    except (InputError, WorkerError, RefusedError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    run()
