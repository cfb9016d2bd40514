"""The discriminator: a PatchGAN that scores 70-pixel patches (Isola et al., CVPR 2017)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import kaiming_uniform

POWER_ITERATIONS = 10

MIN_SIZE = 32
"""Smallest height and width that leave a patch to score."""


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches between 0 (denoised) and 1 (normal dose).

    6,829,441 parameters at width 128 with 2 input channels.

    Attributes:
      width: channels of the first layer; the next two double them.
      spectral_norm: each kernel is divided by its largest singular value; see `spectral_scale`.
      dtype: dtype of the computation.
    """

    width: int = 128
    spectral_norm: bool = False
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
                    kernel_init=kaiming_uniform, name=name,
                    kernel_scale=spectral_scale if self.spectral_norm else None)


def spectral_scale(kernel: jax.Array) -> jax.Array:
    """One over a kernel's largest singular value (Miyato et al., ICLR 2018).

    The value is that of the kernel as a matrix of one column a feature, found by power iterations
    from a constant vector each time: no state is carried along. The gradient passes through the
    matrix, not through the vectors.

    Args:
      kernel: (k, k, C, features).
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    gram = jax.lax.stop_gradient(matrix.T @ matrix)

    def iterate(_, vector):
        vector = gram @ vector
        return vector / (jnp.linalg.norm(vector) + 1e-12)

    start = jnp.linspace(1.0, 2.0, kernel.shape[-1], dtype=kernel.dtype)
    right = jax.lax.stop_gradient(jax.lax.fori_loop(0, POWER_ITERATIONS, iterate, start))
    return 1 / (jnp.linalg.norm(matrix @ right) + 1e-12)
