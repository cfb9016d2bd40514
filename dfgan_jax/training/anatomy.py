"""The anatomy in the difference map, as a loss: `evaluation.structure` in JAX.

Images are (..., H, W, 1), normalised HU.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Float

from dfgan_jax.evaluation.structure import MAD_TO_STD, SCALES, THRESHOLD
from dfgan_jax.scans import hounsfield
from dfgan_jax.training.losses import Images

_LOWEST_BODY_HU = -900.0
"""Of the coarsest level: lung is above, air around the body below. A crop need not hold the region
that `tissues.body_mask` finds."""

_RIDGE = 1e-6
"""Share of the bands' power that is added to the equations of the fit: a band of a slice without
anatomy is 0."""


def removed_anatomy(denoised: Images, ndct: Images, qdct: Images) -> Float[Array, "*n"]:
    """The mean square of the anatomy in each slice's difference map.

    The map is fitted with the certain anatomy of the normal dose at three scales; see
    `evaluation.structure`. The gradient passes through the map alone.

    Args:
      denoised: (..., H, W, 1), normalised HU.
      ndct: the same shape.
      qdct: the same shape.

    Returns:
      (...,), squares of normalised HU; the mean is over the body.
    """
    body, bands = _certain_anatomy(jnp.asarray(ndct[..., 0]))
    pixels = jnp.maximum(body.sum((-2, -1)), 1)
    removed = _centred(jnp.asarray(denoised - qdct)[..., 0], body)
    products = jnp.einsum("...hwi,...hwj->...ij", bands, bands, precision="highest")
    shared = jnp.einsum("...hwi,...hw->...i", bands, removed, precision="highest")
    power = jnp.trace(products, axis1=-2, axis2=-1)[..., None, None]
    ridge = _RIDGE * (power + 1) * jnp.eye(len(SCALES))
    factors = jnp.linalg.solve(products + ridge, shared[..., None])[..., 0]
    power_of_fit: Array = (factors * shared).sum(-1) / pixels
    return power_of_fit


def _certain_anatomy(ndct: Float[Array, "*n h w"]) -> tuple[Array, Array]:
    """The body, (..., H, W) bool, and its bands, (..., H, W, 3), each with a mean of 0."""
    levels = [ndct, *(_blurred(ndct, scale) for scale in SCALES)]
    body = levels[-1] > hounsfield.normalise(_LOWEST_BODY_HU)
    middle = body.sum((-2, -1)) // 2
    bands = []
    for finer, coarser in itertools.pairwise(levels):
        band = finer - coarser
        magnitude = jnp.abs(band)
        ordered = jnp.sort(jnp.where(body, magnitude, jnp.inf).reshape(*middle.shape, -1))
        median = jnp.take_along_axis(ordered, middle[..., None], axis=-1)[..., None]
        is_certain = magnitude > THRESHOLD * MAD_TO_STD * median
        bands.append(_centred(jnp.where(is_certain, band, 0), body))
    return body, jax.lax.stop_gradient(jnp.stack(bands, axis=-1))


def _centred(images: Float[Array, "*n h w"], body: Array) -> Array:
    """Images less their mean in the body, and 0 outside of it."""
    pixels = jnp.maximum(body.sum((-2, -1), keepdims=True), 1)
    mean = jnp.where(body, images, 0).sum((-2, -1), keepdims=True) / pixels
    return jnp.where(body, images - mean, 0)


def _blurred(images: Float[Array, "*n h w"], scale: float) -> Array:
    """Convolution with a Gaussian of σ = `scale` pixels, mirrored at the border."""
    vertical, horizontal = (
        scipy.ndimage.gaussian_filter1d(np.eye(length, dtype=np.float32), scale, axis=0)
        for length in images.shape[-2:])
    return jnp.einsum("ij,...jk,lk->...il", vertical, images, horizontal, precision="highest")
