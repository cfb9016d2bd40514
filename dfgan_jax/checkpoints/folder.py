"""The folder of one checkpoint: its location, and its content (orbax).

A workdir's `checkpoints/` holds a folder for each kept step. Each folder is complete: the state,
the configuration, the position in the data, and their SHA-256 digests. It does not depend on
devices or processes: any number of them can continue from it.

Each of several processes reads independently.
"""

import contextlib
import json
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from dfgan_jax.support.digests import json_digest, named_arrays_digest
from dfgan_jax.support.errors import InputError, first_line
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

Tree = TypeVar("Tree")

STATE, META, METRICS = "state", "meta", "metrics"
"""Subfolders of a checkpoint's folder."""


@contextlib.contextmanager
def alone(handler: ocp.CheckpointHandler) -> Iterator[ocp.Checkpointer]:
    """A checkpointer that does not wait for other processes."""
    with ocp.Checkpointer(handler, multiprocessing_options=this_process()) as checkpointer:
        yield checkpointer


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Metadata file does not exist")


# orbax warns of a file that no part of a composite checkpoint has. The filter stays: orbax logs in
# threads, too, and checkpointers are nested.
logging.getLogger("absl").addFilter(_is_no_noise)


def this_process() -> ocp.options.MultiprocessingOptions:
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}")


def locate(path: str | os.PathLike[str]) -> pathlib.Path:
    """Finds the folder of a checkpoint.

    Args:
      path: a workdir, its `checkpoints` folder, or the folder of one step. Of several steps the
        best is taken, or the latest if none has a score. Steps that lack files, as their deletion
        leaves them, are left out while another is whole, and named on stderr.

    Raises:
      InputError: there is no checkpoint; or one, which could be the best, cannot be read.
    """
    path = pathlib.Path(path).absolute()
    if (path / STATE).is_dir() and (path / META).is_dir():
        return path
    workdir = path.parent if path.name == "checkpoints" else path
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"{path}: no checkpoint here; expected a workdir, its checkpoints folder, "
                         "or the folder of one step")
    scores: dict[pathlib.Path, float | None] = {}
    deleted: list[InputError] = []
    damaged: list[InputError] = []
    for folder in step_folders(workdir):
        try:
            scores[folder] = checked_score(folder, read_meta(folder))
        except InputError as error:
            if folder.is_dir():  # else a running training has deleted it
                is_partial = isinstance(error.__cause__, FileNotFoundError)
                (deleted if is_partial else damaged).append(error)
    if damaged and scores:
        raise InputError(f"{first_line(damaged[0])}; it could be the best checkpoint. To take "
                         f"another, give its folder, such as {next(iter(scores))}")
    if not scores:
        raise (damaged + deleted or [InputError(f"{path}: holds no finished checkpoint")])[0]
    for fault in deleted:
        print(f"{first_line(fault)}: left out", file=sys.stderr, flush=True)
    scored = {folder: score for folder, score in scores.items() if score is not None}
    # Of equal scores, the latest is taken, since it comes first.
    return max(scored, key=lambda folder: scored[folder]) if scored else next(iter(scores))


def step_folders(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a run's finished checkpoints, latest first."""
    return sorted((folder for folder in (workdir / "checkpoints").glob("*")
                   if folder.name.isdigit()), key=lambda folder: int(folder.name), reverse=True)


def _digest(tree: PyTree) -> str:
    return named_arrays_digest(sorted(_leaves(tree), key=lambda named: named[0]))


def signed(meta: JsonObject, state: Mapping[str, PyTree], *, score: float | None = None
           ) -> JsonObject:
    """Adds the digests to metadata by which later changes of a checkpoint are detected."""
    content: JsonObject = {name: value for name, value in json.loads(json.dumps(meta)).items()
               if name != "meta_sha256"} | {
        "sha256": {name: _digest(tree) for name, tree in state.items()}, "score": score}
    return content | {"meta_sha256": json_digest(content)}


def read_meta(folder: pathlib.Path) -> JsonObject:
    """Reads the metadata: `step`, `epoch`, `config` and more.

    Raises:
      InputError: the metadata cannot be read, or have changed since they were saved.
    """
    try:
        with alone(ocp.JsonCheckpointHandler()) as checkpointer:
            meta: JsonObject = checkpointer.restore(folder / META)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: its metadata cannot be read ({error})") from error
    missing = {"step", "epoch", "config"} - (meta.keys() if isinstance(meta, dict) else set())
    if missing:
        raise InputError(f"{folder}: its metadata lack {', '.join(sorted(missing))}")
    content = {name: value for name, value in meta.items() if name != "meta_sha256"}
    # Checkpoints of older versions have no digests.
    if {"sha256", "meta_sha256"} & meta.keys() and meta.get("meta_sha256") != json_digest(content):
        raise InputError(f"{folder}: the checkpoint is damaged (its metadata have changed)")
    return meta


def _leaves(tree: PyTree) -> list[tuple[str, PyTree]]:
    return [("/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k))))
                      for k in path), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in _leaves(tree)}


def saved_tree(folder: pathlib.Path) -> PyTree:
    """The shapes and dtypes of a saved state.

    Raises:
      InputError: the checkpoint is damaged.
    """
    with alone(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            metadata = checkpointer.metadata(folder / STATE).item_metadata
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: the checkpoint is damaged ({error!r})") from error
    if metadata is None:
        raise InputError(f"{folder}: the checkpoint is damaged (its tree cannot be read)")
    return metadata.tree


def restore(folder: pathlib.Path, like: Tree) -> Tree:
    """Reads a saved state, or a part of it.

    Args:
      folder: of one step, from `locate`, `run.Checkpoints.latest` or `.best`.
      like: a state, or some of its fields as a dict; only its shapes, dtypes and shardings are
        used, so that its leaves may be `jax.ShapeDtypeStruct`s.

    Raises:
      InputError: the saved tree has other leaves or shapes, or cannot be read.
    """
    digests = read_meta(folder).get("sha256", {})
    with alone(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = _shapes(saved_tree(folder))
        wanted = _shapes(like)
        top_levels = {name.split("/")[0] for name in wanted}
        differing = [name for name in sorted(saved.keys() | wanted.keys())
                     if name.split("/")[0] in top_levels and saved.get(name) != wanted.get(name)]
        if differing:
            name = differing[0]
            raise InputError(
                f"{folder}: does not fit this model: "
                f"{counted(len(differing), 'differing array')}, the first {name}: "
                f"{saved.get(name, 'absent')} in the checkpoint, "
                f"{wanted.get(name, 'absent')} in the model")
        try:
            restored: Tree = checkpointer.restore(folder / STATE, args=ocp.args.PyTreeRestore(
                item=like, partial_restore=True,
                restore_args=ocp.checkpoint_utils.construct_restore_args(like)))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: the checkpoint is damaged ({error})") from error
    for name, tree in (restored if isinstance(restored, dict) else vars(restored)).items():
        if name in digests and _digest(tree) != digests[name]:
            raise InputError(f"{folder}: the checkpoint is damaged (the SHA-256 of its {name} "
                             "differs from the saved one)")
    return restored


def checked_score(folder: pathlib.Path, meta: JsonObject) -> float | None:
    """Reads the score of a checkpoint; None if it has no score.

    Raises:
      InputError: the score cannot be read, or has changed since it was saved.
    """
    # The metadata of older versions have no field for the score.
    has_score = meta["score"] is not None if "score" in meta else (folder / METRICS).is_dir()
    if not has_score:
        return None
    try:
        with alone(ocp.JsonCheckpointHandler(METRICS)) as checkpointer:
            score: float = checkpointer.restore(folder / METRICS)["score"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: its score cannot be read ({error!r})") from error
    if score != meta.get("score", score):
        raise InputError(f"{folder}: the checkpoint is damaged (its score has changed)")
    return score


def check_sound(folder: pathlib.Path) -> None:
    """Reads a whole checkpoint of a run; raises various errors if it is damaged."""
    meta = read_meta(folder)
    if meta["step"] != int(folder.name):
        raise InputError(f"its metadata name step {meta['step']}")
    checked_score(folder, meta)
    restore(folder, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype),
                                  saved_tree(folder)))


def model_in(tree: Mapping[str, PyTree]) -> str:
    """The name of the model in a saved state: `generator`, or `average` of its weights."""
    return "average" if tree.get("average") else "generator"


def restore_generator(folder: pathlib.Path, like: dict[str, PyTree]) -> dict[str, PyTree]:
    """Reads only the variables of the model, independent of the discriminators.

    The model is the average of the generator's weights if the state has one, and the generator
    otherwise.

    Args:
      folder: of one step, from `locate`, `run.Checkpoints.latest` or `.best`.
      like: {"params": …, "batch_stats": …} of the same tree.

    Raises:
      InputError: the saved tree has other leaves or shapes, or cannot be read.
    """
    name = model_in(saved_tree(folder))
    return restore(folder, {name: like})[name]


def workdir_of(folder: pathlib.Path) -> pathlib.Path:
    """The workdir of a checkpoint's folder; the folder itself if it is in no workdir."""
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder
