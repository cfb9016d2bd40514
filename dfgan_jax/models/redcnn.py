"""RED-CNN, the field's baseline: a residual encoder-decoder (Chen et al., IEEE TMI 2017)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dfgan_jax.models.architecture import STAGE, Architecture, Generator, supervised
from dfgan_jax.models.convolution import Conv
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.checks import check_above_zero

KERNEL_SIZE = 5

MIN_SIZE = 5 * (KERNEL_SIZE - 1) + 1
"""Smallest height and width of which five convolutions without padding leave a pixel."""

_RANGE_HU = hounsfield.HIGHEST_12_BIT_HU + 1 - hounsfield.OUTSIDE_HU

PUBLISHED_WIDTH = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class REDCNNOptions:
    """What a configuration can choose of RED-CNN; the default is the published network.

    Attributes:
      width: channels of every layer but the last, at least 1.

    Raises:
      InputError: the width is another.
    """

    width: int = PUBLISHED_WIDTH

    def __post_init__(self):
        check_above_zero(self, "width")


def scaled(hu):
    """Maps HU to the network's own range, `(hu + 1024) / 4096`; any shape."""
    return (hu - hounsfield.OUTSIDE_HU) / _RANGE_HU


class TransposedConv(nn.Module):
    """Transposed convolution, 5×5 with stride 1 and no padding.

    It is exactly a convolution of the image with four zeros on each side and the flipped
    kernel. XLA's CPU code for the kernel's gradient is 50 times slower where the
    convolution pads than where the image has been padded before.

    Attributes:
      features: channels of the result.
      kernel_init: initial kernel.
      dtype: dtype of the computation.
    """

    features: int
    kernel_init: Callable
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H + 4, W + 4, features)."""
        kernel = self.param("kernel", self.kernel_init,
                            (KERNEL_SIZE, KERNEL_SIZE, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        around = (KERNEL_SIZE - 1, KERNEL_SIZE - 1)
        x = jnp.pad(x, [(0, 0), around, around, (0, 0)])
        return bias + jax.lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class REDCNN(Generator):
    """Five convolutions, then five transposed ones back to the size of the image.

    1,848,865 parameters at width 96. Kernels are 5×5 with stride 1, without padding and
    with bias. What the fourth and the second convolution give, and the image, are added
    after the first, the third and the last transposed one. A ReLU follows each of the ten,
    the last one too: the network computes on (HU + 1024) / 4096, and gives no value below
    −1024 HU.

    Kernels start normal with standard deviation 0.01 · √(96 / width), which is the paper's
    at its width and lets as much through at others; biases start at 0.

    Attributes: see `REDCNNOptions` and `Generator`. `axis_name` is unused, since nothing is
    normalised here; the image's own scale and the result stay float32 whatever the `dtype`.
    """

    width: int = REDCNNOptions.width

    @nn.compact
    def __call__(self, qdct: jax.Array, *, train: bool) -> jax.Array:
        """Denoises normalised slices.

        Args:
          qdct: (N, H, W, 1), normalised HU; H and W of at least 21. Taken to the network's
            own range, and back, here.
          train: as of the other generators; makes no difference.

        Returns:
          (N, H, W, 1), normalised HU.

        Raises:
          ValueError: the shape is another.
        """
        del train
        if qdct.ndim != 4 or qdct.shape[-1] != 1 or min(qdct.shape[1:3]) < MIN_SIZE:
            raise ValueError(f"qdct has shape {qdct.shape}; expected (N, H, W, 1) with H and W of "
                             f"at least {MIN_SIZE}")
        common: dict[str, Any] = {
            "kernel_init": nn.initializers.normal(0.01 * math.sqrt(PUBLISHED_WIDTH / self.width)),
            "dtype": self.dtype}
        x = scaled(hounsfield.denormalise(qdct))
        skips = [x]
        for i in (1, 2, 3, 4, 5):
            x = nn.relu(Conv(self.width, KERNEL_SIZE, name=f"conv{i}", **common)(x))
            if i in (2, 4):
                x = checkpoint_name(x, STAGE)
                skips.append(x)
        for i in (1, 2, 3, 4, 5):
            x = TransposedConv(self.width if i < 5 else 1, name=f"tconv{i}", **common)(x)
            if i in (1, 3, 5):
                x = checkpoint_name(x + skips.pop(), STAGE)
            x = nn.relu(x)
        return hounsfield.normalise(x * _RANGE_HU + hounsfield.OUTSIDE_HU)


REDCNN_ARCHITECTURE = Architecture(
    name="redcnn", title="RED-CNN", module=REDCNN, options=REDCNNOptions,
    table_name=supervised("RED-CNN"),
    # Any size from `MIN_SIZE` on would do. As the U-Net's: what lies at the edges is the same.
    size_multiple=16, min_size=32,
    # All layers are as large as the image: thrice the U-Net's activations.
    memory_share=4, scaled=scaled)
