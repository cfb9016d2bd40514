"""Initial weights of the published networks."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

kaiming_uniform = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
"""Kaiming-uniform, fan-in, ReLU gain (He et al., ICCV 2015): U(±sqrt(6 / fan_in))."""


def uniform_fan(fan: int) -> nn.initializers.Initializer:
    """U(±1/sqrt(fan)), PyTorch's default for convolutions and their biases."""
    bound = 1 / math.sqrt(fan)

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike | None = None,
             out_sharding: object = None) -> Float[Array, "..."]:
        del out_sharding
        return jax.random.uniform(key, shape, dtype or float, minval=-bound, maxval=bound)

    return init
