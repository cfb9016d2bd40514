"""Networks without the state of their training, in a checkpoint or in files of weights."""

import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from dfgan_jax import pretrained
from dfgan_jax.checkpoints.folder import (
    META,
    STATE,
    alone,
    locate,
    model_in,
    read_meta,
    restore,
    saved_tree,
    signed,
)
from dfgan_jax.porting.torch_layout import COUNTS as _COUNTS
from dfgan_jax.porting.weights import (
    LoadedWeights,
    Weights,
    explain_options,
    explain_state_dicts,
    read_weights,
    unseen_options,
)
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import refuse_existing
from dfgan_jax.support.types import JsonObject


def save_weights(folder: str | os.PathLike[str], weights: Weights, meta: JsonObject) -> None:
    """Writes a checkpoint of only the networks, which training cannot continue.

    Args:
      folder: to create, atomically.
      weights: of the networks.
      meta: JSON values, including `step`, `epoch` and `config`.

    Raises:
      InputError: the folder exists.
    """
    folder = pathlib.Path(folder).absolute()
    refuse_existing(folder)
    generator = dict(weights.generator)
    networks = {_COUNTS: generator.pop(_COUNTS), "generator": generator,
                "discriminators": weights.discriminators}
    with alone(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.Composite(**{
            STATE: ocp.args.StandardSave(networks),
            META: ocp.args.JsonSave(signed(meta, networks))}))


def load_weights(paths: Sequence[str | os.PathLike[str]], *, container: str | None = None
                 ) -> LoadedWeights:
    """Reads the networks of a checkpoint or of files of weights, as NumPy arrays.

    Args:
      paths: the name of pretrained weights, a path for `locate`, or one or more files in
        PyTorch's or the safetensors format.
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
    saved = saved_tree(folder)
    model = model_in(saved)
    like = {name: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
            for name, tree in saved.items() if name in (_COUNTS, model, "discriminators")}
    if model not in like:
        raise InputError(f"{folder}: holds no generator")
    networks = restore(folder, like)
    generator = networks[model]
    if _COUNTS not in networks:  # the norms of a run have counted one batch in each step
        step = np.int64(meta["step"] or 0)
        networks[_COUNTS] = _counts(generator["batch_stats"], step)
    unseen = unseen_options(meta["config"]["generator"])
    weights = Weights(generator=generator | {_COUNTS: networks[_COUNTS]},
                      discriminators=networks.get("discriminators", {}), unseen=unseen)
    return LoadedWeights(weights=weights, meta=meta,
                         explanation=[f"{folder}:", *explain_options(unseen),
                                      *explain_state_dicts(weights)])


def _counts(batch_stats: PyTree, step: np.int64) -> PyTree:
    """Replaces the statistics of each norm, {"mean": …, "var": …}, by its count."""
    if "mean" in batch_stats:
        return np.asarray(step)
    return {name: _counts(tree, step) for name, tree in batch_stats.items()}


