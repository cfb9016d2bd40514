"""A process that has imported the package, and that forks for each command: for `command.py`.

To import JAX and the rest takes seconds, longer than most of the commands that the tests run.

Usage: python -m tests.cli.fork

Each line that it reads is JSON: the options of `main.py`, and the files that get stdout and stderr.
For each it writes a line, with the exit status.
"""

import json
import os
import pathlib
import runpy
import signal
import sys

# Every mode's file, as `cli/main.py` imports them; none of them starts JAX or a thread.
from dfgan_jax.cli import (  # noqa: F401
    benchmark,
    convert,
    denoise,
    evaluate,
    main,
    pair,
    preflight,
    simulate,
    simulate_scan,
    train,
)

LIMIT_S = 300


def next_command() -> list[str]:
    """Returns in a new process, which has the streams of the command whose options it returns."""
    for line in sys.stdin:
        options, stdout, stderr = json.loads(line)
        has_threads = len(os.listdir("/proc/self/task")) > 1
        process = os.fork()
        if not process:
            for number, (file, mode) in enumerate([
                    (os.devnull, "r"), (stdout, "w"), (stderr, "w")]):
                with pathlib.Path(file).open(mode) as opened:
                    os.dup2(opened.fileno(), number)
            signal.alarm(LIMIT_S)  # ends a command that hangs
            if has_threads:  # which a fork loses
                os.execv(sys.executable, [sys.executable, "main.py", *options])
            return options
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


if __name__ == "__main__":
    sys.argv[:] = ["main.py", *next_command()]
    # The fork ends as a process of its own does: it handles its exceptions and exits.
    runpy.run_path("main.py", run_name="__main__")
