"""The discriminator: a PatchGAN that scores 70-pixel patches (Isola et al., CVPR 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import kaiming_uniform

POWER_ITERATIONS = 10

DISCRIMINATOR_MIN_SIZE = 32
"""Smallest height and width that contain a patch to score [pixels]."""


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches between 0 (denoised) and 1 (normal dose).

    6,829,441 parameters at width 128 with 2 input channels.

    Attributes:
      width: channels of the first layer; doubled by each of the next two.
      spectral_norm: divide each kernel by its largest singular value; see `spectral_scale`.
      dtype: dtype of the computation.
    """

    width: int = 128
    spectral_norm: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "..."]) -> Float[Array, "n h w 1"]:
        """Scores normalised images.

        Args:
          images: (N, H, W, C), normalised HU, or differences of it.

        Returns:
          (N, H/8 − 2, W/8 − 2, 1) in (0, 1): 256² gives 30×30.

        Raises:
          ValueError: the shape is not (N, H, W, C), or an image is smaller than 32×32.
        """
        if images.ndim != 4 or min(images.shape[1:3]) < DISCRIMINATOR_MIN_SIZE:
            raise ValueError(f"images have shape {images.shape}; expected (N, H, W, C) with H and "
                             f"W of at least {DISCRIMINATOR_MIN_SIZE}")
        x = images
        for i, (factor, stride) in enumerate([(1, 2), (2, 2), (4, 2), (4, 1)], start=1):
            x = self._conv(self.width * factor, stride, f"conv{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        scores: Array = nn.sigmoid(self._conv(1, 1, "out_conv")(x))
        return scores

    def _conv(self, features: int, stride: int, name: str) -> Conv:
        return Conv(features, 4, stride=stride, padding=1, dtype=self.dtype,
                    kernel_init=kaiming_uniform, name=name,
                    kernel_scale=spectral_scale if self.spectral_norm else None)


def spectral_scale(kernel: Float[Array, "h w c features"]) -> Float[Array, ""]:
    """The reciprocal of a kernel's largest singular value (Miyato et al., ICLR 2018).

    The kernel is taken as a matrix with one column for each feature. Power iterations start from
    a constant vector at each call, so that there is no state. The gradient passes through the
    matrix, not through the singular vectors.

    Args:
      kernel: (k, k, C, features).
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    gram = jax.lax.stop_gradient(matrix.T @ matrix)

    def iterate(_: object, vector: jax.Array) -> jax.Array:
        vector = gram @ vector
        length: jax.Array = jnp.linalg.norm(vector)
        return vector / (length + 1e-12)

    start = jnp.linspace(1.0, 2.0, kernel.shape[-1], dtype=kernel.dtype)
    right = jax.lax.stop_gradient(jax.lax.fori_loop(0, POWER_ITERATIONS, iterate, start))
    largest: Array = jnp.linalg.norm(matrix @ right)
    return 1 / (largest + 1e-12)
