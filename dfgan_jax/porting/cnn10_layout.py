"""CNN-10 in files of PyTorch, with the keys of ldct-benchmark (github.com/eeulig/ldct-benchmark).

Its files hold the state dict under `model_state_dict`.
"""

from collections.abc import Mapping

import numpy as np

from dfgan_jax.models.cnn10 import CNN10_ARCHITECTURE, KERNEL_SIZES, CNN10Options, features_of
from dfgan_jax.porting.layout import Entry, Layout, NetworkLayout, conv, size_of

_FIRST = "layers.0.weight"


def _layout(options: CNN10Options) -> Layout:
    layout: dict[str, Entry] = {}
    features = (1, *features_of(options.width))
    for i, size in enumerate(KERNEL_SIZES):
        place = 2 * i  # PyTorch's list has a ReLU between two convolutions
        layout |= conv(f"layers.{place}", f"conv{i + 1}", features[i], features[i + 1], size)
    return layout


def _shown(tensors: Mapping[str, np.ndarray]) -> CNN10Options | None:
    """Recognises CNN-10 by its large first kernel, since many networks have a list of `layers`."""
    if _FIRST in tensors and tensors[_FIRST].shape[2:] != KERNEL_SIZES[:1] * 2:
        return None
    half = size_of(tensors, "layers.2.weight", 0, default=CNN10Options.width // 2)
    return CNN10Options(width=2 * half)


CNN10_LAYOUT = NetworkLayout(
    architecture=CNN10_ARCHITECTURE, layout=_layout, keys=_layout(CNN10Options()), shown=_shown,
    published=(CNN10Options(),), describe=lambda options: CNN10_ARCHITECTURE.title)
