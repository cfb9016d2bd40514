"""CNN-10, the first network for low-dose CT: three convolutions (Chen et al., BOE 2017).

Sources: Chen et al., "Low-dose CT via convolutional neural network", Biomedical Optics Express
8(2), 2017; its layers as ldct-benchmark has them (github.com/eeulig/ldct-benchmark, Eulig et al.,
Medical Physics 2024), `ldctbench/methods/cnn10/network.py`, which gives the name, too.
"""

import dataclasses

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from dfgan_jax.models.architecture import STAGE, Architecture, Generator, supervised
from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import uniform_fan
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.errors import InputError

KERNEL_SIZES = (9, 3, 5)

PUBLISHED_WIDTH = 64

_MEAN_HU = 481.45419786099086 + hounsfield.OUTSIDE_HU
_SD_HU = 502.18507379395044
"""Of ldct-benchmark's training data (its `ldctbench/data/info.yml`, which counts from −1024 HU)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CNN10Options:
    """What a configuration can choose of CNN-10; the default is the published network.

    Attributes:
      width: filters of the first layer, an even number of at least 2; the second has half as many.

    Raises:
      InputError: the width is another.
    """

    width: int = PUBLISHED_WIDTH

    def __post_init__(self):
        if self.width <= 0 or self.width % 2:
            raise InputError(f"width is {self.width}; expected an even number, more than 0")


def features_of(width: int) -> tuple[int, int, int]:
    """Channels of what each layer gives."""
    return width, width // 2, 1


def scaled(hu):
    """Maps HU to the network's own range, in standard deviations from the mean; any shape."""
    return (hu - _MEAN_HU) / _SD_HU


class CNN10(Generator):
    """A 9×9, a 3×3 and a 5×5 convolution; a ReLU follows the first and the second.

    24,513 parameters at width 64. All have stride 1, a bias, and zeros around the image, so that
    its size stays. Nothing is normalised and nothing added: every pixel is made anew. The network
    computes on (HU + 542.55) / 502.19, so that weights of ldct-benchmark do what they do there.

    Kernels start as PyTorch's do, and so as ldct-benchmark's: U(±1/√fan_in); biases start at 0,
    where PyTorch's are drawn like the kernels.

    Attributes: see `CNN10Options` and `Generator`. `axis_name` is unused, since nothing is
    normalised here. The last layer's result, the image itself, is of the `dtype`, too: bfloat16
    keeps two to three digits of it.
    """

    width: int = CNN10Options.width

    @nn.compact
    def __call__(self, qdct: jax.Array, *, train: bool) -> jax.Array:
        """Denoises normalised slices.

        Args:
          qdct: (N, H, W, 1), normalised HU, of any size. Taken to the network's own range, and
            back, here.
          train: as of the other generators; makes no difference.

        Returns:
          (N, H, W, 1), normalised HU.

        Raises:
          ValueError: the shape is another.
        """
        del train
        if qdct.ndim != 4 or qdct.shape[-1] != 1:
            raise ValueError(f"qdct has shape {qdct.shape}; expected (N, H, W, 1)")
        x = scaled(hounsfield.denormalise(qdct))
        layers = zip(KERNEL_SIZES, features_of(self.width), strict=True)
        for i, (size, features) in enumerate(layers, start=1):
            x = Conv(features, size, padding=size // 2, dtype=self.dtype, name=f"conv{i}",
                     kernel_init=uniform_fan(size * size * x.shape[-1]))(x)
            if i < len(KERNEL_SIZES):
                x = checkpoint_name(nn.relu(x), STAGE)
        return hounsfield.normalise(x.astype(qdct.dtype) * _SD_HU + _MEAN_HU)


CNN10_ARCHITECTURE = Architecture(
    name="cnn10", title="CNN-10", module=CNN10, options=CNN10Options,
    table_name=supervised("CNN-10"), size_multiple=1, min_size=1,
    # At most 96 channels as large as the image at a time, as many as at the U-Net's last stage.
    memory_share=1, scaled=scaled)
