"""Names and axes of the published PyTorch networks, mapped to the Flax variables.

A *path* names a leaf of the Flax variables with its collection in front, as in
`params/inc/conv1/kernel` or `batch_stats/inc/norm1/mean`; a *key* names an
entry of a PyTorch state dict, as in `inc.conv.conv.0.weight`.
"""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

Layout = Mapping[str, tuple[str, tuple[int, ...] | None]]
"""Key → (path, axes to take from PyTorch's; None where the axes agree)."""

# Axes of a Flax kernel, taken from PyTorch's.
_CONV = (2, 3, 1, 0)            # (out, in, kh, kw) -> (kh, kw, in, out)
_DENSE = (1, 0)                 # (out, in) -> (in, out)
_UP_CONV = (0, 2, 3, 1)         # (in, out, kh, kw) -> (in, kh, kw, out)


def _layer(key: str, path: str, axes: tuple[int, ...]) -> Layout:
    return {**_layer_without_bias(key, path, axes), f"{key}.bias": (f"params/{path}/bias", None)}


def _layer_without_bias(key: str, path: str, axes: tuple[int, ...]) -> Layout:
    return {f"{key}.weight": (f"params/{path}/kernel", axes)}


def _norm(key: str, path: str) -> Layout:
    return {f"{key}.weight": (f"params/{path}/scale", None),
            f"{key}.bias": (f"params/{path}/bias", None),
            f"{key}.running_mean": (f"batch_stats/{path}/mean", None),
            f"{key}.running_var": (f"batch_stats/{path}/var", None)}


def _double_conv(key: str, path: str) -> Layout:
    return {**_layer_without_bias(f"{key}.0", f"{path}/conv1", _CONV),
            **_norm(f"{key}.1", f"{path}/norm1"),
            **_layer_without_bias(f"{key}.3", f"{path}/conv2", _CONV),
            **_norm(f"{key}.4", f"{path}/norm2")}


def _cbam(key: str, path: str) -> Layout:
    return {**_layer(f"{key}.ChannelGate.mlp.1", f"{path}/channel_gate/hidden", _DENSE),
            **_layer(f"{key}.ChannelGate.mlp.3", f"{path}/channel_gate/out", _DENSE),
            **_layer_without_bias(f"{key}.SpatialGate.spatial.conv", f"{path}/spatial_gate/conv",
                                  _CONV),
            **_norm(f"{key}.SpatialGate.spatial.bn", f"{path}/spatial_gate/norm")}


def generator_layout(*, attention: bool) -> Layout:
    """The layout of the U-Net, in PyTorch's order.

    It leaves out `num_batches_tracked`, which nothing reads.
    """
    layout = dict(_double_conv("inc.conv.conv", "inc"))
    for i in (1, 2, 3, 4):
        layout |= _double_conv(f"down{i}.mpconv.1.conv", f"down{i}")
        if attention:
            layout |= _cbam(f"down{i}.attn", f"down{i}_cbam")
    for i in (1, 2, 3, 4):
        layout |= _layer(f"up{i}.up", f"up{i}_conv", _UP_CONV)
        layout |= _double_conv(f"up{i}.conv.conv", f"up{i}")
        if attention:
            layout |= _cbam(f"up{i}.attn", f"up{i}_cbam")
    for name in ("outc", "size_down8", "size_down4", "size_down2"):
        layout |= _layer(name, name, _CONV)
    return layout


def discriminator_layout() -> Layout:
    """The layout of a discriminator, in PyTorch's order."""
    layout: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    for name in ("conv1", "conv2", "conv3", "conv4", "out_conv"):
        layout |= _layer(f"{name}.0", name, _CONV)
    return layout


def from_state_dict(state_dict: Mapping[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    """The Flax variables that hold a state dict's arrays.

    Args:
      state_dict: key → array; must hold every key of the layout.
      layout: from `generator_layout` or `discriminator_layout`.

    Returns:
      {"params": …, "batch_stats": …}, nested; without `batch_stats` where there is none.
    """
    flat = {}
    for key, (path, axes) in layout.items():
        array = np.asarray(state_dict[key])
        flat[path] = array if axes is None else np.transpose(array, axes)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def to_state_dict(variables: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`; keys whose collection is not given are left out.

    Args:
      variables: any of {"params": …, "batch_stats": …}, nested.
      layout: from `generator_layout` or `discriminator_layout`.

    Returns:
      key → array in PyTorch's axes.
    """
    flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    state_dict = {}
    for key, (path, axes) in layout.items():
        if path.split("/")[0] in variables:
            array = np.asarray(flat[path])
            state_dict[key] = array if axes is None else np.transpose(array, np.argsort(axes))
    return state_dict
