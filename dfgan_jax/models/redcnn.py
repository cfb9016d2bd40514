"""RED-CNN, the field's baseline: a residual encoder-decoder (Chen et al., IEEE TMI 2017)."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax.typing import DTypeLike
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
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.checks import check_above_zero

KERNEL_SIZE = 5

REDCNN_MIN_SIZE = 5 * (KERNEL_SIZE - 1) + 1
"""Smallest height and width for five convolutions without padding [pixels]."""

_RANGE_HU = hounsfield.HIGHEST_12_BIT_HU + 1 - hounsfield.OUTSIDE_HU

PUBLISHED_WIDTH = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class REDCNNOptions(Options):
    """The options of RED-CNN; the default is the published network.

    Attributes:
      width: channels of every layer but the last, at least 1.

    Raises:
      InputError: the width is below 1.
    """

    width: int = PUBLISHED_WIDTH

    def __post_init__(self) -> None:
        check_above_zero(self, "width")


def scaled(hu: Image) -> Image:
    """Maps HU to the network's input range, `(hu + 1024) / 4096`; any shape."""
    return (hu - hounsfield.OUTSIDE_HU) / _RANGE_HU


class TransposedConv(nn.Module):
    """Transposed convolution, 5×5 with stride 1 and no padding.

    Computed as a convolution of the zero-padded image with the flipped kernel. On a CPU, XLA's
    gradient of the kernel is 50 times slower if the convolution itself pads.

    Attributes:
      features: channels of the result.
      kernel_init: initial kernel.
      dtype: dtype of the computation.
    """

    features: int
    kernel_init: Initializer
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h+4 w+4 features"]:
        """Maps (N, H, W, C) to (N, H + 4, W + 4, features)."""
        kernel = self.param("kernel", self.kernel_init,
                            (KERNEL_SIZE, KERNEL_SIZE, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        around = (KERNEL_SIZE - 1, KERNEL_SIZE - 1)
        x = jnp.pad(x, [(0, 0), around, around, (0, 0)])
        y = jax.lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        shifted: Array = y + bias
        return shifted


class REDCNN(Generator):
    """Five convolutions, then five transposed ones back to the size of the image.

    1,848,865 parameters at width 96. Kernels are 5×5 with stride 1, without padding and
    with bias. The outputs of the fourth and the second convolution, and the image, are added
    after the first, the third and the last transposed convolution. A ReLU follows each of the
    ten layers: the network computes on (HU + 1024) / 4096, so that no output is below −1024 HU.

    Kernels are initialised from a normal distribution with standard deviation
    0.01 · √(96 / width), as in the paper at width 96, so that the signal's variance does not
    depend on the width; biases start at 0.

    Attributes: see `REDCNNOptions` and `Generator`. `axis_name` is unused, since the network has
    no normalisation; input and output stay float32 for any `dtype`.
    """

    width: int = REDCNNOptions.width

    @nn.compact
    def __call__(self, qdct: Float[Array, "..."], *, train: bool) -> Float[Array, "n h w 1"]:
        """Denoises normalised slices.

        Args:
          qdct: (N, H, W, 1), normalised HU; H and W of at least 21; mapped to the network's
            input range, and back, here.
          train: has no effect.

        Returns:
          (N, H, W, 1), normalised HU.

        Raises:
          ValueError: the shape is not (N, H, W, 1), or H or W is below 21.
        """
        del train
        if qdct.ndim != 4 or qdct.shape[-1] != 1 or min(qdct.shape[1:3]) < REDCNN_MIN_SIZE:
            raise ValueError(f"qdct has shape {qdct.shape}; expected (N, H, W, 1) with H and W of "
                             f"at least {REDCNN_MIN_SIZE}")
        common: dict[str, Any] = {
            "kernel_init": nn.initializers.normal(0.01 * math.sqrt(PUBLISHED_WIDTH / self.width)),
            "dtype": self.dtype}
        x = scaled(hounsfield.denormalise(qdct))
        skips = [x]
        for i in (1, 2, 3, 4, 5):
            x = nn.relu(Conv(self.width, KERNEL_SIZE, name=f"conv{i}", **common)(x))
            if i in (2, 4):
                x = mark_stage(x)
                skips.append(x)
        for i in (1, 2, 3, 4, 5):
            x = TransposedConv(self.width if i < 5 else 1, name=f"tconv{i}", **common)(x)
            if i in (1, 3, 5):
                x = mark_stage(x + skips.pop())
            x = nn.relu(x)
        denoised: Array = hounsfield.normalise(x * _RANGE_HU + hounsfield.OUTSIDE_HU)
        return denoised


REDCNN_ARCHITECTURE = Architecture(
    name="redcnn", title="RED-CNN", module=REDCNN, options=REDCNNOptions,
    table_name=supervised("RED-CNN"),
    # The network takes any size from `REDCNN_MIN_SIZE` on; the U-Net's sizes give equal padding.
    size_multiple=16, min_size=32,
    # All layers have the image's size: three times the U-Net's activations.
    memory_share=4, scaled=scaled)
