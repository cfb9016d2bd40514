"""Names, axes and shapes of the published PyTorch networks, mapped to the Flax variables.

A *path* names a leaf of the Flax variables with its collection in front, as in
`params/inc/conv1/kernel` or `batch_stats/inc/norm1/mean`; a *key* names an
entry of a PyTorch state dict, as in `inc.conv.conv.0.weight`.

PyTorch's norms also count the batches that moved their statistics. Nothing reads
the counts; they are kept, so that a file comes back as it was, in a collection of
their own, `batches_tracked`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from dfgan_jax.models.unet import Normalization

COUNTS = "batches_tracked"
"""The collection of the norms' counts of batches."""


class Axes(NamedTuple):
    """A change of layout.

    Letters: o and i are channels out and in, h and w height and width.

    Attributes:
      order: axes of Flax's array, taken from PyTorch's.
      torch: PyTorch's axes.
      flax: Flax's.
    """

    order: tuple[int, ...]
    torch: str
    flax: str


_CONV = Axes((2, 3, 1, 0), "oihw", "hwio")
_DENSE = Axes((1, 0), "oi", "io")
_UP_CONV = Axes((0, 2, 3, 1), "iohw", "ihwo")
_TRANSPOSED_CONV = Axes((2, 3, 0, 1), "iohw", "hwio")


class Entry(NamedTuple):
    """Where an entry of a state dict goes.

    Attributes:
      path: of the Flax variable.
      shape: PyTorch's.
      axes: the change of layout; None where there is none.
    """

    path: str
    shape: tuple[int, ...]
    axes: Axes | None = None

    @property
    def collection(self) -> str:
        """`params`, `batch_stats` or `batches_tracked`."""
        return self.path.split("/")[0]

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else np.transpose(array, self.axes.order)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else np.transpose(array, np.argsort(self.axes.order))


Layout = Mapping[str, Entry]
"""Key → entry, in PyTorch's order."""


def _kernel(key: str, path: str, shape: tuple[int, ...], axes: Axes) -> Layout:
    return {f"{key}.weight": Entry(f"params/{path}/kernel", shape, axes)}


def _bias(key: str, path: str, features: int) -> Layout:
    return {f"{key}.bias": Entry(f"params/{path}/bias", (features,))}


def _conv(key: str, path: str, features_in: int, features: int, size: int) -> Layout:
    return {**_kernel(key, path, (features, features_in, size, size), _CONV),
            **_bias(key, path, features)}


def _dense(key: str, path: str, features_in: int, features: int) -> Layout:
    return {**_kernel(key, path, (features, features_in), _DENSE), **_bias(key, path, features)}


def _norm(key: str, path: str, features: int) -> Layout:
    return {f"{key}.weight": Entry(f"params/{path}/scale", (features,)),
            f"{key}.bias": Entry(f"params/{path}/bias", (features,)),
            f"{key}.running_mean": Entry(f"batch_stats/{path}/mean", (features,)),
            f"{key}.running_var": Entry(f"batch_stats/{path}/var", (features,)),
            f"{key}.num_batches_tracked": Entry(f"{COUNTS}/{path}", ())}


def _affine(key: str, path: str, features: int) -> Layout:
    return {f"{key}.weight": Entry(f"params/{path}/scale", (features,)),
            **_bias(key, path, features)}


def _double_conv(key: str, path: str, features_in: int, features: int,
                 normalization: Normalization) -> Layout:
    layout: dict[str, Entry] = {}
    for number, channels in ((1, features_in), (2, features)):
        conv = 3 * number - 3  # place in PyTorch's sequence of conv, norm and ReLU, twice
        layout |= _kernel(f"{key}.{conv}", f"{path}/conv{number}", (features, channels, 3, 3),
                          _CONV)
        if normalization == "none":
            layout |= _bias(f"{key}.{conv}", f"{path}/conv{number}", features)
        else:
            norm = _norm if normalization == "batch" else _affine
            layout |= norm(f"{key}.{conv + 1}", f"{path}/norm{number}", features)
    return layout


def _cbam(key: str, path: str, features: int) -> Layout:
    hidden = max(features // 16, 1)
    return {**_dense(f"{key}.ChannelGate.mlp.1", f"{path}/channel_gate/hidden", features, hidden),
            **_dense(f"{key}.ChannelGate.mlp.3", f"{path}/channel_gate/out", hidden, features),
            **_kernel(f"{key}.SpatialGate.spatial.conv", f"{path}/spatial_gate/conv",
                      (1, 2, 7, 7), _CONV),
            **_norm(f"{key}.SpatialGate.spatial.bn", f"{path}/spatial_gate/norm", 1)}


def generator_layout(*, attention: bool, width: int = 32, add_image: bool = True,
                     normalization: Normalization = "batch") -> Layout:
    """The layout of the U-Net.

    Args:
      attention: with CBAM.
      width: channels of its first stage.
      add_image: see `UNet`.
      normalization: see `UNet`.
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
        layout |= _kernel(f"up{i}.up", f"up{i}_conv", (2 * features, features, 2, 2), _UP_CONV)
        layout |= _bias(f"up{i}.up", f"up{i}_conv", features)
        layout |= _double_conv(f"up{i}.conv.conv", f"up{i}", 2 * features, features,
                               normalization)
        if attention:
            layout |= _cbam(f"up{i}.attn", f"up{i}_cbam", features)
    layout |= _conv("outc", "outc", width, 1, 3)
    for stride in (8, 4, 2) if add_image else ():
        layout |= _conv(f"size_down{stride}", f"size_down{stride}", 1, 1, stride)
    return layout


def redcnn_layout(*, width: int = 96) -> Layout:
    """The layout of RED-CNN, as in its PyTorch code (github.com/SSinyu/RED-CNN).

    Args:
      width: channels of every layer but the last.
    """
    layout: dict[str, Entry] = {}
    for i in (1, 2, 3, 4, 5):
        layout |= _conv(f"conv{i}", f"conv{i}", width if i > 1 else 1, width, 5)
    for i in (1, 2, 3, 4, 5):
        features = width if i < 5 else 1
        layout |= _kernel(f"tconv{i}", f"tconv{i}", (width, features, 5, 5), _TRANSPOSED_CONV)
        layout |= _bias(f"tconv{i}", f"tconv{i}", features)
    return layout


def discriminator_layout(*, channels: int = 2, width: int = 128) -> Layout:
    """The layout of a discriminator.

    Args:
      channels: of its input: 2 for the joint one, 1 for each of a pair.
      width: channels of its first layer.
    """
    layout: dict[str, Entry] = {}
    for i, (features_in, features) in enumerate(
            [(channels, width), (width, 2 * width), (2 * width, 4 * width),
             (4 * width, 4 * width)], start=1):
        layout |= _conv(f"conv{i}.0", f"conv{i}", features_in, features, 4)
    layout |= _conv("out_conv.0", "out_conv", 4 * width, 1, 4)
    return layout


def from_state_dict(state_dict: Mapping[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    """The Flax variables that hold a state dict's arrays.

    Args:
      state_dict: key → array; must hold every key of the layout.
      layout: from `generator_layout`, `redcnn_layout` or `discriminator_layout`.

    Returns:
      {"params": …, "batch_stats": …, "batches_tracked": …}, nested, those of them
      that there are.
    """
    flat = {entry.path: entry.from_torch(np.asarray(state_dict[key]))
            for key, entry in layout.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def to_state_dict(variables: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`; keys whose collection is not given are left out.

    Args:
      variables: any of {"params": …, "batch_stats": …, "batches_tracked": …}, nested.
      layout: from `generator_layout`, `redcnn_layout` or `discriminator_layout`.

    Returns:
      key → array in PyTorch's axes.
    """
    flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    return {key: entry.to_torch(np.asarray(flat[entry.path])) for key, entry in layout.items()
            if entry.collection in variables}
