"""RED-CNN in files of PyTorch, with the keys of its published code (github.com/SSinyu/RED-CNN)."""

from collections.abc import Mapping

import numpy as np

from dfgan_jax.models.redcnn import REDCNN_ARCHITECTURE, REDCNNOptions
from dfgan_jax.porting.layout import (
    TRANSPOSED_CONV,
    Entry,
    Layout,
    NetworkLayout,
    bias,
    conv,
    kernel,
    size_of,
)


def redcnn_layout(*, width: int = 96) -> Layout:
    """The layout of RED-CNN, as in its PyTorch code (github.com/SSinyu/RED-CNN).

    Args:
      width: channels of every layer but the last.
    """
    layout: dict[str, Entry] = {}
    for i in (1, 2, 3, 4, 5):
        layout |= conv(f"conv{i}", f"conv{i}", width if i > 1 else 1, width, 5)
    for i in (1, 2, 3, 4, 5):
        features = width if i < 5 else 1
        layout |= kernel(f"tconv{i}", f"tconv{i}", (width, features, 5, 5), TRANSPOSED_CONV)
        layout |= bias(f"tconv{i}", f"tconv{i}", features)
    return layout


def _shown(tensors: Mapping[str, np.ndarray]) -> REDCNNOptions | None:
    """A block of NAFNet has five convolutions of these names, too, with other kernels."""
    if "conv1.weight" in tensors and tensors["conv1.weight"].shape[2:] == (1, 1):
        return None
    return REDCNNOptions(width=size_of(tensors, "conv1.weight", 0, default=REDCNNOptions.width))


REDCNN_LAYOUT = NetworkLayout(
    architecture=REDCNN_ARCHITECTURE, layout=lambda options: redcnn_layout(width=options.width),
    keys=redcnn_layout(), shown=_shown, published=(REDCNNOptions(),),
    describe=lambda options: REDCNN_ARCHITECTURE.title)
