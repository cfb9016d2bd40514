"""The losses of DFGAN: pure functions of normalised images and of scores.

Images are (..., H, W, C), normalised HU; scores, in (0, 1), come from a patch
discriminator. Each function returns a scalar: the mean over all elements, or over slices of
`log_squared`.
"""

import dataclasses
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfgan_jax.scans import hounsfield
from dfgan_jax.scans.windows import SOFT_TISSUE
from dfgan_jax.support.checks import (
    check_above_zero,
    check_finite,
    check_not_negative,
    check_one_of,
)
from dfgan_jax.support.errors import InputError

Images: TypeAlias = Float[Array | np.ndarray, "*n h w c"]
Scores: TypeAlias = Float[Array | np.ndarray, "..."]

Intensity = Literal["squared", "charbonnier", "log_squared"]
"""`squared`: the mean squared error. `charbonnier`: the mean of √(error² + `CHARBONNIER_EPSILON`²)
(Charbonnier et al., ICIP 1994). `log_squared`: the mean over slices of the logarithm of each
slice's mean squared error, as in NAFNet (Chen et al., ECCV 2022)."""

CHARBONNIER_EPSILON = 1e-3

LOWEST_SQUARED_ERROR = 1e-8
"""Added to a slice's mean squared error before its logarithm: 0.05 HU, squared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Weights and forms of the terms; the defaults are those of the slides.

    Attributes:
      image: weight of `intensity` of the image.
      difference: weight of `intensity` of the difference map. The two terms are equal in
        value, since (denoised − qdct) − (ndct − qdct) = denoised − ndct.
      gradient_image: weight of `gradient` of the image.
      gradient_difference: weight of `gradient` of the difference map.
      adversarial: weight of the generator's adversarial term.
      intensity: see `Intensity`.
      soft_tissue: weight of pixels whose normal dose is in `windows.SOFT_TISSUE`; all others have
        weight 1.
      anatomy: weight of the anatomy in each slice's difference map (`anatomy.removed_anatomy`),
        which is added to its mean squared error.
      adversarial_from_step: number of updates before the adversarial term is added. The
        discriminators train from the first update.
      real_label: target score of the normal dose for the discriminators: 1, or a little
        less (one-sided label smoothing; Salimans et al., NeurIPS 2016).
      gradient_penalty: weight γ of R1, ½γ‖∇D(real)‖² (Mescheder et al., ICML 2018).

    Raises:
      InputError: a form is unknown, or a number out of range.
    """

    image: float = 1.0
    difference: float = 1.0
    gradient_image: float = 0.0
    gradient_difference: float = 0.0
    adversarial: float = 0.05
    intensity: Intensity = "squared"
    soft_tissue: float = 1.0
    anatomy: float = 0.0
    adversarial_from_step: int = 0
    real_label: float = 1.0
    gradient_penalty: float = 0.0

    def __post_init__(self) -> None:
        check_one_of(self, "intensity", get_args(Intensity))
        check_above_zero(self, "soft_tissue", "real_label")
        weights = ("image", "difference", "gradient_image", "gradient_difference", "adversarial",
                   "gradient_penalty", "anatomy")
        check_not_negative(self, *weights, "adversarial_from_step")
        check_finite(self, *weights, "soft_tissue", "real_label")
        # Without these, nothing says which image is to be returned.
        if not any(getattr(self, name) for name in weights[:4]):
            raise InputError("image, difference, gradient_image and gradient_difference are 0; "
                             "expected more than 0 for one of them")
        if self.anatomy and not (self.image or self.difference):
            raise InputError(f"anatomy is {self.anatomy:g}, and image and difference are 0; "
                             "expected more than 0 for one of them, since anatomy is a part of "
                             "their error")
        if self.anatomy and self.intensity == "charbonnier":
            raise InputError(f"anatomy is {self.anatomy:g}, and intensity is 'charbonnier'; "
                             "expected 'squared' or 'log_squared', to which a square can be added")

    def check_length(self, total_steps: int) -> None:
        """Checks that a run of `total_steps` updates reaches the adversarial term.

        Raises:
          InputError: it does not.
        """
        if self.adversarial_from_step >= total_steps:
            raise InputError(f"adversarial_from_step is {self.adversarial_from_step}; expected "
                             f"fewer than the {total_steps} updates of the run")


def intensity(denoised: Images, ndct: Images, *, form: Intensity = "squared",
              soft_tissue: float = 1.0,
              added: Float[Array | np.ndarray, "*n"] | float = 0.0) -> Float[Array, ""]:
    """The error of the denoised images, pixel by pixel.

    Args:
      denoised: (..., H, W, 1), normalised HU.
      ndct: the same shape.
      form: see `Intensity`.
      soft_tissue: see `LossOptions`; weights are divided by their mean.
      added: (...,), added to each slice's mean error.
    """
    error = jnp.square(denoised - ndct)
    if form == "charbonnier":
        error = jnp.sqrt(error + CHARBONNIER_EPSILON**2)
    if soft_tissue != 1:
        low, high = (hounsfield.normalise(limit) for limit in SOFT_TISSUE)
        weight = jnp.where((ndct >= low) & (ndct <= high), soft_tissue, 1.0)
        error *= weight / weight.mean((-3, -2, -1), keepdims=True)
    if form == "log_squared":
        return jnp.mean(jnp.log(error.mean((-3, -2, -1)) + added + LOWEST_SQUARED_ERROR))
    return jnp.mean(error) + jnp.mean(added)


def _absolute_forward_difference(images: Images, axis: int) -> jax.Array:
    """|next − this| along an axis, padded by one zero at its end."""
    padding = [(0, 0)] * images.ndim
    padding[axis] = (0, 1)
    return jnp.abs(jnp.diff(jnp.pad(images, padding), axis=axis))


def gradient(denoised: Images, ndct: Images) -> Float[Array, ""]:
    """Mean absolute difference of the absolute image gradients.

    As in the published code, the image is padded with one zero column on the
    right and one zero row at the bottom before the forward differences.
    """
    along_y, along_x = (
        jnp.abs(_absolute_forward_difference(ndct, axis)
                - _absolute_forward_difference(denoised, axis))
        for axis in (denoised.ndim - 3, denoised.ndim - 2))
    return jnp.mean(along_y + along_x)


def adversarial_generator(scores_denoised: Scores) -> Float[Array, ""]:
    """The generator's least-squares loss, ½(D(denoised) − 1)² (Mao et al., ICCV 2017)."""
    return jnp.mean(0.5 * jnp.square(scores_denoised - 1))


def adversarial_discriminator(scores_ndct: Scores, scores_denoised: Scores, *,
                              real_label: float = 1.0) -> Float[Array, ""]:
    """The discriminator's least-squares loss, ½(D(ndct) − `real_label`)² + ½D(denoised)²."""
    return (jnp.mean(0.5 * jnp.square(scores_ndct - real_label))
            + jnp.mean(0.5 * jnp.square(scores_denoised)))
