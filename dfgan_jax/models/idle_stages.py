"""Stages of a U-Net that take no part in its result."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from dfgan_jax.models.architecture import Generator
from dfgan_jax.models.unet import DoubleConv, UNet

STAGES = ("inc", "down1", "down2", "down3", "down4", "up1", "up2", "up3", "up4")

_UNCHANGED = 1e-6
"""Largest change of the result, over the largest difference that the network makes."""


def idle_stages(generator: Generator, variables: PyTree, qdct: Float[Array, "n h w 1"]
                ) -> list[str]:
    """The stages whose features may all be 0 without a change of the result.

    Without normalisation, features can grow in training until a stage is constant, its ReLUs
    off, and its gradient 0; the loss does not show it.

    Args:
      generator: a network; only a `UNet` has stages.
      variables: of the generator.
      qdct: normalised slices, that the generator takes.

    Returns:
      Names of `STAGES`, in their order.
    """
    if not isinstance(generator, UNet):
        return []

    @jax.jit
    def without(variables: PyTree, qdct: Float[Array, "n h w 1"], silent: Int[Array, ""]
                ) -> Float[Array, "n h w 1"]:
        def silence(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
                    context: nn.module.InterceptorContext) -> Any:
            result = call(*args, **kwargs)
            if isinstance(context.module, DoubleConv) and context.method_name == "__call__":
                return jnp.where(silent == STAGES.index(str(context.module.name)), 0, result)
            return result

        with nn.intercept_methods(silence):
            return jnp.asarray(generator.apply(variables, qdct, train=False))

    whole = np.asarray(without(variables, qdct, jnp.int32(-1)))
    least = _UNCHANGED * np.abs(whole - np.asarray(qdct)).max()
    changes = (np.abs(np.asarray(without(variables, qdct, jnp.int32(stage))) - whole).max()
               for stage in range(len(STAGES)))
    return [stage for stage, change in zip(STAGES, changes, strict=True) if change <= least]
