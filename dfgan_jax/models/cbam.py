"""Convolutional block attention module (CBAM; Woo et al., ECCV 2018)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dfgan_jax.models.batch_norm import BatchNorm, conv_norm
from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import kaiming_uniform


class ChannelGate(nn.Module):
    """Scales channels by σ(MLP(average pool) + MLP(max pool)), one shared MLP.

    The pools run over the whole image: a tiled result differs from that of the
    whole image.

    Attributes:
      reduction: features of the MLP's hidden layer are C / reduction, at least 1.
      dtype: dtype of the computation.
    """

    reduction: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        channels = x.shape[-1]
        hidden = nn.Dense(max(channels // self.reduction, 1), kernel_init=kaiming_uniform,
                          dtype=self.dtype, name="hidden")
        out = nn.Dense(channels, kernel_init=kaiming_uniform, dtype=self.dtype, name="out")
        pooled = jnp.stack([x.mean((1, 2)), x.max((1, 2))])
        average, maximum = out(nn.relu(hidden(pooled)))
        return x * nn.sigmoid(average + maximum)[:, None, None, :]


class SpatialGate(nn.Module):
    """Scales pixels by σ(BatchNorm(conv 7×7 of [max over C, mean over C])).

    Attributes:
      axis_name: mapped axis over which batch statistics are averaged.
      dtype: dtype of the computation.
    """

    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        pooled = jnp.stack([x.max(-1), x.mean(-1)], axis=-1)
        scale = conv_norm(
            Conv(1, 7, padding=3, use_bias=False, kernel_init=kaiming_uniform, dtype=self.dtype,
                 name="conv"),
            # The published module moves these statistics ten times more slowly than
            # the U-Net's other norms.
            BatchNorm(1, momentum=0.99, axis_name=self.axis_name, dtype=self.dtype, name="norm"),
            pooled, train=train)
        return x * nn.sigmoid(scale)


class CBAM(nn.Module):
    """Channel gate, then spatial gate.

    Attributes:
      reduction: of the channel gate's MLP.
      axis_name: mapped axis over which batch statistics are averaged.
      dtype: dtype of the computation.
    """

    reduction: int = 16
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        x = ChannelGate(self.reduction, dtype=self.dtype, name="channel_gate")(x)
        return SpatialGate(axis_name=self.axis_name, dtype=self.dtype, name="spatial_gate")(
            x, train=train)
