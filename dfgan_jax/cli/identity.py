"""Identifies the run of a workdir or of a checkpoint, by its configuration."""

import json
import pathlib
from collections.abc import Mapping
from typing import Final

from dfgan_jax.cli.options import RunOptions, flattened, meant
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

CONFIG_FILE = "config.json"

_PAIRS: Final = ("data.train", "data.valid", "data.test")


def check_workdir(workdir: pathlib.Path, options: RunOptions) -> None:
    """Refuses a folder that belongs to a run of another configuration.

    `epochs` may differ if the learning rate is constant, so that a finished run can be
    continued. Fields that change training by no more than rounding may differ: the times of
    checkpoints and of rows of metrics, the places of batches and their sharing, `remat` and the
    evaluation. So may the files of pairs, since checkpoints keep fingerprints of the pairs.

    Raises:
      InputError: the configurations differ; the message names the first field that does.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        for name in ("checkpoints/*", "report.html", "results.json"):
            if any(workdir.glob(name)):
                raise InputError(f"{workdir}: holds {name}, but no {CONFIG_FILE} of the run; "
                                 "choose another --workdir")
        return
    try:
        there = meant(json.loads(path.read_text()))
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    here = flattened(options.as_json())
    free = set(_PAIRS)
    if options.optimizer.schedule == "constant":
        free.add("epochs")
    differing = sorted(name for name in there.keys() | here.keys()
                       if there.get(name) != here.get(name)
                       and not (name in free or _changes_no_training(name)))
    if differing:
        name = differing[0]
        raise InputError(
            f"{workdir}: belongs to a run of another configuration: "
            f"{counted(len(differing), 'differing field')}, the first {name}: "
            f"{there.get(name)!r} there, {here.get(name)!r} here; choose another --workdir")


def claim_workdir(workdir: pathlib.Path, options: RunOptions) -> None:
    """Makes the folder of a run and writes its `config.json`, unless it is there."""
    path = workdir / CONFIG_FILE
    text = json.dumps(options.as_json(), indent=2) + "\n"
    if path.exists() and path.read_bytes() == text.encode():
        return
    with written_whole(path) as temporary:
        temporary.write_text(text)


def shared_by_seeds(config: JsonObject, *, fingerprints: Mapping[str, str] | None = None) -> str:
    """A name that is the same for runs that differ only by their seed.

    Args:
      config: of a checkpoint.
      fingerprints: split → fingerprint of the run's pairs, in place of the names of their files;
        None: the names count.
    """
    own = {"seed", "name", *(_PAIRS if fingerprints else ())}
    return json.dumps({
        "pairs": [(fingerprints or {}).get(split) for split in ("train", "valid")],
        **{name: value for name, value in meant(config).items()
           if name not in own and not _changes_no_training(name)}}, sort_keys=True)


def _changes_no_training(name: str) -> bool:
    return (name in ("data.cache_dir", "data.on_device", "checkpoint_after_seconds",
                     "checkpoint_every_minutes", "log_every_steps", "remat", "parallel")
            or name.startswith("evaluation."))
