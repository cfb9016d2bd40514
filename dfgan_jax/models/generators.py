"""The generators: each maps normalised quarter-dose slices to denoised ones of the same shape."""

from typing import Any

import jax
import jax.numpy as jnp

from dfgan_jax.errors import InputError
from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.models.unet import SIZE_MULTIPLE, UNet

Generator = UNet | REDCNN

ARCHITECTURES = ("unet", "redcnn")

MIN_SIZE = 2 * SIZE_MULTIPLE
"""Smallest height and width, multiples of `SIZE_MULTIPLE`, that every generator takes."""


def build_generator(*, width: int, architecture: str = "unet", attention: bool = False,
                    dtype: Any = None) -> Generator:
    """Makes the module that a configuration's `generator` describes.

    Args:
      width: channels of the U-Net's first stage, or of RED-CNN's layers.
      architecture: one of `ARCHITECTURES`; configurations from before it was a choice name
        none, and mean the U-Net.
      attention: CBAM, in the U-Net.
      dtype: dtype of the computation.

    Raises:
      InputError: there is no such generator.
    """
    if architecture == "unet":
        return UNet(width=width, attention=attention, dtype=dtype)
    if architecture == "redcnn" and not attention:
        return REDCNN(width=width, dtype=dtype)
    raise InputError(f"a generator of architecture {architecture!r} with attention {attention!r}: "
                     "expected unet, or redcnn without attention")


def initial_variables(generator: Generator, key: jax.Array) -> dict[str, Any]:
    """Random weights: {"params": …, "batch_stats": …}, which do not depend on the image's size.

    `batch_stats` is empty where a generator normalises nothing.
    """
    image = jnp.zeros((1, MIN_SIZE, MIN_SIZE, 1))
    return {"batch_stats": {}, **generator.init(key, image, train=False)}
