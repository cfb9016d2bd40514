"""Checkpoints of everything a run needs to go on (orbax).

A workdir's `checkpoints/` holds a folder for each kept step: the latest two and the
one with the best score. Each is complete in itself: the `TrainState`, the
configuration, the position in the data, and SHA-256 digests of all of it. It says nothing of
devices or processes: any number of them goes on from it. A checkpoint made from a file of
weights is such a folder too, with the networks alone.

Of several processes, each reads alone, and process 0 alone writes.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dfgan_jax import pretrained
from dfgan_jax.errors import DivergenceError, InputError, first_line
from dfgan_jax.files import arrays_digest, json_digest, refuse_existing
from dfgan_jax.porting.torch_layout import COUNTS as _COUNTS
from dfgan_jax.porting.weights import (
    LoadedWeights,
    Weights,
    explain_options,
    explain_state_dicts,
    read_weights,
    unseen_options,
)
from dfgan_jax.training.state import TrainState

_STATE, _META, _METRICS = "state", "meta", "metrics"


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


def _alone(handler: Any) -> ocp.Checkpointer:
    """A checkpointer that waits for no other process."""
    return ocp.Checkpointer(handler, multiprocessing_options=_here())


def _here() -> ocp.options.MultiprocessingOptions:
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}")


class Checkpoints:
    """The checkpoints of one run; a context manager, since saving goes on behind it.

    A step is visible only once it is whole, so a run killed while saving leaves the
    one before.
    """

    def __init__(self, workdir: str | os.PathLike):
        policies = ocp.checkpoint_managers
        directory = pathlib.Path(workdir).absolute() / "checkpoints"
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._manager = ocp.CheckpointManager(
                directory,
                options=ocp.CheckpointManagerOptions(
                    create=False, multiprocessing_options=_here(),
                    best_fn=_score,
                    best_mode="max",
                    # `max_to_keep` with `best_fn` would delete the latest step when it
                    # is not among the best. Two of the latest, in case one is damaged.
                    preservation_policy=policies.AnyPreservationPolicy([
                        policies.LatestN(2),
                        policies.BestN(get_metric_fn=_score, n=1,
                                       keep_checkpoints_without_metrics=False)])))
        except ValueError as error:
            raise InputError(f"{directory}: a checkpoint's score cannot be read ({error})"
                             ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._full_disk_told():
            self._manager.close()

    def save(self, state: TrainState, meta: dict[str, Any], *, score: float | None = None) -> None:
        """Saves a state under its step, in the background.

        Args:
          state: after the step `meta["step"]`.
          meta: JSON values, among them `step`, `epoch` and `config`.
          score: of the validation, higher is better; None where there was none.

        Raises:
          DivergenceError: the state or the score is not finite; nothing is saved.
        """
        # On the host, where they can be checked and no later step can touch them.
        copied = jax.tree.map(np.array, state)
        # The losses of a step say nothing of the parameters that it leaves.
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(copied)) or not (
                score is None or np.isfinite(score)):
            raise DivergenceError(f"at step {meta['step']}, the parameters or the validation score "
                                  "are not finite; the last good checkpoint is kept")
        with self._full_disk_told():
            self._manager.save(
                meta["step"],
                args=ocp.args.Composite(**{
                    _STATE: ocp.args.StandardSave(copied),
                    _META: ocp.args.JsonSave(_signed(meta, vars(copied), score=score))}),
                metrics=None if score is None else {"score": score})

    def wait(self) -> None:
        """Returns when all that was saved is on disk; raises if saving failed."""
        with self._full_disk_told():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        """Has a full disk told in one line, of which orbax has pages, or which names no file."""
        try:
            yield
        except (OSError, ValueError) as error:
            full = os.strerror(errno.ENOSPC)
            if full not in str(error):
                raise
            raise OSError(errno.ENOSPC, full, str(self._manager.directory)) from error

    def latest(self) -> pathlib.Path | None:
        """Folder of the latest checkpoint; None before the first."""
        return self._folder(self._manager.latest_step())

    def best(self) -> pathlib.Path | None:
        """Folder of the checkpoint with the best score; None before the first score."""
        return self._folder(self._manager.best_step())

    def _folder(self, step: int | None) -> pathlib.Path | None:
        return None if step is None else pathlib.Path(self._manager.directory) / str(step)


def locate(path: str | os.PathLike) -> pathlib.Path:
    """Finds the checkpoint that a user means.

    Args:
      path: a workdir, its `checkpoints` folder, or the folder of one step. Of
        several steps it is the best, or the latest where none has a score.

    Raises:
      InputError: there is none.
    """
    path = pathlib.Path(path).absolute()
    if (path / _STATE).is_dir() and (path / _META).is_dir():
        return path
    workdir = path.parent if path.name == "checkpoints" else path
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"{path}: no checkpoint here; expected a workdir, its checkpoints folder, "
                         "or the folder of one step")
    for folder in _step_folders(workdir):  # a score that was changed would hide the best
        _check_score(folder, read_meta(folder))
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.best() or checkpoints.latest()
    if found is None:
        raise InputError(f"{path}: holds no finished checkpoint")
    return found


def _step_folders(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Those of the checkpoints that were finished."""
    return sorted((folder for folder in (workdir / "checkpoints").glob("*")
                   if folder.name.isdigit()), reverse=True)


def _digest(tree: Any) -> str:
    return arrays_digest(sorted(_leaves(tree), key=lambda named: named[0]))


def _signed(meta: dict[str, Any], state: Mapping[str, Any], *, score: float | None = None
            ) -> dict[str, Any]:
    """Metadata with what proves later that nothing of a checkpoint has changed."""
    content = {name: value for name, value in json.loads(json.dumps(meta)).items()
               if name != "meta_sha256"} | {
        "sha256": {name: _digest(tree) for name, tree in state.items()}, "score": score}
    return content | {"meta_sha256": json_digest(content)}


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
    """What was saved beside the state: `step`, `epoch`, `config`.

    Raises:
      InputError: it cannot be read, or has changed since.
    """
    try:
        with _alone(ocp.JsonCheckpointHandler()) as checkpointer:
            meta = checkpointer.restore(folder / _META)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: its metadata cannot be read ({error})") from error
    missing = {"step", "epoch", "config"} - (meta.keys() if isinstance(meta, dict) else set())
    if missing:
        raise InputError(f"{folder}: its metadata lack {', '.join(sorted(missing))}")
    content = {name: value for name, value in meta.items() if name != "meta_sha256"}
    # Checkpoints of earlier versions have no digests.
    if {"sha256", "meta_sha256"} & meta.keys() and meta.get("meta_sha256") != json_digest(content):
        raise InputError(f"{folder}: the checkpoint is damaged (its metadata have changed)")
    return meta


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [("/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k))))
                      for k in path), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in _leaves(tree)}


def _saved_tree(folder: pathlib.Path) -> Any:
    """The shapes and dtypes of a saved state."""
    with _alone(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            metadata = checkpointer.metadata(folder / _STATE).item_metadata
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: the checkpoint is damaged ({error!r})") from error
    if metadata is None:
        raise InputError(f"{folder}: the checkpoint is damaged (its tree cannot be read)")
    return metadata.tree


def _restore(folder: pathlib.Path, like: Any) -> Any:
    """Reads the part of a saved state that `like` has; raises `InputError` if it does not fit."""
    digests = read_meta(folder).get("sha256", {})
    with _alone(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = _shapes(_saved_tree(folder))
        wanted = _shapes(like)
        top_levels = {name.split("/")[0] for name in wanted}
        differing = [name for name in sorted(saved.keys() | wanted.keys())
                     if name.split("/")[0] in top_levels and saved.get(name) != wanted.get(name)]
        if differing:
            name = differing[0]
            raise InputError(
                f"{folder}: does not fit this model: {len(differing)} arrays differ, the first "
                f"{name}: {saved.get(name, 'absent')} in the checkpoint, "
                f"{wanted.get(name, 'absent')} in the model")
        try:
            restored = checkpointer.restore(folder / _STATE, args=ocp.args.PyTreeRestore(
                item=like, partial_restore=True,
                restore_args=ocp.checkpoint_utils.construct_restore_args(like)))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: the checkpoint is damaged ({error})") from error
    for name, tree in (restored if isinstance(restored, dict) else vars(restored)).items():
        if name in digests and _digest(tree) != digests[name]:
            raise InputError(f"{folder}: the checkpoint is damaged (the SHA-256 of its {name} is "
                             "not that of what was saved)")
    return restored


def _check_score(folder: pathlib.Path, meta: dict[str, Any]) -> None:
    """Refuses a checkpoint whose score is not that of what was saved."""
    if meta.get("score") is None:
        return
    try:
        with _alone(ocp.JsonCheckpointHandler(_METRICS)) as checkpointer:
            same = _score(checkpointer.restore(folder / _METRICS)) == meta["score"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: its score cannot be read ({error!r})") from error
    if not same:
        raise InputError(f"{folder}: the checkpoint is damaged (its score has changed)")


def _check_sound(folder: pathlib.Path) -> None:
    """Reads all of a checkpoint of a run; raises any of several errors if something changed."""
    meta = read_meta(folder)
    if meta["step"] != int(folder.name):
        raise InputError(f"it says that it is of step {meta['step']}")
    _check_score(folder, meta)
    _restore(folder, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype),
                                  _saved_tree(folder)))


def set_aside_damaged(workdir: str | os.PathLike) -> list[str]:
    """Moves the damaged checkpoints of a run into its folder `damaged`.

    The run then goes on from the latest of those that are left. For a workdir that no
    `Checkpoints` has open.

    Returns:
      A line on each that was damaged.

    Raises:
      InputError: there are several, and none can be read; all of them stay.
    """
    workdir = pathlib.Path(workdir).absolute()
    for unfinished in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(unfinished)  # of a run that was killed, or whose disk was full
    steps = _step_folders(workdir)
    damaged = {}
    for folder in steps:
        try:
            _check_sound(folder)
        except MemoryError:
            raise
        except Exception as error:  # damage takes any form in orbax and tensorstore
            damaged[folder] = first_line(error).removeprefix(f"{folder}: ")
    # Rather a disk that cannot be read now than damage, which comes to one.
    if len(damaged) == len(steps) > 1:
        folder, reason = damaged.popitem()
        raise InputError(f"{folder}: {reason}; nor can any other checkpoint of the run be read. "
                         f"Remove {folder.parent} to start anew")
    lines = []
    for folder, reason in damaged.items():
        target = workdir / "damaged" / folder.name
        while target.exists():
            target = target.with_name(f"{target.name}.again")
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder, target)
        lines.append(f"{folder}: {reason}; set aside as {target}")
    return lines


def restore_state(folder: pathlib.Path, like: TrainState) -> TrainState:
    """Reads a whole state.

    Args:
      folder: of one step, from `locate`, `Checkpoints.latest` or `.best`.
      like: a state of the same tree; only its shapes, dtypes and shardings are used,
        so `jax.ShapeDtypeStruct`s do as well.

    Raises:
      InputError: the saved tree has other leaves or shapes, or cannot be read.
    """
    return _restore(folder, like)


def _model_in(tree: Mapping[str, Any]) -> str:
    """Which part of a saved state is the model: as `TrainState.model` has it."""
    return "average" if tree.get("average") else "generator"


def restore_generator(folder: pathlib.Path, like: dict[str, Any]) -> dict[str, Any]:
    """Reads the variables of the model alone, whatever the discriminators are.

    The model is the generator, or the average of its weights where the state keeps one.

    Args:
      folder: of one step, from `locate`, `Checkpoints.latest` or `.best`.
      like: {"params": …, "batch_stats": …} of the same tree.

    Raises:
      InputError: the saved tree has other leaves or shapes, or cannot be read.
    """
    name = _model_in(_saved_tree(folder))
    return _restore(folder, {name: like})[name]


def save_weights(folder: str | os.PathLike, weights: Weights, meta: dict[str, Any]) -> None:
    """Writes a checkpoint of networks alone, from which no training can go on.

    Args:
      folder: to make; visible only once it is whole.
      weights: of the networks.
      meta: JSON values, among them `step`, `epoch` and `config`.

    Raises:
      InputError: the folder exists.
    """
    folder = pathlib.Path(folder).absolute()
    refuse_existing(folder)
    generator = dict(weights.generator)
    networks = {_COUNTS: generator.pop(_COUNTS), "generator": generator,
                "discriminators": weights.discriminators}
    with _alone(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.Composite(**{
            _STATE: ocp.args.StandardSave(networks),
            _META: ocp.args.JsonSave(_signed(meta, networks))}))


def load_weights(paths: Sequence[str | os.PathLike], *, container: str | None = None
                 ) -> LoadedWeights:
    """Reads the networks of a checkpoint or of files of weights, as NumPy arrays.

    Args:
      paths: the name of pretrained weights, one that `locate` takes, or one or more files,
        PyTorch's or safetensors'.
      container: see `read_weights`.

    Raises:
      InputError: there is no checkpoint and no file, or it cannot be used.
    """
    if len(paths) == 1:
        paths = [pretrained.resolve(paths[0])]
    if all(pathlib.Path(path).is_file() for path in paths):
        return read_weights(paths, container=container)
    if len(paths) > 1:
        raise InputError(f"{', '.join(map(str, paths))}: expected one checkpoint, or files of "
                         "weights that all exist")
    if container is not None:
        raise InputError(f"{paths[0]}: is no file of weights; only those have containers")
    folder = locate(paths[0])
    meta = read_meta(folder)
    saved = _saved_tree(folder)
    model = _model_in(saved)
    like = {name: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
            for name, tree in saved.items() if name in (_COUNTS, model, "discriminators")}
    if model not in like:
        raise InputError(f"{folder}: holds no generator")
    networks = _restore(folder, like)
    generator = networks[model]
    if _COUNTS not in networks:  # a run's own norms have counted a batch in each step
        step = np.int64(meta["step"] or 0)
        networks[_COUNTS] = _counts(generator["batch_stats"], step)
    unseen = unseen_options(meta["config"]["generator"])
    weights = Weights(generator=generator | {_COUNTS: networks[_COUNTS]},
                      discriminators=networks.get("discriminators", {}), unseen=unseen)
    return LoadedWeights(weights=weights, meta=meta,
                         explanation=[f"{folder}:", *explain_options(unseen),
                                      *explain_state_dicts(weights)])


def _counts(batch_stats: Any, step: np.int64) -> Any:
    """A count for each norm: {"mean": …, "var": …} → step."""
    if "mean" in batch_stats:
        return np.asarray(step)
    return {name: _counts(tree, step) for name, tree in batch_stats.items()}


def workdir_of(folder: pathlib.Path) -> pathlib.Path:
    """The workdir that a checkpoint's folder lies in; itself where it lies in none."""
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder
