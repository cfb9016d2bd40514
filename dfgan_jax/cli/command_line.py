"""Defines, parses and checks the flags of the command line."""

import itertools
import sys
from collections.abc import Sequence

from absl import flags

import dfgan_jax
from dfgan_jax.cli import configurations, help_text, modes
from dfgan_jax.cli.given_paths import expanded, one_or_several, refuse_url
from dfgan_jax.cli.help_text import Command
from dfgan_jax.cli.modes import MODES
from dfgan_jax.scans.axes import ORDERS
from dfgan_jax.scans.unit_names import UNITS
from dfgan_jax.support.errors import InputError

_HELP = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")

_DOSES = ("ndct", "qdct")


def define(values: flags.FlagValues, *, command: Command, sys_argv: Sequence[str] | None = None
           ) -> None:
    """Defines every flag of every mode.

    Args:
      values: receives the definitions.
      command: spelling of the program's command.
      sys_argv: the arguments to parse later; those of the process by default.
    """
    configurations.define(values, explanation=modes.explain("config"), sys_argv=sys_argv)
    if not command.mode_first:
        flags.DEFINE_enum("mode", "train", list(MODES), "The mode.", flag_values=values)
    for name, text in {"workdir": None, "output": None, "report": None, "container": None,
                       "split": None, "dose_fraction": "0.25", "kernel": "auto", "refilter": None,
                       "coordinator": None, "topology": None}.items():
        flags.DEFINE_string(name, text, modes.explain(name), flag_values=values)
    for name in ("input", "ndct", "qdct"):
        flags.DEFINE_multi_string(name, [], modes.explain(name), flag_values=values)
    flags.DEFINE_list("checkpoint", [], modes.explain("checkpoint"), flag_values=values)
    for name, number in {"strength": 1.0, "full_dose_photons_per_ray": None,
                         "pixel_spacing": None}.items():
        flags.DEFINE_float(name, number, modes.explain(name), flag_values=values)
    for name, lowest, whole in (("noise_seed", 0, 0), ("num_processes", 1, None),
                                ("process_id", 0, None), ("join_timeout", 1, 300),
                                ("workers", 0, None)):
        flags.DEFINE_integer(name, whole, modes.explain(name), lower_bound=lowest,
                             flag_values=values)
    for name in ("verify", "print_config", "self_ensemble"):
        flags.DEFINE_bool(name, False, modes.explain(name), flag_values=values)
    for name, choices in {"storage": ("float32", "float16"), "platform": ("tpu", "cuda"),
                          "patients": ("id", "study", "folder")}.items():
        flags.DEFINE_enum(name, choices[0], choices, modes.explain(name), flag_values=values)
    for name, choices in {"input_unit": UNITS, "axes": ORDERS}.items():
        # Without a default, since only a given value is not checked.
        flags.DEFINE_enum(name, None, choices, modes.explain(name), flag_values=values)


def parse(arguments: Sequence[str], *, command: Command,
          values: flags.FlagValues = flags.FLAGS) -> str:
    """Parses the flags that `define` has defined; without arguments, prints help before the error.

    Args:
      arguments: of the process, including the program's name.
      command: spelling of the program's command.
      values: holds the definitions, and receives the values.

    Returns:
      The mode.

    Raises:
      InputError: a flag cannot be parsed, is not a flag of the mode, or is missing.
      SystemExit: with status 0, after help or the version was requested and printed.
    """
    if "--version" in arguments[1:]:
        print(f"dfgan-jax {dfgan_jax.__version__}", flush=True)
        sys.exit(0)
    wants_help = any(argument in _HELP for argument in arguments[1:])
    given = _given_mode(arguments, command)
    if given is not None and given not in MODES and (wants_help or command.mode_first):
        raise InputError(f"unknown mode {given!r}; there are {', '.join(MODES)}")
    if wants_help:
        print(help_text.of_all(command) if given is None else help_text.of_mode(given, command),
              flush=True)
        sys.exit(0)
    if not arguments[1:]:  # the error below alone would tell a new user little
        print(help_text.of_all(command), flush=True)
    if command.mode_first:
        if given is None:
            raise InputError(f"the mode is missing; expected one of {', '.join(MODES)} as the "
                             f"first argument: {command.program} denoise")
        arguments = [arguments[0], *arguments[2:]]
    rest = _parse(arguments, values, command=command, mode=given)
    mode = str(given if command.mode_first else values["mode"].value)
    _refuse_unused(values, mode=mode, command=command)
    if len(rest) > 1:
        hint = (f"; a mode is given as {command.mode(rest[1])}"
                if rest[1] in MODES and not command.mode_first else "")
        raise InputError(f"unexpected argument {rest[1]!r}; options start with --{hint}")
    _refuse_missing(values, mode=mode, command=command)
    for name in ("workdir", "output", "report"):
        if path := values[name].value:
            refuse_url(path, name=f"--{name}")
            values[name].value = expanded(path)
    for name in ("input", "ndct", "qdct", "checkpoint"):
        for path in values[name].value or []:
            refuse_url(path, name=f"--{name}")
    for name in ("input", "ndct", "qdct"):
        values[name].value = list(map(expanded, values[name].value or []))
    values["checkpoint"].value = one_or_several(values["checkpoint"].value or [])
    return mode


def _given_mode(arguments: Sequence[str], command: Command) -> str | None:
    """The mode in the arguments, before they are parsed; None without a mode."""
    if command.mode_first:
        return next((each for each in arguments[1:2] if not each.startswith("-")), None)
    mode = None
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name in ("--mode", "-mode"):
            mode = value if equals else following
    return mode or None


def _parse(arguments: Sequence[str], values: flags.FlagValues, *, command: Command,
           mode: str | None) -> list[str]:
    """Parses flags; raises an `InputError` of one line if that fails."""
    before = _before_config(arguments)
    if before:
        raise InputError(f"{before} is given before --config; expected --config first")
    try:
        rest: list[str] = values(arguments)
        return rest
    except (AttributeError, KeyError) as error:
        try:
            missing = configurations.missing_field(arguments)
        except (AttributeError, KeyError):  # an error of the file, not of a flag
            missing = None
        raise InputError(missing or f"--config: {type(error).__name__}: {error}") from error
    except (NameError, TypeError, ValueError, ImportError, SyntaxError) as error:
        raise InputError(f"--config: {type(error).__name__}: {error}") from error
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        if name.removeprefix("no").startswith("config."):  # defined only by --config
            # An unknown mode was refused before.
            if "config" not in modes.names(MODES[mode or "train"].flags):
                raise InputError(f"{command.mode(str(mode))} takes no --{name}") from error
            raise InputError(f"--{name} changes a configuration, and --config is missing"
                             ) from error
        raise InputError(str(error)) from error
    except flags.Error as error:
        # For an error in a configuration file, the message has the whole traceback.
        *_, last = str(error).strip().splitlines()
        raise InputError(last.strip().removeprefix("ValueError: ")) from error


def _before_config(arguments: Sequence[str]) -> str:
    """The first field of the configuration that is given before it; empty if there is none."""
    names = [argument.partition("=")[0] for argument in arguments]
    config = next((place for place, name in enumerate(names) if name in ("--config", "-config")), 0)
    return next((name for name in names[:config] if name.startswith("--config.")), "")


def _refuse_unused(values: flags.FlagValues, *, mode: str, command: Command) -> None:
    """Refuses flags that the mode does not use."""
    takes, spelled = modes.names(MODES[mode].flags), command.mode(mode)
    known = dict.fromkeys(name for each in MODES.values() for name in modes.names(each.flags)
                          if name in values)
    for name in known:
        if values[name].present and name not in takes:
            hint = ("; to start from its weights, give --config.initial_checkpoint=PATH"
                    if (mode, name) == ("train", "checkpoint") else "")
            raise InputError(f"{spelled} takes no --{name}{hint}")
    if not values["input"].present:
        for name in modes.names(MODES[mode].with_input):
            if values[name].present:
                raise InputError(f"{spelled} takes --{name} only with --input=SCAN")
    for name in ("checkpoint", "input", *_DOSES):
        # An empty list of checkpoints has no element, not an empty one.
        if values[name].present and "" in (values[name].value or [""]):
            raise InputError(f"--{name} is empty; expected a path")
    both = [f"--{name}" for name in _DOSES if values[name].present]
    if values["input"].present and both:
        raise InputError(f"{spelled} takes --input, a tree with both doses, or --ndct and --qdct, "
                         f"a tree of each; --input and {' and '.join(both)} are given")


def _refuse_missing(values: flags.FlagValues, *, mode: str, command: Command) -> None:
    """Refuses a command without a flag that the mode needs."""
    needed = dict.fromkeys(MODES[mode].needed)
    if values["print_config"].value:
        needed = {"config": None}  # the mode does not run
    elif mode == "simulate" and not values["input"].value:
        needed = {"config": None, **needed}
    in_one_tree = mode == "pair" and values["input"].value
    for flag in needed:
        name = modes.name_of(flag)
        if values[name].value or (in_one_tree and name in _DOSES):
            continue
        if name == "config":
            raise InputError("--config is missing; expected one such as "
                             f"{command.config('attn')}:demo")
        instead = "" if name not in _DOSES else ", or --input=DIR of a tree with both doses"
        raise InputError(f"{command.mode(mode)} needs --{flag}{instead}")
