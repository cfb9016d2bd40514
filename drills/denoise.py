"""Failure drills of `--mode=denoise`: a folder whose denoising is killed or interrupted.

    python -m drills.denoise [--moments=20] [--workers=2] [--seed=0] [--json=denoise_drills.json]

A folder of DICOM slices is denoised with the pretrained weights; the process is disturbed at a
random moment between its start and its end, or when it has written a random number of slices, by
turns. The same command is given again. Then the folder must have the files of an undisturbed run:
all elements and pixels, but for the time of creation.

* `sigkill`: the process is killed; its workers must end by themselves.
* `sigkill_worker`: one of the workers is killed; the process must end with status 75.
* `sigint`: Ctrl-C, which the terminal sends to all processes; the process must end with status
  130, and its workers without a word.
"""

import collections
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pydicom
from absl import app, flags

from benchmarks.json_file import write_json
from benchmarks.series_throughput import stored_slices, write_series
from dfgan_jax.support.errors import ProcessError
from drills.runs import FailedError

_MOMENTS = flags.DEFINE_integer("moments", 20, "Moments of each drill.", lower_bound=1,
                                allow_override=True)
_WORKERS = flags.DEFINE_integer("workers", 2, "Workers of each run.", lower_bound=1,
                                allow_override=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.", allow_override=True)
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)

ROOT = pathlib.Path(__file__).parents[1]
SLICES, SIZE = 96, 128
TIMEOUT_S = 600
_GRACE_S = 30.0


def start(source: pathlib.Path, output: pathlib.Path) -> subprocess.Popen[str]:
    """Starts a run in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "main.py", "--mode=denoise", f"--input={source}", f"--output={output}",
         f"--workers={_WORKERS.value}"], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"})


def finish(run: subprocess.Popen[str], *, expected: tuple[int, ...]) -> str:
    """Waits for a run; its output."""
    output, _ = run.communicate(timeout=TIMEOUT_S)
    if run.returncode not in expected:
        raise FailedError(f"status {run.returncode}, expected {expected}: {output[-500:]}")
    if "Traceback" in output:
        raise FailedError(f"a traceback: {output[-500:]}")
    return output


def content(folder: pathlib.Path) -> dict[str, str]:
    """File → digest of all its elements, but for the time of creation."""
    digests = {}
    for path in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        del dataset.InstanceCreationDate, dataset.InstanceCreationTime
        digests[str(path.relative_to(folder))] = hashlib.sha256(
            f"{dataset.file_meta}{dataset}".encode() + dataset.PixelData).hexdigest()
    return digests


def session(leader: int) -> dict[int, int]:
    """The processes of a session that live, and their parents."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found[int(folder.name)] = int(fields[1])
    return found


def wait_for_the_end_of(leader: int) -> None:
    """Waits until no process of a session lives."""
    deadline = time.monotonic() + _GRACE_S
    while left := session(leader):
        if time.monotonic() > deadline:
            raise FailedError(f"still there after {_GRACE_S:.0f} s: {left}")
        time.sleep(0.05)


def wait_for_a_moment(run: subprocess.Popen[str], incomplete: pathlib.Path, *, moment: int,
                      rng: random.Random, seconds: float) -> None:
    """Waits for a random time, or for a random number of slices."""
    if moment % 2 == 0:
        time.sleep(rng.uniform(0, seconds))
        return
    count = rng.randrange(1, SLICES)
    while run.poll() is None and len(list(incomplete.glob("*.dcm"))) < count:
        time.sleep(0.002)


def sigkill(run: subprocess.Popen[str]) -> str:
    os.kill(run.pid, signal.SIGKILL)
    finish(run, expected=(-signal.SIGKILL, 0))
    wait_for_the_end_of(run.pid)
    return "killed" if run.returncode else "had ended"


def sigkill_worker(run: subprocess.Popen[str]) -> str:
    # The run's children are the server of processes, whose children the workers are, and the
    # tracker of shared memory.
    processes = session(run.pid)
    workers = [pid for pid, parent in processes.items() if processes.get(parent) == run.pid]
    for pid in workers[:1]:
        os.kill(pid, signal.SIGKILL)
    finish(run, expected=(ProcessError.STATUS, 0))
    wait_for_the_end_of(run.pid)
    return "killed" if run.returncode else "no worker lived" if not workers else "had ended"


def sigint(run: subprocess.Popen[str]) -> str:
    os.killpg(run.pid, signal.SIGINT)
    # Python itself reports an interrupt during its own start.
    output, _ = run.communicate(timeout=TIMEOUT_S)
    if run.returncode not in (130, -signal.SIGINT, 0):
        raise FailedError(f"status {run.returncode}: {output[-500:]}")
    if "multiprocessing" in output or "concurrent" in output:
        raise FailedError(f"a worker's traceback: {output[-500:]}")
    wait_for_the_end_of(run.pid)
    return "interrupted" if run.returncode else "had ended"


DRILLS: dict[str, Callable[[subprocess.Popen[str]], str]] = {
    "sigkill": sigkill, "sigkill_worker": sigkill_worker, "sigint": sigint}


def main(argv: list[str]) -> None:
    del argv
    rng = random.Random(_SEED.value)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_series(folder / "in", stored_slices(SLICES, size=SIZE))
        finish(start(folder / "in", folder / "warm"), expected=(0,))  # compiles
        begin = time.monotonic()
        finish(start(folder / "in", folder / "whole"), expected=(0,))
        seconds = time.monotonic() - begin
        expected = content(folder / "whole")
        assert len(expected) == SLICES
        for name, disturb in DRILLS.items():
            outcomes: collections.Counter[str] = collections.Counter()
            resumed = 0
            for moment in range(_MOMENTS.value):
                output = folder / f"{name}_{moment}"
                run = start(folder / "in", output)
                incomplete = output.with_name(f"{output.name}.incomplete")
                wait_for_a_moment(run, incomplete, moment=moment, rng=rng, seconds=seconds)
                outcome = disturb(run)
                resumed += any(incomplete.glob("*.dcm"))
                if not output.exists():
                    finish(start(folder / "in", output), expected=(0,))
                if content(output) != expected:
                    raise FailedError(f"{name} {moment}: other files than undisturbed")
                outcomes[outcome] += 1
                print(f"{name} {moment + 1}/{_MOMENTS.value}: {outcome}", file=sys.stderr,
                      flush=True)
            rows[name] = {**outcomes, "resumed with slices there": resumed}
    print(f"{SLICES} slices of {SIZE}², {_WORKERS.value} workers, undisturbed {seconds:.1f} s; "
          "all files as of an undisturbed run")
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in row.items()))
    write_json(_JSON.value, {"seconds": seconds, "drills": rows})


if __name__ == "__main__":
    app.run(main)
