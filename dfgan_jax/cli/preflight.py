"""`--mode=preflight`: compiles a run's steps for absent devices, and checks if they fit."""

import contextlib
import json
import pathlib
import signal
from collections.abc import Iterator

import ml_collections

from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.performance.preflight import SEARCH_LIMIT_S, report_for_gpus, reports_for_tpu
from dfgan_jax.performance.preflight_text import text
from dfgan_jax.performance.programs import Planned
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.jax_functions import configure


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path, topology: str | None,
        platform: str = "tpu", search_limit_s: float = SEARCH_LIMIT_S) -> None:
    """Compiles the steps, prints their memory and writes `preflight.json` into `workdir`.

    Args:
      config: of the run.
      workdir: folder to write into.
      topology: of TPU chips, such as `v5e:16x16`; or the number of GPUs, 1 by default.
      platform: `tpu`; or `cuda`, for which steps are lowered and not compiled.
      search_limit_s: the search for the largest batch starts no program that is expected to end
        later. The report on the configured batch comes before the search.

    Raises:
      InputError: the configuration cannot be used, or there is no such topology.
      SystemExit: with status 1, the steps do not fit.
    """
    options = RunOptions.of(config)
    if options.data.train and not options.data.size:
        raise InputError("config.data.size is 0: expected the height and width of the slices, "
                         "since preflight reads no data")
    if platform == "tpu" and not topology:
        raise InputError("--mode=preflight needs --topology=KIND:SHAPE, such as v5e:16x16")
    # The target devices are absent, and those of this machine stay free.
    configure("jax_platforms", "cpu")
    planned = planned_of(options)
    path = workdir / "preflight.json"
    with _interruptible():
        for report in (reports_for_tpu(planned, str(topology), search_limit_s=search_limit_s)
                       if platform == "tpu" else [report_for_gpus(planned, topology or "1")]):
            workdir.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
            print(text(report))
            print(f"Report: {path}", flush=True)
    if report["fits"] is False:
        raise SystemExit(1)


def planned_of(options: RunOptions) -> Planned:
    """The part of a run that is compiled."""
    return Planned(config=options.name, model=model_name(options.as_json()),
                   training=options.training(total_steps=1),  # a number in the program
                   batch_size=options.batch_size, size=options.sources.simulated_train_size,
                   slice_size=options.sources.simulated_size,
                   parallel=options.parallel, dtype=options.dtype)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once; Python would wait minutes for the compiler."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:  # a signal that a shell ignores stays ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
