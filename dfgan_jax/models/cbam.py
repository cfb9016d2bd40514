"""Convolutional block attention module (CBAM; Woo et al., ECCV 2018)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dfgan_jax.models.batch_norm import BatchNorm, conv_norm
from dfgan_jax.models.convolution import Conv
from dfgan_jax.models.initializers import kaiming_uniform


def pooled_maximum(x: Float[Array, "n h w c"], *, window: int) -> Float[Array, "n c"]:
    """The maximum over height and width, or the mean of the maxima of windows.

    The maximum grows with the size of the image. The mean over windows of the size of the
    training crops does not.

    Args:
      x: (N, H, W, C).
      window: height and width of a window [pixels]; 0 for the whole image. Windows at the
        right and at the bottom may be smaller.

    Returns:
      (N, C).
    """
    n, h, w, c = x.shape
    if not window or window >= max(h, w):
        return x.max((1, 2))
    x = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)),
                constant_values=-jnp.inf)
    x = x.reshape(n, x.shape[1] // window, window, x.shape[2] // window, window, c)
    return x.max((2, 4)).mean((1, 2))


class ChannelGate(nn.Module):
    """Scales channels by σ(MLP(average pool) + MLP(max pool)), one shared MLP.

    The pools run over the whole image: the result of a tile differs from the same part of
    the result of the whole image.

    Attributes:
      reduction: features of the MLP's hidden layer are C / reduction, at least 1.
      initial_bias: of the MLP's last layer; added twice.
      window: see `pooled_maximum`.
      dtype: dtype of the computation.
    """

    reduction: int = 16
    initial_bias: float = 0.0
    window: int = 0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Maps (N, H, W, C) to the same shape."""
        channels = x.shape[-1]
        hidden = nn.Dense(max(channels // self.reduction, 1), kernel_init=kaiming_uniform,
                          dtype=self.dtype, name="hidden")
        out = nn.Dense(channels, kernel_init=kaiming_uniform, dtype=self.dtype, name="out",
                       bias_init=nn.initializers.constant(self.initial_bias))
        pooled = jnp.stack([x.mean((1, 2)), pooled_maximum(x, window=self.window)])
        average, maximum = out(nn.relu(hidden(pooled)))
        return x * nn.sigmoid(average + maximum)[:, None, None, :]


class SpatialGate(nn.Module):
    """Scales pixels by σ(BatchNorm(conv 7×7 of [max over C, mean over C])).

    Attributes:
      initial_bias: of the normalisation.
      axis_name: mapped axis over which batch statistics are averaged.
      dtype: dtype of the computation.
    """

    initial_bias: float = 0.0
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h w c"]:
        """Maps (N, H, W, C) to the same shape."""
        pooled = jnp.stack([x.max(-1), x.mean(-1)], axis=-1)
        scale = conv_norm(
            Conv(1, 7, padding=3, use_bias=False, kernel_init=kaiming_uniform, dtype=self.dtype,
                 name="conv"),
            # The published module updates these statistics ten times more slowly than
            # the U-Net's other norms.
            BatchNorm(1, momentum=0.99, initial_bias=self.initial_bias, axis_name=self.axis_name,
                      dtype=self.dtype, name="norm"),
            pooled, train=train)
        return x * nn.sigmoid(scale)


class CBAM(nn.Module):
    """Channel gate, then spatial gate.

    Attributes:
      reduction: of the channel gate's MLP.
      channel_bias: initial bias of the channel gate's MLP.
      spatial_bias: initial bias of the spatial gate's normalisation.
      window: of the channel gate's maxima; see `pooled_maximum`.
      axis_name: mapped axis over which batch statistics are averaged.
      dtype: dtype of the computation.
    """

    reduction: int = 16
    channel_bias: float = 0.0
    spatial_bias: float = 0.0
    window: int = 0
    axis_name: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h w c"]:
        """Maps (N, H, W, C) to the same shape."""
        x = ChannelGate(self.reduction, initial_bias=self.channel_bias, window=self.window,
                        dtype=self.dtype, name="channel_gate")(x)
        return SpatialGate(initial_bias=self.spatial_bias, axis_name=self.axis_name,
                           dtype=self.dtype, name="spatial_gate")(x, train=train)
