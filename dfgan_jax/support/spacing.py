"""Some of many slices, evenly spaced."""

import numpy as np
from jaxtyping import Integer


def evenly_spaced(count: int, *, most: int) -> Integer[np.ndarray, " chosen"]:
    """Indices of at most `most` of `count` slices, with the first and the last among them.

    A single one is the middle slice: the first slice of a scan shows little.
    """
    if min(count, most) == 1:
        return np.array([count // 2])
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
