"""`--mode=evaluate`: one table over the input, classical denoisers and checkpoints."""

import functools
import pathlib
import re
from collections.abc import Sequence

import ml_collections

from dfgan_jax.cli import splits
from dfgan_jax.cli.compared import compare, further_models
from dfgan_jax.cli.identity import CONFIG_FILE
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.sources import check_same_in_all
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import agreement
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import check_writable


def run(config: ml_collections.ConfigDict, *, workdir: pathlib.Path,
        checkpoint_paths: Sequence[str], strength: float | None = None,
        self_ensemble: bool = False) -> None:
    """Scores checkpoints on the test split and writes the report into `workdir`.

    Args:
      config: brings the data and the measurements.
      workdir: folder to write into.
      checkpoint_paths: of models, or NAME=SOURCE of a user's own.
      strength: of a further row of each checkpoint; 1 is no further one, and a line says so.
      self_ensemble: a further row of each checkpoint, as a self-ensemble.

    Raises:
      InputError: a checkpoint or the data cannot be used.
    """
    options = RunOptions.of(config)
    read = splits.of_evaluation(options.data, options.evaluation)
    if (workdir / CONFIG_FILE).exists():
        raise InputError(f"{workdir}: belongs to a training run, whose results stay; choose "
                         "another --workdir")
    agreement.from_main(functools.partial(check_writable, workdir))
    options.check_same_in_all(checkpoint_paths)
    if strength == 1 and agreement.is_main():
        print("Strength 1, that of a quarter of the dose or less, is each checkpoint's own row: "
              "none is added", flush=True)
    given, paths = _split(checkpoint_paths)
    denoisers: list[Denoiser] = []
    for path in paths:
        loaded = Denoiser.load_in_all(path)
        denoisers += [loaded, *([loaded.with_settings(strength=strength)]
                                if strength is not None and strength != 1 else []),
                      *([loaded.with_settings(self_ensemble=True)] if self_ensemble else [])]
    further = further_models(options.evaluation.checkpoints)
    data = agreement.main_first(lambda: options.sources.load(read))
    check_same_in_all(data)
    compare(options, workdir=workdir, denoisers=denoisers, further=further, data=data,
            given=given)


def _split(checkpoints: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The NAME=SOURCE of --checkpoint, and the paths.

    Raises:
      InputError: a name is repeated, a path is one of Python code, or there is no path.
    """
    given: dict[str, str] = {}
    paths = []
    for text in checkpoints:
        match = re.fullmatch(r"([^=/\\]+)=(.+)", text)
        if match is None and text.endswith(".py") and not pathlib.Path(text).is_dir():
            raise InputError(f"--checkpoint={text}: is Python code; expected a model of your own "
                             "as NAME=module:callable, such as "
                             f"MINE={pathlib.Path(text).stem}:CALLABLE")
        if match is None or pathlib.Path(text).exists():
            paths.append(text)
        elif match[1] in given:
            raise InputError(f"--checkpoint has two models named {match[1]}")
        else:
            given[match[1]] = match[2]
    if not paths:
        raise InputError("--checkpoint has only models of your own; expected a checkpoint to "
                         "compare them with, such as dfgan")
    return given, paths
