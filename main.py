"""DFGAN in JAX: low-dose CT denoising from one command.

  python main.py --config=configs/attn.py:demo
  python main.py --mode=denoise --checkpoint=gan.pth --input=quarter_dose/ --output=denoised/

Research software, not a medical device.
"""

import importlib
import pathlib
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from dfgan_jax import pretrained
from dfgan_jax.devices import tpu_chips
from dfgan_jax.devices.huge_pages import use_huge_pages
from dfgan_jax.support.errors import DivergenceError, InputError, ProcessError

MODES = ("train", "evaluate", "denoise", "convert", "simulate", "pair", "benchmark",
         "preflight")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration, with a variant after a colon: configs/attn.py:demo. Any field "
    "can be changed: --config.batch_size=32.", lock_config=True)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; runs/NAME of the configuration by default. A run that was "
    "stopped goes on from there.")
_CHECKPOINT = flags.DEFINE_list(
    "checkpoint", [], "evaluate, denoise: the name of pretrained weights, a workdir, the folder of "
    "a checkpoint, or a file of weights (.pth, .pt, .pth.tar, .safetensors); denoise takes "
    "attn_dfgan where none is given; evaluate takes several, separated by commas; a row each. "
    "benchmark: weights that bfloat16 is compared with float32 on; untrained ones by default.")
_INPUT = flags.DEFINE_multi_string(
    "input", [], "denoise: a folder of DICOM files, or one; .npy of an array in HU, or of pairs; "
    ".nii, .nii.gz. simulate: a full-dose scan, in any of these; again for more. convert: a "
    "checkpoint, or a file of weights; again for each file of a discriminator.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "denoise: file or folder to write, of the input's kind. convert: .pth, .pt, "
    ".pth.tar or .safetensors to write, or the folder of a checkpoint. simulate: folder for train, "
    "valid and test.npy. simulate of scans, pair: .npy to write; with --split, a folder.")
_STRENGTH = flags.DEFINE_float(
    "strength", 1.0, "denoise: input + strength · (denoised − input); 0 to 1.5.")
_REPORT = flags.DEFINE_string(
    "report", None, "denoise: HTML file to write: slices before and after, what was removed, noise "
    "and HU by tissue.")
_CONTAINER = flags.DEFINE_string(
    "container", None, "convert: which generator, where a file has several: the keys that lead to "
    "it, joined by dots.")
_STORAGE = flags.DEFINE_enum(
    "storage", "float32", ("float32", "float16"), "convert: type of the numbers in a file of "
    "weights; float16 takes half the room.")
_VERIFY = flags.DEFINE_bool(
    "verify", False, "convert: read back what was written, and denoise a simulated slice with it.")
_NDCT = flags.DEFINE_multi_string(
    "ndct", [], "pair: folder of DICOM files at the normal dose; several if given several times.")
_QDCT = flags.DEFINE_multi_string("qdct", [], "pair: the same at the low dose.")
_SPLIT = flags.DEFINE_string(
    "split", None, "pair, simulate of scans: shares of the patients for train, valid and test: "
    "0.7,0.1,0.2.")
_DOSE_FRACTION = flags.DEFINE_string(
    "dose_fraction", "0.25", "simulate, of a scan: lower dose over full dose, or a range of which "
    "each slice's is drawn: 0.1..0.5; that of --config where one is given.")
_KERNEL = flags.DEFINE_string(
    "kernel", "auto", "simulate, of a scan: kernel that the noise is reconstructed with: auto, as "
    "measured in the scan; soft, medium, sharp, ramp; or its f50 in lp/cm.")
_REFILTER = flags.DEFINE_string(
    "refilter", None, "simulate, of a scan: f50 in lp/cm of another kernel that both doses get, or "
    "a range of which each slice's is drawn: 2.8..6.5.")
_PHOTONS_PER_RAY = flags.DEFINE_float(
    "photons_per_ray", None, "simulate, of a scan: photons of the full dose, instead of as "
    "measured in the scan; see dfgan_jax/simulation/noise_insertion.py.")
_PIXEL_SPACING = flags.DEFINE_float(
    "pixel_spacing", None, "simulate, of an .npy: pixel pitch in mm.")
_SEED = flags.DEFINE_integer("seed", 0, "simulate, of a scan: of the noise.", lower_bound=0)
_PATIENTS = flags.DEFINE_enum(
    "patients", "id", ("id", "study", "folder"), "pair, simulate of scans: what tells patients "
    "apart: the patient ID (the study, where that is a placeholder), the study, or the folder "
    "right below --ndct or --input.")

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "train, evaluate, as several processes: HOST:PORT of process 0, which "
    "listens there. Not needed under SLURM, Open MPI, Kubernetes (an indexed Job) and on TPU "
    "slices, which are recognised.")
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes there are; 1: this one, whatever started it.",
    lower_bound=1)
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "How long the processes wait for each other at the start [s].",
    lower_bound=1)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "preflight: slice of TPU chips to compile for, such as v5e:16x16, v5p:4x4x4 "
    "or v6e:8x8; with --platform=cuda, the number of GPUs.")
_PLATFORM = flags.DEFINE_enum(
    "platform", "tpu", ("tpu", "cuda"), "preflight: what to compile for. For cuda, steps are "
    "lowered and not compiled.")
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this is, from 0.", lower_bound=0)


def main(arguments: list[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        # orbax tells of each step it takes, and has pages on a full disk beside its exception.
        logging.set_verbosity(logging.FATAL)
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options start with --")
    mode = _MODE.value
    _refuse_unused(mode)
    file = "simulate_scan" if mode == "simulate" and _INPUT.value else mode
    # Imported now that the flags are right, since JAX takes a second.
    if mode != "preflight":
        tpu_chips.hide_libtpu_without()
    # Those that compute nothing with it, or measure how long compiling takes.
    if file not in ("pair", "simulate_scan", "preflight"):
        importlib.import_module("dfgan_jax.devices.parallel").keep_compiled()
    run = importlib.import_module(f"dfgan_jax.cli.{file}").run
    if mode in ("train", "evaluate"):
        processes = importlib.import_module("dfgan_jax.devices.processes")
        with processes.joined(processes.Place(
                coordinator=_COORDINATOR.value, num_processes=_NUM_PROCESSES.value,
                process_id=_PROCESS_ID.value), timeout_s=_JOIN_TIMEOUT.value):
            if mode == "train":
                run(_config(), workdir=_workdir())
            elif not _CHECKPOINT.value:
                raise InputError("--mode=evaluate needs --checkpoint=PATH[,PATH…]")
            else:
                run(_config(), workdir=_workdir("_evaluation"),
                    checkpoint_paths=_CHECKPOINT.value)
    elif mode == "denoise":
        checkpoint = _only("checkpoint", _CHECKPOINT.value or [pretrained.DEFAULT])
        run(checkpoint_path=checkpoint, source=pathlib.Path(_only("input", _INPUT.value)),
            output=_output(), strength=_STRENGTH.value,
            report=None if _REPORT.value is None else pathlib.Path(_REPORT.value))
    elif mode == "convert":
        if not _INPUT.value:
            raise InputError("--mode=convert needs --input=PATH")
        run(inputs=[pathlib.Path(path) for path in _INPUT.value], output=_output(),
            container=_CONTAINER.value, storage=_STORAGE.value, verify=_VERIFY.value)
    elif file == "simulate_scan":
        run([pathlib.Path(path) for path in _INPUT.value], output=_output(),
            dose_fraction=_of_simulation("dose_fraction"), kernel=_KERNEL.value,
            refilter=_REFILTER.value,
            photons_per_ray=_PHOTONS_PER_RAY.value, pixel_spacing_mm=_PIXEL_SPACING.value,
            seed=_of_simulation("seed"), split=_SPLIT.value, patients=_PATIENTS.value)
    elif mode == "simulate":
        run(_config(), output=_output())
    elif mode == "pair":
        for name, values in (("ndct", _NDCT.value), ("qdct", _QDCT.value)):
            if not values:
                raise InputError(f"--mode=pair needs --{name}=DIR")
        run(ndct=[pathlib.Path(path) for path in _NDCT.value],
            qdct=[pathlib.Path(path) for path in _QDCT.value], output=_output(),
            split=_SPLIT.value, patients=_PATIENTS.value)
    elif mode == "preflight":
        run(_config(), workdir=_workdir("_preflight"), topology=_TOPOLOGY.value,
            platform=_PLATFORM.value)
    else:
        run(_config(), workdir=_workdir("_benchmark"), checkpoint_path=(
            _only("checkpoint", _CHECKPOINT.value) if _CHECKPOINT.value else None))


_OF_SCANS = ("dose_fraction", "kernel", "refilter", "photons_per_ray", "pixel_spacing", "seed",
             "split", "patients")

_PROCESSES = ("coordinator", "num_processes", "process_id", "join_timeout")

_USED = {"train": _PROCESSES, "evaluate": ("checkpoint", *_PROCESSES),
         "denoise": ("checkpoint", "input", "output", "strength", "report"),
         "convert": ("input", "output", "container", "storage", "verify"),
         "simulate": ("input", "output", *_OF_SCANS),
         "pair": ("ndct", "qdct", "output", "split", "patients"), "benchmark": ("checkpoint",),
         "preflight": ("topology", "platform")}


def _refuse_unused(mode: str) -> None:
    """Refuses flags that the mode would ignore."""
    for name in dict.fromkeys(name for used in _USED.values() for name in used):
        if flags.FLAGS[name].present and name not in _USED[mode]:
            hint = ("; to start from its weights, give --config.initial_checkpoint=PATH"
                    if (mode, name) == ("train", "checkpoint") else "")
            raise InputError(f"--mode={mode} takes no --{name}{hint}")
    if mode == "simulate" and not flags.FLAGS["input"].present:
        for name in _OF_SCANS:
            if flags.FLAGS[name].present:
                raise InputError(f"--mode=simulate takes --{name} only with --input=SCAN")
    for name, paths in (("input", _INPUT.value), ("ndct", _NDCT.value), ("qdct", _QDCT.value)):
        if "" in paths:
            raise InputError(f"--{name} is empty; expected a path")


def _config() -> Any:
    if _CONFIG.value is None:
        raise InputError("--config is missing; expected a file such as configs/attn.py:demo")
    path = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0])
    if not path.is_file():
        raise InputError(f"--config: {path}: no such file; there are "
                         f"{', '.join(map(str, sorted(path.parent.glob('*.py'))))}")
    return _CONFIG.value


def _of_simulation(name: str) -> Any:
    """A flag's value; where it is not given, that of the configuration, if there is one."""
    if _CONFIG.value is not None and not flags.FLAGS[name].present:
        return _CONFIG.value.simulation[name]
    return flags.FLAGS[name].value


def _workdir(suffix: str = "") -> pathlib.Path:
    return pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / f"{_CONFIG.value.name}{suffix}")


def _output() -> pathlib.Path:
    if not _OUTPUT.value:
        raise InputError(f"--mode={_MODE.value} needs --output=PATH")
    return pathlib.Path(_OUTPUT.value)


def _only(name: str, values: list[str]) -> str:
    if len(values) != 1:
        raise InputError(f"--mode={_MODE.value} needs one --{name}=PATH; {len(values)} are given")
    return values[0]


def _missing_field(arguments: list[str]) -> str | None:
    """Names the first --config.FIELD that the configuration does not have, and those it has."""
    fields = [a.removeprefix("--config.").split("=")[0] for a in arguments
              if a.startswith("--config.")]
    arguments = [a for a in arguments if not a.startswith("--config.")]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    values(arguments, known_only=True)
    for field in fields:
        path, node = "config", config.value
        for part in field.split("."):
            if not hasattr(node, "keys"):
                return f"{path} is a value; it has no field {part!r}"
            if part not in node:
                return f"{path} has no field {part!r}; there are {', '.join(sorted(node))}"
            path, node = f"{path}.{part}", node[part]
    return None


def _parse(arguments: list[str]) -> list[str]:
    """Parses flags; what cannot be parsed is told in one line."""
    try:
        return flags.FLAGS(arguments)
    except (AttributeError, KeyError) as error:
        try:
            missing = _missing_field(arguments)
        except (AttributeError, KeyError):  # it is the file's own error, not a flag's
            missing = None
        raise InputError(missing or f"--config: {type(error).__name__}: {error}") from error
    except (NameError, TypeError, ValueError, ImportError, SyntaxError) as error:
        raise InputError(f"--config: {type(error).__name__}: {error}") from error
    except flags.Error as error:
        # The message holds the whole traceback of an error in a configuration file.
        *_, last = str(error).strip().splitlines()
        raise InputError(last.strip().removeprefix("ValueError: ")) from error


def _tell_unraisable(unraisable: Any) -> None:
    """Leaves out what threads of a save that failed say, once for each array."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def run() -> None:
    """`app.run`, with what a user can mend said in one line and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks is escaped: an arrow must end no conversion.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.unraisablehook = _tell_unraisable
    try:
        app.run(main, flags_parser=_parse)
    except ProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.STATUS)
    except (InputError, DivergenceError, OSError) as error:  # of a full disk, a wrong folder …
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    use_huge_pages()
    run()
