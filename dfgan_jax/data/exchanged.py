"""Notices pairs whose doses look exchanged, by their noise."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from dfgan_jax.data.pairs import Pairs
from dfgan_jax.support.spacing import evenly_spaced
from dfgan_jax.support.wording import counted

_MOST_SLICES = 8
"""Of each file, evenly spaced."""


def is_noisier(one: Float[np.ndarray, "h w"], other: Float[np.ndarray, "h w"]) -> bool:
    """Whether a slice is noisier than another of the same anatomy and unit."""
    return _roughness(one) > _roughness(other)


def exchanged_notes(files: Mapping[str, Pairs]) -> list[str]:
    """A sentence on each file whose normal dose is the noisier one in most of some slices.

    Args:
      files: name → pairs.
    """
    notes = []
    for name, pairs in files.items():
        rows = evenly_spaced(len(pairs), most=_MOST_SLICES)
        noisier = sum(is_noisier(pairs.ndct[row], pairs.qdct[row]) for row in rows)
        if noisier > len(rows) / 2:
            notes.append(f"{name}: the normal dose (f_nd) is noisier than the low dose (f_qd) in "
                         f"{noisier} of {counted(len(rows), 'slice')}: are the doses exchanged?")
    return notes


def _roughness(slice_: Float[np.ndarray, "h w"]) -> float:
    """Mean absolute second difference along rows, dominated by noise rather than anatomy."""
    return float(np.abs(np.diff(slice_, 2, axis=1)).mean())
