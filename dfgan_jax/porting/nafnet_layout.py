"""NAFNet in files of PyTorch, with the keys of its published code.

The code is github.com/megvii-research/NAFNet; its files keep the keys under `params`.
"""

from collections.abc import Mapping

import numpy as np

from dfgan_jax.models.nafnet import (
    MAX_BLOCKS,
    MAX_STAGES,
    NAFNET_ARCHITECTURE,
    NAFNetOptions,
    blocks_of,
)
from dfgan_jax.porting.layout import (
    CONV,
    Axes,
    Entry,
    Layout,
    NetworkLayout,
    affine,
    bias,
    conv,
    kernel,
    size_of,
)

_GAIN = Axes((0, 2, 3, 1), "1o11", "111o")

_LARGEST = NAFNetOptions(blocks=",".join([str(MAX_BLOCKS)] * (2 * MAX_STAGES + 1)))


def _block(key: str, path: str, channels: int) -> Layout:
    layout: dict[str, Entry] = {
        f"{key}.{name}": Entry(f"params/{path}/{name}", (1, channels, 1, 1), _GAIN)
        for name in ("beta", "gamma")}
    layout |= conv(f"{key}.conv1", f"{path}/conv1", channels, 2 * channels, 1)
    layout |= kernel(f"{key}.conv2", f"{path}/conv2", (2 * channels, 1, 3, 3), CONV)
    layout |= bias(f"{key}.conv2", f"{path}/conv2", 2 * channels)
    layout |= conv(f"{key}.conv3", f"{path}/conv3", channels, channels, 1)
    layout |= conv(f"{key}.sca.1", f"{path}/sca", channels, channels, 1)
    layout |= conv(f"{key}.conv4", f"{path}/conv4", channels, 2 * channels, 1)
    layout |= conv(f"{key}.conv5", f"{path}/conv5", channels, channels, 1)
    for name in ("norm1", "norm2"):
        layout |= affine(f"{key}.{name}", f"{path}/{name}", channels)
    return layout


def _layout(options: NAFNetOptions) -> Layout:
    encoder, middle, decoder = blocks_of(options)
    deepest = options.width << len(encoder)
    layout = {**conv("intro", "intro", 1, options.width, 3),
              **conv("ending", "ending", options.width, 1, 3)}
    for level, count in enumerate(encoder):
        for i in range(count):
            layout |= _block(f"encoders.{level}.{i}", f"encoder{level}_{i}", options.width << level)
    for level, count in enumerate(decoder):
        for i in range(count):
            layout |= _block(f"decoders.{level}.{i}", f"decoder{level}_{i}", deepest >> level + 1)
    for i in range(middle):
        layout |= _block(f"middle_blks.{i}", f"middle_{i}", deepest)
    for level in range(len(decoder)):
        channels = deepest >> level
        layout |= kernel(f"ups.{level}.0", f"up{level}", (2 * channels, channels, 1, 1), CONV)
    for level in range(len(encoder)):
        channels = options.width << level
        layout |= conv(f"downs.{level}", f"down{level}", channels, 2 * channels, 2)
    return layout


def _count(tensors: Mapping[str, np.ndarray], key: str) -> int:
    """Blocks of a stage."""
    return next(i for i in range(MAX_BLOCKS + 1)
                if i == MAX_BLOCKS or f"{key}.{i}.beta" not in tensors)


def _shown(tensors: Mapping[str, np.ndarray]) -> NAFNetOptions | None:
    stages = next(i for i in range(MAX_STAGES + 1)
                  if i == MAX_STAGES or f"downs.{i}.weight" not in tensors)
    counts = [*(_count(tensors, f"encoders.{level}") for level in range(stages)),
              _count(tensors, "middle_blks"),
              *(_count(tensors, f"decoders.{level}") for level in range(stages))]
    if not stages or not sum(counts):
        return None
    return NAFNetOptions(width=size_of(tensors, "intro.weight", 0, default=NAFNetOptions.width),
                         blocks=",".join(map(str, counts)))


NAFNET_LAYOUT = NetworkLayout(
    architecture=NAFNET_ARCHITECTURE, layout=_layout,
    keys=_layout(_LARGEST), shown=_shown, published=(NAFNetOptions(),),
    describe=lambda options: f"{NAFNET_ARCHITECTURE.title} of {options.blocks} blocks")
