"""Gradients, seen through the public step."""

import jax
import jax.numpy as jnp
import optax


def recording(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer, whose state also holds the last gradients."""
    def init(params):
        return optimizer.init(params), jax.tree.map(jnp.zeros_like, params)

    def update(gradients, state, params=None):
        updates, inner = optimizer.update(gradients, state[0], params)
        return updates, (inner, gradients)

    return optax.GradientTransformation(init, update)
