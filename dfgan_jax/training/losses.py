"""The losses of DFGAN: pure functions of normalised images and of scores.

Images are (..., H, W, C), normalised HU; scores are those of a patch
discriminator, in (0, 1). Each function returns the mean over everything, a
scalar.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LossWeights(NamedTuple):
    """Weights of the generator's terms; the defaults are those of the slides.

    `image` and `difference` both weigh `intensity`: the two terms are equal in
    value, since (denoised − qdct) − (ndct − qdct) = denoised − ndct.
    """

    image: float = 1.0
    difference: float = 1.0
    gradient_image: float = 0.0
    gradient_difference: float = 0.0
    adversarial: float = 0.05


def intensity(denoised: jax.Array, ndct: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.mean(jnp.square(denoised - ndct))


def _absolute_forward_difference(images: jax.Array, axis: int) -> jax.Array:
    """|next − this| along an axis, with one zero beyond the last."""
    padding = [(0, 0)] * images.ndim
    padding[axis] = (0, 1)
    return jnp.abs(jnp.diff(jnp.pad(images, padding), axis=axis))


def gradient(denoised: jax.Array, ndct: jax.Array) -> jax.Array:
    """Mean absolute difference of the absolute image gradients.

    As the published code has it, the image is padded with one zero column on the
    right and one zero row at the bottom before the forward differences.
    """
    along_y, along_x = (
        jnp.abs(_absolute_forward_difference(ndct, axis)
                - _absolute_forward_difference(denoised, axis))
        for axis in (denoised.ndim - 3, denoised.ndim - 2))
    return jnp.mean(along_y + along_x)


def adversarial_generator(scores_denoised: jax.Array) -> jax.Array:
    """The generator's least-squares loss, ½(D(denoised) − 1)² (Mao et al., ICCV 2017)."""
    return jnp.mean(0.5 * jnp.square(scores_denoised - 1))


def adversarial_discriminator(scores_ndct: jax.Array, scores_denoised: jax.Array) -> jax.Array:
    """The discriminator's least-squares loss, ½(D(ndct) − 1)² + ½D(denoised)²."""
    return (jnp.mean(0.5 * jnp.square(scores_ndct - 1))
            + jnp.mean(0.5 * jnp.square(scores_denoised)))
