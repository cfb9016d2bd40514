"""Runs the mode of the command line, and reports errors of the user's input in one line."""

import functools
import importlib
import json
import os
import pathlib
import signal
import sys
from typing import TYPE_CHECKING

from absl import app, flags, logging

from dfgan_jax.cli import command_line
from dfgan_jax.cli.help_text import DFGAN_JAX, Command
from dfgan_jax.cli.patterns import paths_of
from dfgan_jax.denoising.strength import strength_for_dose
from dfgan_jax.devices import tpu_chips
from dfgan_jax.devices.huge_pages import use_huge_pages
from dfgan_jax.support.errors import DivergenceError, InputError, ProcessError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def dfgan_jax() -> None:
    """The command of an installation."""
    use_huge_pages()
    run(DFGAN_JAX)


def run(command: Command) -> None:
    """Runs `app.run`; errors of the user's input are printed in one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # Characters outside the terminal's encoding are escaped, and do not end the program.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.unraisablehook = _tell_unraisable
    command_line.define(flags.FLAGS, command=command)
    try:
        # app.run passes the parser's result, the mode, to the first argument.
        app.run(functools.partial(_start, command=command),
                flags_parser=functools.partial(command_line.parse, command=command))
    except ProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.STATUS)
    except BrokenPipeError:  # the reader of stdout, such as `head`, has ended
        # Python flushes stdout once more at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (InputError, DivergenceError, OSError) as error:  # OSError: a full disk, a wrong folder
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _tell_unraisable(unraisable: "UnraisableHookArgs") -> None:
    """Hides the messages of threads after a failed save, one for each array."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _start(mode: str, *, command: Command) -> None:
    """Runs a mode with the parsed flags."""
    if not flags.FLAGS["verbosity"].present:
        # orbax logs its every step, and pages on a full disk besides its exception.
        logging.set_verbosity(logging.FATAL)
    given = flags.FLAGS
    if given.print_config:
        print(json.dumps(json.loads(given.config.to_json()), indent=2), flush=True)
        return
    file = "simulate_scan" if mode == "simulate" and given.input else mode
    # Imported after the checks of the flags, since importing JAX takes a second.
    if mode != "preflight":
        tpu_chips.hide_libtpu_without()
    # Other modes do not compile, or measure the time to compile.
    if file not in ("pair", "simulate_scan", "preflight"):
        backend = importlib.import_module("dfgan_jax.devices.backend")
        backend.keep_compiled()
        if mode not in ("train", "evaluate", "denoise"):
            backend.check_platforms()
    run = importlib.import_module(f"dfgan_jax.cli.{file}").run
    if mode in ("train", "evaluate", "denoise"):
        processes = importlib.import_module("dfgan_jax.devices.processes")
        launchers = importlib.import_module("dfgan_jax.devices.launchers")
        with processes.joined(launchers.Place(
                coordinator=given.coordinator, num_processes=given.num_processes,
                process_id=given.process_id), timeout_s=given.join_timeout):
            backend.check_platforms()  # not before the processes have joined
            if mode == "train":
                run(given.config, workdir=_workdir())
            elif mode == "evaluate":
                run(given.config, workdir=_workdir("_evaluation"),
                    checkpoint_paths=given.checkpoint,
                    strength=(_strength() if given["strength"].present
                              or given["dose_fraction"].present else None),
                    self_ensemble=given.self_ensemble)
            else:
                only = functools.partial(_only, command=command, mode=mode)
                run(checkpoint_path=(only("checkpoint", given.checkpoint)
                                     if given.checkpoint else None),
                    source=pathlib.Path(only("input", given.input)),
                    output=pathlib.Path(given.output), strength=_strength(),
                    self_ensemble=given.self_ensemble,
                    report=None if given.report is None else pathlib.Path(given.report),
                    unit=given.input_unit, axes=given.axes, workers=given.workers)
    elif mode == "convert":
        run(inputs=_paths(given.input), output=pathlib.Path(given.output),
            container=given.container, storage=given.storage, verify=given.verify)
    elif file == "simulate_scan":
        run(paths_of("input", given.input), output=pathlib.Path(given.output),
            dose_fraction=_of_simulation("dose_fraction"), kernel=given.kernel,
            refilter=given.refilter, photons_per_ray=given.full_dose_photons_per_ray,
            pixel_spacing_mm=given.pixel_spacing, seed=_of_simulation("noise_seed", field="seed"),
            split=given.split, patients=given.patients, unit=given.input_unit, axes=given.axes)
    elif mode == "simulate":
        run(given.config, output=pathlib.Path(given.output))
    elif mode == "pair":
        run(ndct=paths_of("ndct", given.ndct), qdct=paths_of("qdct", given.qdct),
            trees=paths_of("input", given.input), output=pathlib.Path(given.output),
            split=given.split, patients=given.patients)
    elif mode == "preflight":
        run(given.config, workdir=_workdir("_preflight"), topology=given.topology,
            platform=given.platform)
    else:
        run(given.config, workdir=_workdir("_benchmark"), checkpoint_path=(
            _only("checkpoint", given.checkpoint, command=command, mode=mode)
            if given.checkpoint else None))


def _strength() -> float:
    """The strength of --strength, or for --dose_fraction."""
    given = flags.FLAGS
    if not given["dose_fraction"].present:
        return float(given.strength)
    if given["strength"].present:
        raise InputError("--dose_fraction gives the strength, and --strength is given, too; "
                         "expected one of them")
    try:
        dose_fraction = float(given.dose_fraction)
    except ValueError:
        raise InputError(f"--dose_fraction is {given.dose_fraction!r}; expected a number, such as "
                         "0.5") from None
    return strength_for_dose(dose_fraction)


def _of_simulation(name: str, *, field: str | None = None) -> object:
    """A flag's value; without the flag, the configuration's value, if there is one."""
    value: object = flags.FLAGS[name].value
    if flags.FLAGS.config is not None and not flags.FLAGS[name].present:
        value = flags.FLAGS.config.simulation[field or name]
    return value


def _workdir(suffix: str = "") -> pathlib.Path:
    default = pathlib.Path("runs") / f"{flags.FLAGS.config.name}{suffix}"
    return pathlib.Path(flags.FLAGS.workdir or default)


def _paths(texts: list[str]) -> list[pathlib.Path]:
    return [pathlib.Path(text) for text in texts]


def _only(name: str, values: list[str], *, command: Command, mode: str) -> str:
    if len(values) != 1:
        raise InputError(f"{command.mode(mode)} needs one --{name}=PATH; {len(values)} are given")
    return values[0]
