"""A wider U-Net that starts as a narrower one (Net2WiderNet, Chen et al., ICLR 2016)."""

import jax
import numpy as np
from jaxtyping import PyTree

NEW_WEIGHTS = 0.1
"""Factor of the random weights of new channels. With 1 the output of a trained network of width 24
exploded within 20 updates by Muon, and the training had to begin again."""


def is_narrower(narrow: PyTree, wide: PyTree) -> bool:
    """Whether variables are of a U-Net without attention like another, of fewer channels."""
    layers = wide["params"]
    if "up1_conv" not in layers or any(layer.endswith("_cbam") for layer in layers):
        return False
    if _paths(narrow) != _paths(wide):
        return False
    channels, wider = (int(tree["params"]["up1_conv"]["bias"].size) for tree in (narrow, wide))
    return channels < wider


def _paths(variables: PyTree) -> list[str]:
    return [jax.tree_util.keystr(path)
            for path, _ in jax.tree_util.tree_leaves_with_path(variables)]


def widen(narrow: PyTree, wide: PyTree) -> PyTree:
    """Variables with which a wide U-Net without attention equals a narrow one.

    The narrow network's channels come first in each stage, with its weights. They take nothing
    from the new channels: these weights are zero, and have gradients from the first step on. The
    new channels keep their random weights, times `NEW_WEIGHTS`. Chen et al. copy channels instead,
    which then learn alike.

    Args:
      narrow: variables of the narrow `UNet`.
      wide: random variables of the wide one, of the same tree.

    Returns:
      Variables of the shapes of `wide`, as NumPy arrays.
    """
    return jax.tree_util.tree_map_with_path(_widen_leaf, wide, narrow)


def _widen_leaf(path: tuple[jax.tree_util.DictKey, ...], wide: np.ndarray, narrow: np.ndarray
                ) -> np.ndarray:
    """One array: a kernel, or one value for each channel."""
    *_, stage, layer, name = ("", "", *(key.key for key in path))
    widened, outputs = np.array(wide), narrow.shape[-1]
    if name != "kernel":
        widened[:outputs] = narrow
        return widened
    is_transposed = stage.endswith("_conv") or layer.endswith("_conv")
    axis = 0 if is_transposed else narrow.ndim - 2
    # An up stage takes the channels of the skip and those from below, side by side.
    parts = 2 if stage.startswith("up") and layer == "conv1" else 1
    taken = np.arange(narrow.shape[axis]).reshape(parts, -1)
    taken += (np.arange(parts) * (wide.shape[axis] - narrow.shape[axis]) // parts)[:, None]
    widened *= NEW_WEIGHTS
    widened[..., :outputs] = 0
    index: list[slice | np.ndarray] = [slice(None)] * narrow.ndim
    index[axis], index[-1] = taken.ravel(), slice(outputs)
    widened[tuple(index)] = narrow
    return widened
