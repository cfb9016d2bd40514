"""Batch normalisation with an unbiased running variance."""


import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dfgan_jax.models.convolution import Conv
from dfgan_jax.support.jax_functions import pmean


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy, 2015).

    Differs from `flax.linen.BatchNorm` in one number: the running variance moves
    towards the *unbiased* batch variance, n/(n−1) times the biased variance used for
    normalisation, as in PyTorch. Running statistics therefore agree with ported checkpoints.

    Attributes:
      features: C, size of the last axis.
      momentum: share of the running statistics kept at each update.
      epsilon: added to the variance.
      initial_bias: initial value of the bias.
      axis_name: mapped axis over which batch statistics are averaged; None if
        the input is the whole batch.
      dtype: dtype of the result; statistics are at least float32.
    """

    features: int
    momentum: float = 0.9
    epsilon: float = 1e-5
    initial_bias: float = 0.0
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    def setup(self) -> None:
        shape = (self.features,)
        self.running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        self.running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        self.scale = self.param("scale", nn.initializers.ones_init(), shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.constant(self.initial_bias), shape,
                               jnp.float32)

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        """Normalises (..., C) by its own statistics, and updates the running statistics."""
        # Sums and normalised values are at least float32; XLA fuses the casts into the sums.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(x.ndim - 1))
        mean, mean_of_squares = wide.mean(axes), jnp.square(wide).mean(axes)
        count = x.size // self.features
        if self.axis_name is not None and not self.is_initializing():
            mean, mean_of_squares = pmean((mean, mean_of_squares), self.axis_name)
            count = count * jax.lax.axis_size(self.axis_name)
        var = jnp.maximum(mean_of_squares - jnp.square(mean), 0)
        if not self.is_initializing():
            unbiased = var * (count / max(count - 1, 1))
            keep = self.momentum
            self.running_mean.value = keep * self.running_mean.value + (1 - keep) * mean
            self.running_var.value = keep * self.running_var.value + (1 - keep) * unbiased
        gain, offset = self._affine(mean, var)
        return (wide * gain + offset).astype(self.dtype or x.dtype)

    def running_affine(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Normalisation by the running statistics, as x · gain + offset.

        Being linear, it can be folded into the preceding convolution.

        Returns:
          gain, (C,), and offset, (C,), at least float32.
        """
        return self._affine(self.running_mean.value, self.running_var.value)

    def _affine(self, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
        gain = self.scale * jax.lax.rsqrt(var + self.epsilon)
        return gain, self.bias - mean * gain


def conv_norm(conv: Conv, norm: BatchNorm, x: Float[Array, "n h w c"], *, train: bool
              ) -> Float[Array, "n h2 w2 features"]:
    """Convolves and normalises: by the batch's statistics, or in one step by the running ones."""
    if train:
        return norm(conv(x))
    return conv(x, affine=norm.running_affine())
