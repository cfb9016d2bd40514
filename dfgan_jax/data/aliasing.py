"""The share of pixels that the bilinear resize without antialiasing reads."""

from collections.abc import Iterable

import numpy as np

Size = tuple[int, int]
"""Height and width [pixels]."""


def share_read(native: Size, resized: Size) -> float:
    """The share of a slice's pixels that the resize reads: above 0, at most 1.

    Each new pixel is a mean of at most two neighbours in either direction (see
    `resizing.resize`), so that below half the size pixels are skipped: noise and structure of
    their frequencies alias.
    """
    share = 1.0
    for before, after in zip(native, resized, strict=True):
        places = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
        share *= len(np.unique([np.floor(places), np.ceil(places)])) / before
    return share


def aliasing_notes(sizes: Iterable[tuple[Size, Size]]) -> list[str]:
    """A sentence on each resize that skips pixels, without repetitions.

    Args:
      sizes: native and new size of files.
    """
    return [f"The resize from {native[0]}×{native[1]} to {resized[0]}×{resized[1]} pixels has no "
            f"antialiasing, as published: it reads {share:.0%} of the pixels, so that noise and "
            "fine structure alias, unlike those of a scan with such pixels."
            for native, resized in dict.fromkeys(sizes)
            if (share := share_read(native, resized)) < 1]
