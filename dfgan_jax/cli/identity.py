"""Which run a workdir or a checkpoint is of, by the configuration that it keeps."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dfgan_jax.cli.options import RunOptions, flattened, meant
from dfgan_jax.models.generators import table_name
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole

CONFIG_FILE = "config.json"


def model_name(config: Mapping[str, Any]) -> str:
    """The name of a table's row.

    Args:
      config: of a run; or `generator` and `discriminators` of it, which may be None.
    """
    return table_name(config["generator"], config["discriminators"])


def check_workdir(workdir: pathlib.Path, options: RunOptions) -> None:
    """Refuses a folder that belongs to a run of another configuration.

    `epochs` may differ where the learning rate is constant, so that a finished run can
    go on for longer. Where pairs and when checkpoints are kept, how devices share a batch, what is
    computed twice and what is evaluated may differ, since none of it changes training by more
    than rounding.

    Raises:
      InputError: naming the first field that differs.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        for name in ("checkpoints/*", "report.html", "results.json"):
            if any(workdir.glob(name)):
                raise InputError(f"{workdir}: holds {name}, but no {CONFIG_FILE} that says of "
                                 "which run; choose another --workdir")
        return
    try:
        there = meant(json.loads(path.read_text()))
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    here = flattened(options.as_json())
    free = {"epochs"} if options.optimizer.schedule == "constant" else set()
    differing = sorted(name for name in there.keys() | here.keys()
                       if there.get(name) != here.get(name)
                       and not (name in free or _changes_no_training(name)))
    if differing:
        name = differing[0]
        raise InputError(
            f"{workdir}: belongs to a run of another configuration: {len(differing)} fields "
            f"differ, the first {name}: {there.get(name)!r} there, {here.get(name)!r} here; "
            "choose another --workdir")


def claim_workdir(workdir: pathlib.Path, options: RunOptions) -> None:
    """Makes the folder of a run and writes its `config.json`."""
    with written_whole(workdir / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(options.as_json(), indent=2) + "\n")


def shared_by_seeds(config: Mapping[str, Any]) -> str:
    """Names what runs have in common that differ by their seed alone.

    Args:
      config: that a checkpoint holds.
    """
    return json.dumps({name: value for name, value in meant(config).items()
                       if name not in ("seed", "name", "log_every_steps",
                                       "checkpoint_every_minutes")
                       and not _changes_no_training(name)}, sort_keys=True)


def _changes_no_training(name: str) -> bool:
    return (name in ("data.cache_dir", "data.on_device", "checkpoint_after_seconds", "remat",
                     "parallel")
            or name.startswith("evaluation."))
