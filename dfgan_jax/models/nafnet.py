"""NAFNet, a network of restoration without activations (Chen et al., ECCV 2022).

Sources: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676; its
published code (github.com/megvii-research/NAFNet), `basicsr/models/archs/NAFNet_arch.py`.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dfgan_jax.models.architecture import (
    Architecture,
    Generator,
    Options,
    mark_stage,
    supervised,
)
from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.depthwise import DepthwiseConv
from dfgan_jax.models.initializers import uniform_fan
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.checks import check_above_zero
from dfgan_jax.support.errors import InputError

PUBLISHED_WIDTH = 32

PUBLISHED_BLOCKS = "2,2,4,8,12,2,2,2,2"
"""For denoising (SIDD); for deblurring (GoPro) the published network has 1,1,1,28,1,1,1,1,1."""

MAX_STAGES, MAX_BLOCKS = 4, 30
"""Stages of the encoder, and blocks of a stage."""

EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class NAFNetOptions(Options):
    """The options of NAFNet; the default is the published network.

    Attributes:
      width: channels of the first stage, at least 1; each stage below has twice as many.
      blocks: blocks of each stage, separated by commas: of the encoder, of the middle, and of the
        decoder, which has as many stages as the encoder: 3, 5, 7 or 9 numbers, each at most 30.

    Raises:
      InputError: a value is none of these.
    """

    width: int = PUBLISHED_WIDTH
    blocks: str = PUBLISHED_BLOCKS

    def __post_init__(self) -> None:
        check_above_zero(self, "width")
        numbers = str(self.blocks).split(",")
        if (len(numbers) not in range(3, 2 * MAX_STAGES + 2, 2)
                or not all(number.isdecimal() and int(number) <= MAX_BLOCKS for number in numbers)):
            raise InputError(f"blocks is {self.blocks!r}; expected an odd number of counts, from "
                             f"3 to {2 * MAX_STAGES + 1}, each at most {MAX_BLOCKS}, such as "
                             f"{PUBLISHED_BLOCKS}")


def blocks_of(options: NAFNetOptions) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Numbers of blocks of the encoder's stages, of the middle, and of the decoder's stages."""
    numbers = tuple(map(int, options.blocks.split(",")))
    half = len(numbers) // 2
    return numbers[:half], numbers[half], numbers[half + 1:]


def simple_gate(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Products of the first half of the channels with the second; (…, 2 C) to (…, C)."""
    first, second = jnp.split(x, 2, axis=-1)
    product: Array = first * second
    return product


class Block(nn.Module):
    """The paper's block: a depthwise convolution with attention to channels, then a gated layer.

    Both parts are added to their input with a gain for each channel, `beta` and `gamma`, which
    starts at 0: an untrained block changes nothing.

    Attributes:
      dtype: dtype of the computation.
    """

    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Maps (N, H, W, C) to the same shape."""
        channels = x.shape[-1]

        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=self.dtype,
                                name=name)

        def pointwise(features: int, fan_in: int, name: str) -> Conv:
            return Conv(features, 1, dtype=self.dtype, name=name, kernel_init=uniform_fan(fan_in))

        def gain(name: str) -> Array:
            zeros: Array = self.param(name, nn.initializers.zeros_init(), (1, 1, 1, channels),
                                      jnp.float32)
            return zeros

        y = pointwise(2 * channels, channels, "conv1")(norm("norm1")(x))
        y = simple_gate(DepthwiseConv(dtype=self.dtype, name="conv2")(y))
        y *= pointwise(channels, channels, "sca")(jnp.mean(y, axis=(1, 2), keepdims=True))
        y = pointwise(channels, channels, "conv3")(y)
        x = x + y * gain("beta").astype(y.dtype)
        y = simple_gate(pointwise(2 * channels, channels, "conv4")(norm("norm2")(x)))
        y = pointwise(channels, channels, "conv5")(y)
        result: Array = x + y * gain("gamma").astype(y.dtype)
        return result


def pixel_shuffle(x: Float[Array, "n h w features"]) -> Float[Array, "n 2*h 2*w features//4"]:
    """Maps (N, H, W, 4 C) to (N, 2 H, 2 W, C): channel 4 c + 2 i + j is the pixel (i, j) of c."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, 2 * height, 2 * width, channels // 4)


class NAFNet(Generator):
    """A U-shaped network of blocks whose only nonlinearity is the product of two features.

    29,158,561 parameters at width 32 with the published numbers of blocks. A 2×2 convolution of
    stride 2 leads down and doubles the channels, a 1×1 one with a pixel shuffle leads up and halves
    them; skips are added. The network gives the difference map, to which the image is added. It
    computes on normalised HU, since it was not published for CT.

    The attention takes each channel's mean over the whole image, in training over the crop. The
    paper's test-time local converter (TLC), which takes means over windows of the crop's size, is
    not applied.

    Kernels and biases start as PyTorch's do, U(±1/√fan_in), but for biases of convolutions that
    are not depthwise, which start at 0.

    Attributes: see `NAFNetOptions` and `Generator`. `axis_name` is unused, since no statistics of
    the batch are taken.
    """

    width: int = NAFNetOptions.width
    blocks: str = NAFNetOptions.blocks

    @nn.compact
    def __call__(self, qdct: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        """Denoises normalised slices.

        Args:
          qdct: (N, H, W, 1), normalised HU; H and W multiples of 2 to the number of the encoder's
            stages.
          train: as of the other generators; makes no difference.

        Returns:
          (N, H, W, 1), normalised HU.

        Raises:
          ValueError: the shape is another.
        """
        del train
        encoder, middle, decoder = blocks_of(NAFNetOptions(width=self.width, blocks=self.blocks))
        multiple = 2 ** len(encoder)
        if (qdct.ndim != 4 or qdct.shape[-1] != 1 or 0 in qdct.shape
                or any(side % multiple for side in qdct.shape[1:3])):
            raise ValueError(f"qdct has shape {qdct.shape}; expected (N, H, W, 1) with H and W "
                             f"multiples of {multiple}")

        def stage(x: Array, count: int, name: str) -> Array:
            for index in range(count):
                x = Block(dtype=self.dtype, name=f"{name}_{index}")(x)
            return mark_stage(x)

        def conv(features: int, size: int, fan_in: int, name: str, *, stride: int = 1,
                 padding: int = 0, use_bias: bool = True) -> Conv:
            return Conv(features, size, stride=stride, padding=padding, use_bias=use_bias,
                        dtype=self.dtype, name=name, kernel_init=uniform_fan(size * size * fan_in))

        x = conv(self.width, 3, 1, "intro", padding=1)(qdct)
        skips = []
        for level, count in enumerate(encoder):
            x = stage(x, count, f"encoder{level}")
            skips.append(x)
            channels = x.shape[-1]
            x = conv(2 * channels, 2, channels, f"down{level}", stride=2)(x)
        x = stage(x, middle, "middle")
        for level, count in enumerate(decoder):
            channels = x.shape[-1]
            x = pixel_shuffle(conv(2 * channels, 1, channels, f"up{level}", use_bias=False)(x))
            x = stage(x + skips.pop(), count, f"decoder{level}")
        denoised: Array = qdct + conv(1, 3, self.width, "ending", padding=1)(x).astype(qdct.dtype)
        return denoised


NAFNET_ARCHITECTURE = Architecture(
    name="nafnet", title="NAFNet", module=NAFNet, options=NAFNetOptions,
    table_name=supervised("NAFNet"), size_multiple=16, min_size=32, memory_share=1,
    scaled=hounsfield.normalise)
