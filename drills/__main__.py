"""Failure drills: runs that are killed, stopped, starved of disk, damaged and doubled.

    python -m drills --json=failure_drills.json --markdown=docs/failure_drills.md

Each drill disturbs a tiny training at random moments, from the start of the process to its
end, starts the same command again, and compares the results with an undisturbed run: the
state saved at the last step, bit for bit, and `metrics.jsonl`, each row once.

* `sigkill`: the process is killed.
* `sigkill_one_of_two`: one of two processes is killed; the other must end by itself.
* `sigterm`: the process must save, and end with status 85, within the grace period.
* `sigterm_one_of_two`: both processes must do so.
* `full_disk`: the workdir's disk is filled; the process must end with one line.
* `damaged_checkpoint`: in the latest checkpoint of a killed run, one bit is flipped or a file is
  cut.
* `two_runs`: the command is started a second time; one of the two must be refused.

The drills run processes of `main.py` on CPUs. Full disks are file systems in memory, in a
mount namespace that ends with the drills.
"""

import concurrent.futures
import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from dfgan_jax.devices.huge_pages import HUGE_PAGES
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.progress import progress
from drills.disturbances import DRILLS
from drills.moments import draw, try_moment, undisturbed
from drills.runs import Bench, FailedError, Launcher
from drills.table import TABLE_BEGIN, TABLE_END, table, with_table
from drills.workdir import Final
from tests.cli.command import TINY, make_pairs

_JSON = flags.DEFINE_string(
    "json", None, "File to write; the folders of failed moments are kept beside it.")
_MARKDOWN = flags.DEFINE_string(
    "markdown", None, "File to write the table into; in an existing file, between the lines "
    "<!-- drills --> and <!-- /drills -->.")
_MOMENTS = flags.DEFINE_integer("moments", 50, "Moments of each drill.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of moments and damages.", lower_bound=0)
_JOBS = flags.DEFINE_integer("jobs", 2, "Moments tried at the same time.", lower_bound=1)
_DRILLS = flags.DEFINE_list("drills", None, "Drills to run, separated by commas; all by default.")

EPOCHS = 12

_MOUNTS = "DFGAN_FAILURE_DRILLS_MOUNTS"
"""Environment variable of the process that may mount."""


def _enter_mount_namespace() -> str:
    """Restarts this program with the right to mount; returns the reason if that fails."""
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
    """Tries all moments of some drills, and adds the row of each to `rows` at its end."""
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


def _write(path: pathlib.Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options start with --")
    logging.set_verbosity(logging.ERROR)  # orbax logs its every step
    if not _JSON.value:
        raise InputError("--json=FILE is missing")
    names = list(DRILLS) if _DRILLS.value is None else _DRILLS.value
    unknown = [name for name in names if name not in DRILLS]
    if unknown:
        raise InputError(f"--drills: there is no {unknown[0]}; there are {', '.join(DRILLS)}")
    markdown = pathlib.Path(_MARKDOWN.value) if _MARKDOWN.value else None
    text = (markdown.read_text(encoding="utf-8") if markdown and markdown.exists() else
            TABLE_BEGIN + TABLE_END)
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
                # Room for new files before the old ones are removed.
                bench = bench._replace(last_step=expected[processes].step,
                                       disk_bytes=3 * size + 2**22)
            run_all(names, bench, expected, life_s, rows=report["moments"],
                    failures=output.absolute().with_name(f"{output.stem}_failures"))
        finally:
            launcher.end_all()
            report["seconds"] = time.monotonic() - began
            report["moments"].sort(key=lambda row: (list(DRILLS).index(row["drill"]),
                                                    row["index"]))
            if report["moments"]:  # also of interrupted drills
                _write(output, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(table(report), flush=True)
    if markdown:
        _write(markdown, with_table(text, table(report), name=str(markdown)))
    failed = sum(bool(row["problems"]) for row in report["moments"])
    if failed:
        raise FailedError(f"{failed} of {len(report['moments'])} moments failed; see {output}")


def run() -> None:
    """Runs `app.run`; errors are printed in one line, without a traceback."""
    # `sys.exit` unwinds, so that all processes end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app.run(main)
    except (InputError, FailedError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    run()
