"""CNN-10, the first network for low-dose CT: three convolutions (Chen et al., BOE 2017).

Sources: Chen et al., "Low-dose CT via convolutional neural network", Biomedical Optics Express
8(2), 2017; layers and name as in ldct-benchmark (github.com/eeulig/ldct-benchmark, Eulig et al.,
Medical Physics 2024), `ldctbench/methods/cnn10/network.py`.
"""

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Float

from dfgan_jax.models.architecture import (
    Architecture,
    Generator,
    Image,
    Options,
    mark_stage,
    supervised,
)
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
class CNN10Options(Options):
    """The options of CNN-10; the default is the published network.

    Attributes:
      width: filters of the first layer, even and at least 2; the second has half as many.

    Raises:
      InputError: the width is odd, or below 2.
    """

    width: int = PUBLISHED_WIDTH

    def __post_init__(self) -> None:
        if self.width <= 0 or self.width % 2:
            raise InputError(f"width is {self.width}; expected an even number, more than 0")


def features_of(width: int) -> tuple[int, int, int]:
    """Output channels of each layer."""
    return width, width // 2, 1


def scaled(hu: Image) -> Image:
    """Maps HU to the network's input range, in standard deviations from the mean; any shape."""
    return (hu - _MEAN_HU) / _SD_HU


class CNN10(Generator):
    """A 9×9, a 3×3 and a 5×5 convolution; a ReLU follows the first and the second.

    24,513 parameters at width 64. All convolutions have stride 1, a bias, and zero padding that
    keeps the size of the image. There is no normalisation and no skip connection. The network
    computes on (HU + 542.55) / 502.19, as ldct-benchmark does, so that its weights can be used.

    Kernels are initialised as in PyTorch, and so in ldct-benchmark: U(±1/√fan_in). Biases start
    at 0, whereas PyTorch draws them like the kernels.

    Attributes: see `CNN10Options` and `Generator`. `axis_name` is unused, since the network has no
    normalisation. The `dtype` applies to the last layer, too: bfloat16 keeps two to three digits
    of the image.
    """

    width: int = CNN10Options.width

    @nn.compact
    def __call__(self, qdct: Float[Array, "..."], *, train: bool) -> Float[Array, "n h w 1"]:
        """Denoises normalised slices.

        Args:
          qdct: (N, H, W, 1), normalised HU, of any size; mapped to the network's input range, and
            back, here.
          train: has no effect.

        Returns:
          (N, H, W, 1), normalised HU.

        Raises:
          ValueError: the shape is not (N, H, W, 1).
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
                x = mark_stage(nn.relu(x))
        denoised: Array = hounsfield.normalise(x.astype(qdct.dtype) * _SD_HU + _MEAN_HU)
        return denoised


CNN10_ARCHITECTURE = Architecture(
    name="cnn10", title="CNN-10", module=CNN10, options=CNN10Options,
    table_name=supervised("CNN-10"), size_multiple=1, min_size=1,
    # At most 96 channels of the image's size at a time, as in the U-Net's last stage.
    memory_share=1, scaled=scaled)
