"""The slices of a file of pairs, in HU and in memory."""

import numpy as np

from dfgan_jax.data.pairs_file import read_pairs
from dfgan_jax.scans import hounsfield


def read_hu(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The quarter dose and the normal dose, (N, H, W) each.

    Raises:
      InputError: the file cannot be used.
    """
    qdct, ndct = zip(*((np.asarray(block.qdct), np.asarray(block.ndct))
                       for block in read_pairs(path).blocks()), strict=True)
    return (hounsfield.mu_to_hu(np.concatenate(qdct)), hounsfield.mu_to_hu(np.concatenate(ndct)))
