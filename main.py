"""DFGAN in JAX: trains, evaluates and simulates low-dose CT denoising from one command.

  python main.py --config=configs/attn.py:demo

Research software, not a medical device.
"""

import importlib
import pathlib
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from dfgan_jax.errors import DivergenceError, InputError

MODES = ("train", "evaluate", "simulate")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration, with a variant after a colon: configs/attn.py:demo. Any field "
    "can be changed: --config.batch_size=32.", lock_config=True)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; runs/NAME of the configuration by default. A run that was "
    "stopped goes on from there.")
_CHECKPOINT = flags.DEFINE_list(
    "checkpoint", [], "evaluate: workdirs or checkpoints, separated by commas; a row each.")
_OUTPUT = flags.DEFINE_string("output", None, "simulate: folder for train, valid and test.npy.")


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options start with --")
    config, mode = _CONFIG.value, _MODE.value
    if config is None:
        raise InputError("--config is missing; expected a file such as configs/attn.py:demo")
    options: dict[str, Any] = {}
    if mode in ("train", "evaluate"):
        name = config.name if mode == "train" else f"{config.name}_evaluation"
        options["workdir"] = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / name)
    if mode == "evaluate":
        if not _CHECKPOINT.value:
            raise InputError("--mode=evaluate needs --checkpoint=PATH[,PATH…]")
        options["checkpoint_paths"] = _CHECKPOINT.value
    if mode == "simulate":
        if not _OUTPUT.value:
            raise InputError("--mode=simulate needs --output=FOLDER")
        options["output"] = pathlib.Path(_OUTPUT.value)
    importlib.import_module(f"dfgan_jax.modes.{mode}").run(config, **options)


def run() -> None:
    """`app.run`, with what a user can mend said in one line and no traceback."""
    # orbax logs dozens of lines a checkpoint; --verbosity=0 shows them.
    flags.FLAGS.set_default("verbosity", logging.ERROR)
    try:
        app.run(main)
    except (InputError, DivergenceError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
