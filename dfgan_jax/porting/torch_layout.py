"""Names, axes and shapes of the published PyTorch networks, mapped to the Flax variables.

`layout.py` defines layouts, `*_layout.py` those of the generators, and `LAYOUTS` lists them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from dfgan_jax.porting.cnn10_layout import CNN10_LAYOUT
from dfgan_jax.porting.layout import (
    COUNTS,
    Entry,
    Layout,
    NetworkLayout,
    conv,
    flattened,
    nested,
)
from dfgan_jax.porting.nafnet_layout import NAFNET_LAYOUT
from dfgan_jax.porting.redcnn_layout import REDCNN_LAYOUT, redcnn_layout
from dfgan_jax.porting.unet_layout import UNET_LAYOUT, generator_layout

__all__ = ["COUNTS", "LAYOUTS", "Entry", "Layout", "discriminator_layout", "from_state_dict",
           "generator_layout", "redcnn_layout", "to_state_dict"]

LAYOUTS: dict[str, NetworkLayout[Any]] = {each.architecture.name: each for each in (
    UNET_LAYOUT,
    REDCNN_LAYOUT,
    CNN10_LAYOUT,
    NAFNET_LAYOUT,
)}
"""Name of the architecture → its layout in files of PyTorch."""


def discriminator_layout(*, channels: int = 2, width: int = 128) -> Layout:
    """The layout of a discriminator.

    Args:
      channels: of the input: 2 for the joint discriminator, 1 for each of a pair.
      width: channels of the first layer.
    """
    layout: dict[str, Entry] = {}
    for i, (features_in, features) in enumerate(
            [(channels, width), (width, 2 * width), (2 * width, 4 * width),
             (4 * width, 4 * width)], start=1):
        layout |= conv(f"conv{i}.0", f"conv{i}", features_in, features, 4)
    layout |= conv("out_conv.0", "out_conv", 4 * width, 1, 4)
    return layout


def from_state_dict(state_dict: Mapping[str, np.ndarray], layout: Layout) -> dict[str, PyTree]:
    """Converts a state dict to Flax variables.

    Args:
      state_dict: key → array, for every key of the layout.
      layout: of a generator, or from `discriminator_layout`.

    Returns:
      {"params": …, "batch_stats": …, "batches_tracked": …}, nested, without collections that
      the layout lacks.

    Raises:
      KeyError: a key is missing.
    """
    flat = {entry.path: entry.from_torch(np.asarray(state_dict[key]))
            for key, entry in layout.items()}
    return nested(flat)


def to_state_dict(variables: Mapping[str, PyTree], layout: Layout) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`; keys of missing collections are left out.

    Args:
      variables: any of {"params": …, "batch_stats": …, "batches_tracked": …}, nested.
      layout: of a generator, or from `discriminator_layout`.

    Returns:
      key → array in PyTorch's axes.
    """
    flat = flattened(variables)
    return {key: entry.to_torch(np.asarray(flat[entry.path])) for key, entry in layout.items()
            if entry.collection in variables}
