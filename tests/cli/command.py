"""Runs `main.py` as a user does, on pairs small enough for a test."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import write_pairs
from dfgan_jax.devices.huge_pages import HUGE_PAGES
from dfgan_jax.scans import hounsfield

ROOT = pathlib.Path(__file__).parents[2]


def make_pairs(folder: pathlib.Path, *, train=8, valid=3, test=3, size=32, seed=0) -> list[str]:
    """Writes three files of discs with noise, and returns the flags that name them.

    The first flag keeps what is cached out of the user's home.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    options = [f"--config.data.cache_dir={folder / 'cache'}"]
    for split, count in (("train", train), ("valid", valid), ("test", test)):
        radius = rng.uniform(size / 6, size / 2.5, (count, 1, 1))
        ndct = np.where(np.hypot(x, y) < radius, 40.0, -1000.0)
        qdct = ndct + rng.normal(0, 60, ndct.shape)
        path = folder / f"{split}.npy"
        write_pairs(path, Pairs(*(hounsfield.hu_to_mu(hu.astype(np.float32))
                                  for hu in (ndct, qdct))))
        options.append(f"--config.data.{split}={path}")
    return options


SCORES_ONLY = ["--config.evaluation.protocols=published", "--config.evaluation.baselines=",
               "--config.evaluation.physics=False"]

TINY = ["--config=configs/dfgan.py:slides", "--config.data.size=0", "--config.generator.width=2",
        "--config.discriminator.width=2", "--config.batch_size=2", "--config.log_every_steps=1",
        "--config.checkpoint_after_seconds=0", *SCORES_ONLY]


_ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}

HEED_SIGNALS = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""
"""Lines of Python, for the first of a process that a test signals. What started the tests may
ignore signals: nohup ignores SIGHUP, and a shell SIGINT for a job in the background."""

_HEED_SIGNALS_AND_RUN = f"""
{HEED_SIGNALS}
import os, sys
os.execv(sys.executable, [sys.executable, "main.py", *sys.argv[1:]])
"""


def start(*options: str, log: pathlib.Path | None = None) -> subprocess.Popen:
    """Starts a run in the background; what it prints goes into `log`."""
    with (log or pathlib.Path(os.devnull)).open("w") as file:
        return subprocess.Popen([sys.executable, "-c", _HEED_SIGNALS_AND_RUN, *options], cwd=ROOT,
                                env=_ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT)


@functools.cache
def _forks() -> subprocess.Popen:
    """The process that forks for each command: it ends with the tests, as its stdin does."""
    # Where this is set, the command does not start twice.
    environment = {"GLIBC_TUNABLES": HUGE_PAGES, **_ENVIRONMENT,
                   "OPENBLAS_NUM_THREADS": "1"}  # its threads start with NumPy
    return subprocess.Popen([sys.executable, "-m", "tests.cli.fork"], cwd=ROOT, text=True,
                            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run(*options: str) -> subprocess.CompletedProcess:
    """Runs `main.py` in a process of its own, which has imported the package before."""
    forks = _forks()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        forks.stdin.write(json.dumps([options, *map(str, outputs)]) + "\n")
        forks.stdin.flush()
        status = int(forks.stdout.readline())
        return subprocess.CompletedProcess(options, status,
                                           *(output.read_text() for output in outputs))
