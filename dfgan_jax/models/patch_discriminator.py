"""The discriminator: a PatchGAN that scores 70-pixel patches (Isola et al., CVPR 2017)."""

from typing import Any

import flax.linen as nn
import jax

from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import kaiming_uniform

MIN_SIZE = 32
"""Smallest height and width that leave a patch to score."""


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches between 0 (denoised) and 1 (normal dose).

    6,829,441 parameters at width 128 with 2 input channels.

    Attributes:
      width: channels of the first layer; the next two double them.
      dtype: dtype of the computation.
    """

    width: int = 128
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores normalised images.

        Args:
          images: (N, H, W, C), normalised HU or differences of such.

        Returns:
          (N, H/8 − 2, W/8 − 2, 1) in (0, 1): 256² gives 30×30.

        Raises:
          ValueError: an image is smaller than 32×32.
        """
        if images.ndim != 4 or min(images.shape[1:3]) < MIN_SIZE:
            raise ValueError(f"images have shape {images.shape}; expected (N, H, W, C) with H and "
                             f"W of at least {MIN_SIZE}")
        x = images
        for i, (factor, stride) in enumerate([(1, 2), (2, 2), (4, 2), (4, 1)], start=1):
            x = self._conv(self.width * factor, stride, f"conv{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        return nn.sigmoid(self._conv(1, 1, "out_conv")(x))

    def _conv(self, features: int, stride: int, name: str) -> Conv:
        return Conv(features, 4, stride=stride, padding=1, dtype=self.dtype,
                    kernel_init=kaiming_uniform, name=name)
