"""The U-Net in files of PyTorch, with the keys of DFGAN's published code."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from dfgan_jax.models.unet import UNET, Normalization, UNetOptions
from dfgan_jax.porting.layout import (
    CONV,
    UP_CONV,
    Entry,
    Layout,
    NetworkLayout,
    affine,
    bias,
    conv,
    dense,
    kernel,
    needed,
    norm,
    size_of,
)


def _double_conv(key: str, path: str, features_in: int, features: int,
                 normalization: Normalization) -> Layout:
    layout: dict[str, Entry] = {}
    for number, channels in ((1, features_in), (2, features)):
        place = 3 * number - 3  # in PyTorch's sequence of conv, norm and ReLU, twice
        layout |= kernel(f"{key}.{place}", f"{path}/conv{number}", (features, channels, 3, 3),
                         CONV)
        if normalization == "none":
            layout |= bias(f"{key}.{place}", f"{path}/conv{number}", features)
        else:
            normalized = norm if normalization == "batch" else affine
            layout |= normalized(f"{key}.{place + 1}", f"{path}/norm{number}", features)
    return layout


def _cbam(key: str, path: str, features: int) -> Layout:
    hidden = max(features // 16, 1)
    return {**dense(f"{key}.ChannelGate.mlp.1", f"{path}/channel_gate/hidden", features, hidden),
            **dense(f"{key}.ChannelGate.mlp.3", f"{path}/channel_gate/out", hidden, features),
            **kernel(f"{key}.SpatialGate.spatial.conv", f"{path}/spatial_gate/conv",
                     (1, 2, 7, 7), CONV),
            **norm(f"{key}.SpatialGate.spatial.bn", f"{path}/spatial_gate/norm", 1)}


def generator_layout(*, attention: bool, width: int = 32, add_image: bool = True,
                     normalization: Normalization = "batch") -> Layout:
    """The layout of the U-Net.

    Args:
      attention: True for CBAM.
      width: channels of the first stage.
      add_image: see `UNetOptions`.
      normalization: see `UNetOptions`.
    """
    layout = dict(_double_conv("inc.conv.conv", "inc", 1, width, normalization))
    for i in (1, 2, 3, 4):
        features = width << i
        layout |= _double_conv(f"down{i}.mpconv.1.conv", f"down{i}", features // 2, features,
                               normalization)
        if attention:
            layout |= _cbam(f"down{i}.attn", f"down{i}_cbam", features)
    for i in (1, 2, 3, 4):
        features = width << (4 - i)
        layout |= kernel(f"up{i}.up", f"up{i}_conv", (2 * features, features, 2, 2), UP_CONV)
        layout |= bias(f"up{i}.up", f"up{i}_conv", features)
        layout |= _double_conv(f"up{i}.conv.conv", f"up{i}", 2 * features, features,
                               normalization)
        if attention:
            layout |= _cbam(f"up{i}.attn", f"up{i}_cbam", features)
    layout |= conv("outc", "outc", width, 1, 3)
    for stride in (8, 4, 2) if add_image else ():
        layout |= conv(f"size_down{stride}", f"size_down{stride}", 1, 1, stride)
    return layout


def _layout(options: UNetOptions) -> Layout:
    return generator_layout(attention=options.attention, width=options.width,
                            add_image=options.add_image, normalization=options.normalization)


def _describe(options: UNetOptions) -> str:
    return "AttnDFGAN's U-Net with CBAM" if options.attention else "DFGAN's U-Net"


_KEYS = {**generator_layout(attention=True),
         **generator_layout(attention=True, normalization="none")}


def _shown(tensors: Mapping[str, np.ndarray]) -> UNetOptions:
    """Reads the options from tensors; `add_image` is the published one if tensors are missing."""
    options = UNetOptions(
        width=size_of(tensors, "inc.conv.conv.0.weight", 0, default=UNetOptions.width),
        attention=any(key in _KEYS and ".attn." in key for key in tensors),
        normalization=_normalization(tensors))
    without_image = dataclasses.replace(options, add_image=False)
    keys = _layout(without_image).keys()
    whole = all(key in tensors for key in needed(_layout(without_image)))
    adds = any(key in tensors for key in _layout(options).keys() - keys)
    return options if adds or not whole else without_image


def _normalization(tensors: Mapping[str, np.ndarray]) -> Normalization:
    """The normalisation of the stages; batch normalisation, as published, if it has no keys."""
    first = "inc.conv.conv.1."
    if f"{first}weight" in tensors and f"{first}running_mean" not in tensors:
        return "group"
    if "inc.conv.conv.0.bias" in tensors and f"{first}weight" not in tensors:
        return "none"
    return "batch"


UNET_LAYOUT = NetworkLayout(
    architecture=UNET, layout=_layout, keys=_KEYS, shown=_shown,
    published=(UNetOptions(attention=True), UNetOptions()), describe=_describe,
    is_told_by_one_key=True)
