"""Initial weights that need no compilation."""

import jax
import numpy as np


def drawn(shapes, seed=0):
    """Variables of these shapes: kernels with the variance of the package's initialisation.

    To compile `init` takes about as long as half of a training step: it draws each kernel in a
    loop of its own.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            bound = np.sqrt(6 / np.prod(leaf.shape[:-1]))
            return rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)
        return (np.ones if name in ("scale", "var") else np.zeros)(leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
