"""Finds slices that are in more than one split, by their digests."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Shaped

from dfgan_jax.support.digests import array_digest
from dfgan_jax.support.errors import InputError


def slice_digests(slices: Iterable[Shaped[np.ndarray, "h w"]]) -> list[str]:
    """The SHA-256 of each slice of (N, H, W), in hexadecimal digits."""
    return [array_digest(one) for one in slices]


def check_no_overlap(splits: dict[str, Sequence[str]]) -> None:
    """Refuses a slice that is in more than one split.

    Args:
      splits: name of the file or split → `slice_digests` of one dose, as read.

    Raises:
      InputError: two splits share a slice; the message names the first one.
    """
    seen: dict[str, tuple[str, int]] = {}
    for name, digests in splits.items():
        for index, digest in enumerate(digests):
            other, other_index = seen.setdefault(digest, (name, index))
            if other != name:
                raise InputError(f"{name}: slice {index} is also slice {other_index} of {other}; "
                                 "a score on slices that were trained on means nothing")
