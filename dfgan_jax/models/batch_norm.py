"""Batch normalisation whose running variance is the unbiased one."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy, 2015).

    Differs from `flax.linen.BatchNorm` in one number: the running variance moves
    towards the *unbiased* batch variance, n/(n−1) times the one that normalises,
    as in PyTorch, so that running statistics agree with ported checkpoints.

    Attributes:
      momentum: what the running statistics keep at each update.
      epsilon: added to the variance.
      axis_name: mapped axis over which batch statistics are averaged; None when
        the whole batch is at hand.
      dtype: dtype of the result; statistics are at least float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = None
    scale_init: Callable = nn.initializers.ones_init()
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises `x`.

        Args:
          x: (..., C).
          train: normalise by the batch's statistics and move the running ones;
            else normalise by the running ones.

        Returns:
          (..., C).
        """
        features = x.shape[-1:]
        stats_dtype = jnp.promote_types(x.dtype, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, stats_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, stats_dtype)
        scale = self.param("scale", self.scale_init, features, stats_dtype)
        bias = self.param("bias", self.bias_init, features, stats_dtype)

        if train:
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(stats_dtype)
            mean, mean_of_squares = wide.mean(axes), jnp.square(wide).mean(axes)
            count = x.size // x.shape[-1]
            if self.axis_name is not None and not self.is_initializing():
                mean, mean_of_squares = jax.lax.pmean((mean, mean_of_squares), self.axis_name)
                count = count * jax.lax.axis_size(self.axis_name)
            var = jnp.maximum(mean_of_squares - jnp.square(mean), 0)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value

        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        dtype = self.dtype or x.dtype
        return x.astype(dtype) * gain.astype(dtype) + (bias - mean * gain).astype(dtype)
